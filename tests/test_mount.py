"""The command group inside another click application."""

import runpy
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner
from small import small_recipe

from compressor.cli.root import main

pytestmark = pytest.mark.usefixtures("quick_export", "no_figures")  # which have tests of their own


@pytest.fixture
def host():
    @click.group()
    def app():
        """Someone else's tool."""

    app.add_command(main, "compress")
    return app


def test_commands_and_help(host):
    listed = CliRunner().invoke(host, ["compress", "--help"])
    assert listed.exit_code == 0
    assert "sweep" in listed.output
    assert CliRunner().invoke(host, ["compress", "recipes", "list"]).output.startswith("cifar10-vgg11")


def test_errors_keep_their_sentence_and_exit_code(host, tmp_path):
    result = CliRunner().invoke(host, ["compress", "run", str(tmp_path / "no.yaml"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1
    assert "no.yaml" in result.stderr


def test_a_host_that_handles_errors_itself_gets_them(host, tmp_path):
    with pytest.raises(click.ClickException, match=r"no\.yaml") as caught:
        host.main(["compress", "inspect", str(tmp_path / "no.yaml")], standalone_mode=False)
    assert caught.value.exit_code == 2


def test_the_example_of_a_mounted_command_line(tmp_path):
    example = Path(__file__).parent.parent / "examples" / "mounted_cli.py"
    tool = runpy.run_path(str(example))["tool"]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(small_recipe(budget={"params": "0.5x"}, baselines=[])))
    done = CliRunner().invoke(tool, ["compress", "run", str(recipe), "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    told = CliRunner().invoke(tool, ["release", str(tmp_path / "out")])
    assert told.exit_code == 0, told.output
    assert f"releasing {tmp_path / 'out' / 'model.onnx'}" in told.output
    assert "images" in told.output
    wrong = CliRunner().invoke(tool, ["release", str(tmp_path / "nowhere")])
    assert wrong.exit_code == 2
    assert "nowhere" in wrong.stderr


def test_commands_are_listed_in_the_order_of_the_work():
    listed = main.list_commands(click.Context(main))
    assert set(listed) == set(main.commands)
    assert listed[:3] == ["recipes", "explain", "run"]
    assert listed.index("search") < listed.index("train") < listed.index("export") < listed.index("report")
