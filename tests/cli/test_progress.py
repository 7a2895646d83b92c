"""What a run says while it goes on: the stage, the time used, and a guess of what is left."""

import io
import time

import pytest
from rich.console import Console as RichConsole

from compressor.cli import progress
from compressor.cli.progress import Console, Pace
from compressor.pipeline.stages import STAGES


def test_the_stages_are_numbered_as_they_come():
    assert list(STAGES) == list(progress._STAGES)


def test_what_is_left_follows_from_how_it_went():
    pace = Pace()
    assert pace.left(0.5, 100.0) is None  # it goes on where it was: half of it took none of this time
    assert pace.left(0.505, 101.0) is None
    assert pace.left(0.6, 120.0) == pytest.approx(80.0)
    assert pace.left(0.8, 160.0) == pytest.approx(40.0)
    assert pace.left(1.0, 200.0) == 0


@pytest.mark.parametrize("other", [0.1, None])
def test_other_work_has_a_pace_of_its_own(other):
    pace = Pace()
    pace.left(0.0, 0.0)
    assert pace.left(0.5, 10.0) == pytest.approx(10.0)
    assert pace.left(other, 1000.0) is None
    assert pace.left(0.2, 1010.0) in (None, pytest.approx(80.0))


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        self.now += 10.0
        return self.now


def shown(monkeypatch, terminal, *steps):
    """What is written in all, a step every ten seconds."""
    told = io.StringIO()
    monkeypatch.setattr(
        progress, "RichConsole", lambda **_: RichConsole(file=told, force_terminal=terminal, width=100, highlight=False)
    )
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    with Console() as console:
        for stage, text, share in steps:
            console.progress(stage, text, share)
            if terminal:
                time.sleep(0.15)
    return told.getvalue()


def test_a_line_says_which_stage_of_five_and_how_long(monkeypatch):
    lines = shown(
        monkeypatch,
        False,
        ("search", "[bold]looking", None),
        ("train", "training result: epoch 1.0/4", 0.25),
        ("train", "training result: epoch 2.0/4", 0.5),
        ("elsewhere", "something", None),
    ).splitlines()
    assert lines == [
        "  1/5 search  [bold]looking  (10 s used)",
        "  2/5 train   training result: epoch 1.0/4  (20 s used)",
        "  2/5 train   training result: epoch 2.0/4  (30 s used, about 20 s left)",
        "  elsewhere   something  (40 s used)",
    ]


def test_a_terminal_has_it_in_one_line(monkeypatch):
    text = shown(monkeypatch, True, ("train", "epoch [1]", 0.25), ("train", "epoch [2]", 0.5))
    assert "2/5 train" in text
    assert "about 20 s left" in text
    assert "epoch [2]" in text
