import importlib
import subprocess
import sys

import pytest

from compressor.cli import listing
from compressor.models import ZOO, referenced_source


def test_every_network_is_listed_in_order():
    assert list(listing.rows())[: len(ZOO)] == list(ZOO)


@pytest.mark.parametrize("name", ZOO)
def test_what_is_listed_is_what_is_counted(name):
    assert listing.rows()[name] == listing.row(name, ZOO[name])


def test_listing_needs_no_torch():
    code = "import sys; from compressor.cli import listing; listing.rows(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_width_groups_are_kept_until_what_they_follow_from_changes(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    code = "from torch import nn\n\n\ndef network(num_classes):\n    return nn.Sequential({})\n"
    layers = "nn.Conv2d({0}, {1}, 3), nn.Flatten(), nn.Linear({1} * 36, num_classes)"

    def listed(width):
        (tmp_path / "listed_net.py").write_text(code.format(layers.format(3, width)))
        sys.modules.pop("listed_net", None)
        referenced_anew()
        return listing.width_groups("listed_net:network", (3, 8, 8), 10, {})["groups"]

    assert listed(5) == [["0", 5, 1]]
    (kept,) = (tmp_path / "cache" / "widths").iterdir()
    kept.write_text(kept.read_text().replace("5", "6"))
    assert listed(5) == [["0", 6, 1]]  # from the file
    kept.write_text("{")
    assert listed(5) == [["0", 5, 1]]
    assert listed(17) == [["0", 17, 1]]
    assert len(list((tmp_path / "cache" / "widths").iterdir())) == 2
    monkeypatch.setenv("COMPRESSOR_CACHE", str(kept))
    assert listed(19) == [["0", 19, 1]]
    assert "cannot be written" in capsys.readouterr().err


def referenced_anew():
    """As if in a new process."""
    referenced_source._planned.cache_clear()
    importlib.invalidate_caches()
