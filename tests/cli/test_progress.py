"""What a run says while it goes on: the stage, the time used, and a guess of what is left."""

import io
import time

import pytest

from compressor.cli import progress
from compressor.cli.progress import Console, Pace
from compressor.pipeline.compare import JobState
from compressor.pipeline.stages import STAGES

TERMINAL = progress._Terminal


def test_the_stages_are_numbered_as_they_come():
    assert list(STAGES) == list(progress._STAGES)


def test_what_is_left_follows_from_how_it_went():
    pace = Pace()
    assert pace.left("one", 0.5, 100.0) is None  # it goes on where it was: half of it took none of this time
    assert pace.left("one", 0.505, 101.0) is None
    assert pace.left("one", 0.6, 120.0) == pytest.approx(80.0)
    assert pace.left("one", 0.8, 160.0) == pytest.approx(40.0)
    assert pace.left("one", 1.0, 200.0) == 0


@pytest.mark.parametrize("other", [0.1, None])
def test_other_work_has_a_pace_of_its_own(other):
    pace = Pace()
    pace.left("one", 0.0, 0.0)
    assert pace.left("one", 0.5, 10.0) == pytest.approx(10.0)
    assert pace.left("one", other, 1000.0) is None
    assert pace.left("one", 0.2, 1010.0) in (None, pytest.approx(80.0))


def test_coarse_steps_do_not_make_it_longer():
    pace = Pace()
    pace.left("runs", 0.0, 0.0)
    assert pace.left("runs", 0.25, 100.0) == pytest.approx(300.0)
    assert pace.left("runs", 0.25, 190.0) == pytest.approx(210.0)
    assert pace.left("runs", 0.25, 900.0) == 0


def test_another_name_is_other_work():
    pace = Pace()
    pace.left("one", 0.3, 0.0)
    assert pace.left("two", 0.4, 6.0) is None
    assert pace.left("two", 0.5, 16.0) == pytest.approx(50.0)


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
        progress, "_Terminal", lambda **_: TERMINAL(file=told, force_terminal=terminal, width=80, highlight=False)
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
        ("search", "race: a: epoch 1.0/9", 0.0),
        ("search", "race: a: epoch 2.0/9", 0.5),
        ("train", "training result: epoch 1.0/4", 0.25),
        ("train", "training result: epoch 2.0/4", 0.5),
        ("elsewhere", "something", None),
    ).splitlines()
    assert lines == [
        "  1/5 search  [bold]looking  (10 s used)",
        "  1/5 search  race: a: epoch 1.0/9  (20 s used)",
        "  1/5 search  race: a: epoch 2.0/9  (30 s used, about 10 s left of this)",
        "  2/5 train   training result: epoch 1.0/4  (40 s used)",
        "  2/5 train   training result: epoch 2.0/4  (50 s used, about 20 s left)",
        "  elsewhere   something  (60 s used)",
    ]


def test_a_terminal_has_it_in_one_line(monkeypatch):
    long = "training result: epoch [2]/300  loss 0.234  validation 91.20 %"
    text = shown(monkeypatch, True, ("train", "epoch [1]", 0.25), ("train", long, 0.5))
    assert "2/5 train" in text
    assert "20 s used, about 20 s left" in text
    assert "training result: epoch [2]" in text


class Gone(io.StringIO):
    """A terminal that is closed, or a pipe whose reader goes, after some writes."""

    def __init__(self, writes, error):
        super().__init__()
        self._left, self._error = writes, error

    def write(self, text):
        self._left -= 1
        if self._left < 0:
            raise self._error
        return super().write(text)


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("writes", [0, 3])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), BrokenPipeError(32, "Broken pipe")])
def test_a_terminal_that_is_closed_ends_nothing(monkeypatch, terminal, writes, error):
    told = Gone(writes, error)
    monkeypatch.setattr(
        progress, "_Terminal", lambda **_: TERMINAL(file=told, force_terminal=terminal, width=80, highlight=False)
    )
    monkeypatch.setattr(progress, "time", Clock())
    runs = [JobState(f"run {number}", "running") for number in range(3)]
    with Console() as console:
        for epoch in range(9):
            console.progress("train", f"epoch {epoch}", epoch / 9)
            console.table(runs)
    assert told.getvalue().count("epoch") <= writes
