"""Which source a name finds, other packages' sources, and values that no source can serve."""

import textwrap

import pytest

from compressor.data import load_data, sources
from compressor.errors import DataError


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package that registers a source, in the form in which pip would leave it."""

    def install_one(package, entry_point):
        (tmp_path / f"{package}.py").write_text(
            textwrap.dedent("""
            from compressor.data.digits import load

            def not_a_source(config, seed, device):
                return [config, seed, device]
            """)
        )
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{sources.GROUP}]\n{entry_point}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install_one


def test_an_unknown_name_is_told_the_valid_ones(make_config):
    with pytest.raises(DataError, match=r"data.name: 'digit' is not one of cifar10, .*did you mean digits\?"):
        load_data(make_config("digit"), seed=0)


def test_a_third_party_source(make_config, install):
    install("data_numerals", "numerals = data_numerals:load")
    assert load_data(make_config("numerals"), seed=0).describe()["name"] == "numerals"
    with pytest.raises(DataError, match=r"idx, imagefolder, numerals, ptb, shapes, voc"):
        load_data(make_config("nothing like it"), seed=0)


def test_a_third_party_source_that_gives_something_else(make_config, install):
    install("data_list", "numerals = data_list:not_a_source")
    with pytest.raises(DataError, match="'numerals' gave a list instead of a DataSet"):
        load_data(make_config("numerals"), seed=0)


def test_a_built_in_name_taken_again(make_config, install):
    install("data_again", "digits = data_again:load")
    with pytest.raises(DataError, match="'digits' of data_again:load has the name of a built-in one"):
        load_data(make_config("digits"), seed=0)


def test_a_name_given_twice(make_config, install):
    install("data_one", "numerals = data_one:load")
    install("data_two", "numerals = data_two:load")
    with pytest.raises(DataError, match=r"'numerals' is given twice: data_(one|two):load and data_(one|two):load"):
        load_data(make_config("idx"), seed=0)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("channels", 2, "data.channels: 2 is not one of 1, 3"),
        ("image_size", 0, "data.image_size: 0 is not a number of at least 1"),
        ("limit", 0, "data.limit: 0 is not a number of at least 1"),
    ],
)
def test_values_that_no_source_can_serve(make_config, field, value, message):
    with pytest.raises(DataError, match=message):
        load_data(make_config("digits", **{field: value}), seed=0)


@pytest.mark.parametrize("name", ["idx", "cifar10", "cifar100", "imagefolder", "voc", "ptb"])
def test_a_path_is_needed(make_config, name):
    with pytest.raises(DataError, match=f"data.path: the data set '{name}' needs the folder"):
        load_data(make_config(name), seed=0)


@pytest.mark.parametrize("name", ["idx", "imagefolder", "voc", "ptb"])
def test_a_path_that_is_not_there(make_config, tmp_path, name):
    missing = str(tmp_path / "missing")
    with pytest.raises(DataError, match=f"data.path: '{missing}' is not a folder"):
        load_data(make_config(name, path=missing), seed=0)
