import pytest

from compressor.errors import CompressorError
from compressor.plugins import with_plugins

GROUP = "compressor.things"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package without code whose entry points name objects of the standard library."""

    def install_one(package, *points):
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *points]))
        monkeypatch.syspath_prepend(tmp_path)

    return install_one


def test_built_in_objects_stay_and_others_are_added(install):
    builtin = {"tau": 6.28}
    assert with_plugins(GROUP, builtin) == builtin
    install("constants", "pi = math:pi")
    assert with_plugins(GROUP, builtin) == {"tau": 6.28, "pi": pytest.approx(3.14159, abs=1e-5)}
    assert builtin == {"tau": 6.28}
    assert with_plugins("compressor.others", builtin) == builtin


def test_a_name_taken_twice_is_an_error(install):
    install("one", "pi = math:pi")
    with pytest.raises(CompressorError, match=r"entry point compressor.things: the name 'pi' \(math:pi\) is already"):
        with_plugins(GROUP, {"pi": 3})
    install("two", "pi = cmath:pi")
    with pytest.raises(CompressorError, match=r"the name 'pi' \(c?math:pi\) is already taken"):
        with_plugins(GROUP, {})


@pytest.mark.parametrize("point", ["pi = math:pie", "pi = maths_that_is_absent:pi", "pi = maths_that_fails:pi"])
def test_an_object_that_cannot_be_imported(install, point, tmp_path, monkeypatch):
    (tmp_path / "maths_that_fails.py").write_text("raise RuntimeError('needs a licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    install("broken", point)
    with pytest.raises(CompressorError, match=r"entry point compressor.things: 'pi' \(.*\) cannot be loaded: "):
        with_plugins(GROUP, {})
