import subprocess
import sys

import pytest

from compressor import listing
from compressor.models import ZOO


def test_every_network_is_listed_in_order():
    assert list(listing.rows())[: len(ZOO)] == list(ZOO)


@pytest.mark.parametrize("name", ZOO)
def test_what_is_listed_is_what_is_counted(name):
    assert listing.rows()[name] == listing.row(name, ZOO[name])


def test_listing_needs_no_torch():
    code = "import sys; from compressor import listing; listing.rows(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
