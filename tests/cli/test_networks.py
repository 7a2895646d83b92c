"""What `models`, `widths` and `completion` print."""

import subprocess
import sys

import pytest
from click.testing import CliRunner

from compressor.cli.networks import table
from compressor.cli.root import main
from compressor.models import ZOO


def printed(*arguments):
    found = CliRunner().invoke(main, list(arguments))
    assert found.exit_code == 0, found.output
    return found.output.splitlines()


def test_networks_fit_a_terminal_and_each_has_its_numbers():
    lines = printed("models")
    assert max(map(len, lines)) <= 80
    assert {line.split()[0] for line in lines} >= set(ZOO)
    (vgg,) = [line.split() for line in lines if line.startswith("vgg11_bn ")]
    assert vgg[1:3] == ["9,231,114", "152,769,536"]


def test_widths_fit_a_terminal():
    lines = printed("widths", "torchvision:mobilenet_v3_small")
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:2] == ["classifier.0", "1,024"] for line in lines)
    assert lines[-1] == "fixed: classifier.3: its width is the network's output"


def test_a_name_that_is_too_long_has_a_line_of_its_own():
    name = "a." * 30
    lines = table(("group", "channels", "width"), [(name, "7", "in steps of 1"), ("b", "1,024", "")], name=12)
    assert lines[1] == name
    assert lines[2].split() == ["7", "in", "steps", "of", "1"]
    assert lines[3].split() == ["b", "1,024"]
    assert [line.index(number) + len(number) for line, number in ((lines[2], "7"), (lines[3], "1,024"))] == [22, 22]


def test_a_text_goes_on_below_itself():
    told = "several words that one line has not " * 5
    lines = table(("name", "n", "text"), [("one", "1", told)], name=20)
    assert max(map(len, lines)) <= 80
    assert " ".join(lines[1:]).split() == ["one", "1", *told.split()]
    assert {len(line) - len(line.lstrip()) for line in lines[2:]} == {lines[0].index("text")}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script_that_asks_us(shell):
    assert any("_COMPRESSOR_COMPLETE" in line and shell in line for line in printed("completion", shell))


def test_a_shell_is_told_commands_networks_and_files():
    def completed(words):
        given = {"_COMPRESSOR_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        code = "import sys; from compressor.cli.root import main; main(prog_name='compressor')"
        done = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    assert completed("compressor wi") == ["plain,widths"]
    assert completed("compressor widths vgg11") == ["file,vgg11", "plain,vgg11_bn"]
    assert completed("compressor run rec") == ["file,rec"]
    assert "plain,--budget" in completed("compressor shrink --b")
