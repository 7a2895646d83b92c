import importlib
import subprocess
import sys

import pytest

from compressor.cli import listing
from compressor.errors import RunError
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
    torchvision = "torchvision:squeezenet1_1"

    def listed():
        referenced_source._planned.cache_clear()
        return listing.width_groups(torchvision, (3, 64, 64), 10, {})["groups"]

    found = listed()
    assert found[0] == ["features.0", 64, 1]
    (kept,) = (tmp_path / "cache" / "widths").iterdir()
    kept.write_text(kept.read_text().replace("64", "65"))
    assert listed()[0] == ["features.0", 65, 1]  # from the file
    kept.write_text("{")
    assert listed() == found
    kept.unlink()
    monkeypatch.setattr(listing, "version", lambda library: "another")
    assert listed() == found
    (other,) = (tmp_path / "cache" / "widths").iterdir()
    assert other.name != kept.name
    monkeypatch.setenv("COMPRESSOR_CACHE", str(other))
    assert listed() == found
    assert "width groups are not kept" in capsys.readouterr().err
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "full"))
    monkeypatch.setattr("compressor.files.write_json", full_disk)
    assert listed() == found
    assert "No space left" in capsys.readouterr().err


def full_disk(path, value):
    raise RunError(f"{path}: No space left on device")


def test_code_of_the_users_is_looked_at_each_time(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    code = "from torch import nn\n\n\ndef network(num_classes):\n    return nn.Sequential({})\n"
    layers = "nn.Conv2d({0}, {1}, 3), nn.Flatten(), nn.Linear({1} * 36, num_classes)"

    def listed(width):
        (tmp_path / "listed_net.py").write_text(code.format(layers.format(3, width)))
        sys.modules.pop("listed_net", None)
        referenced_source._planned.cache_clear()
        importlib.invalidate_caches()
        return listing.width_groups("listed_net:network", (3, 8, 8), 10, {})["groups"]

    assert [listed(width) for width in (5, 17)] == [[["0", 5, 1]], [["0", 17, 1]]]
    assert not (tmp_path / "cache" / "widths").exists()
