"""The command group inside another click application."""

import click
import pytest
from click.testing import CliRunner

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
