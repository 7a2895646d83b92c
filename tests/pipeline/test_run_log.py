import json

import pytest

from compressor.errors import RunError
from compressor.pipeline import run_log
from compressor.pipeline.run_log import RunLog


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes when told to."""
    now = [100.0]
    monkeypatch.setattr(run_log.time, "monotonic", lambda: now[0])

    def go(seconds):
        now[0] += seconds

    return go


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_stage_leaves_its_begin_and_its_end(tmp_path, clock):
    log = RunLog(tmp_path / "new folder" / "log.jsonl")
    with log.timing("search"):
        clock(2.5)
    assert [(line["event"], line["stage"], line.get("seconds")) for line in lines(log.path)] == [
        ("begin", "search", None),
        ("end", "search", 2.5),
    ]
    assert all(line["time"].endswith("+00:00") for line in lines(log.path))
    assert {line["session"] for line in lines(log.path)} == {log.session}


def test_progress_is_noted_every_few_seconds_only(tmp_path, clock):
    log = RunLog(tmp_path / "log.jsonl")
    with log.timing("train"):
        for _ in range(20):
            clock(1)
            log.beat("epoch ×")
    seconds = [line["seconds"] for line in lines(log.path) if line["event"] == "progress"]
    assert seconds == [5, 10, 15, 20]


def test_an_error_is_logged_and_goes_on(tmp_path, clock):
    log = RunLog(tmp_path / "log.jsonl")

    @log.timing("train")
    def fail():
        clock(3)
        raise ZeroDivisionError("by zero")

    with pytest.raises(ZeroDivisionError):
        fail()
    assert lines(log.path)[-1]["error"] == "ZeroDivisionError: by zero"
    assert log.seconds() == {"train": 3.0}


def test_times_add_up_over_sessions_and_a_killed_one_counts_up_to_its_last_beat(tmp_path, clock):
    path = tmp_path / "log.jsonl"
    killed = RunLog(path)
    timing = killed.timing("train")
    timing.__enter__()
    clock(7)
    killed.beat("epoch 1")
    clock(2)  # lost: no line says so
    with path.open("a") as file:
        file.write('{"event": "progress", "sta')  # what a kill leaves
        file.write("\n")
    resumed = RunLog(path)
    with resumed.timing("search"):
        clock(1)
    with resumed.timing("train"):
        clock(10)
    assert resumed.seconds() == {"train": 17.0, "search": 1.0}


def test_a_stage_timed_twice_in_one_session(tmp_path, clock):
    log = RunLog(tmp_path / "log.jsonl")
    for _ in range(2):
        with log.timing("report"):
            clock(4)
    assert log.seconds()["report"] == pytest.approx(4)  # the second replaces the first: nothing was done twice


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/log.jsonl: cannot be written: "):
        RunLog(tmp_path / "file" / "log.jsonl").write("begin")


def test_lines_that_are_no_lines_of_ours_are_passed_over(tmp_path, clock):
    log = RunLog(tmp_path / "log.jsonl")
    with log.timing("search"):
        clock(2.5)
    with log.path.open("ab") as file:
        for line in (
            b"\x80\xff\xa5",
            b"3",
            b'{"seconds": "x"}',
            b'{"seconds": 1, "session": [], "stage": {}}',
            b"[" * 200_000,
        ):
            file.write(line + b"\n")
    with log.timing("train"):
        clock(1.5)
    assert log.seconds() == {"search": 2.5, "train": 1.5}
