"""Tasks run once each and after what they need, a lost worker's task again; an error ends all of them."""

import random

import pytest

from compressor.errors import RunError
from compressor.pipeline.scheduler import ATTEMPTS, Lost, Task, run_tasks


class Inline:
    """Runs calls at once, and gives back those of a round in random order."""

    def __init__(self, slots, lose=()):
        self.slots, self.lose, self.stopped, self.most = slots, list(lose), 0, 0
        self.outcomes, self.began = {}, []

    def submit(self, function, arguments):
        handle = object()
        self.began.append(arguments[0])
        try:
            if arguments[0] in self.lose:
                self.lose.remove(arguments[0])
                raise Lost("killed by signal 9")
            self.outcomes[handle] = "done", function(*arguments)
        except Exception as error:
            self.outcomes[handle] = "raised", error
        return handle

    def ended(self, handles, seconds):
        self.most = max(self.most, len(handles))
        return random.Random(len(handles)).sample(handles, 1)

    def result(self, handle):
        kind, value = self.outcomes.pop(handle)
        if kind == "raised":
            raise value
        return value

    def stop(self):
        self.stopped += 1


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_every_task_runs_once_and_after_what_it_needs(slots):
    tasks = [Task(str(number), (number,), tuple(map(str, range(number % 3, number, 3)))) for number in range(30)]
    executor, seen = Inline(slots), []
    results = run_tasks(lambda number: 10 * number, tasks, executor, lambda states: seen.append(dict(states)))
    assert results == {str(number): 10 * number for number in range(30)}
    assert sorted(executor.began) == list(range(30))
    assert all(
        executor.began.index(int(name)) < executor.began.index(number)
        for number in range(30)
        for name in tasks[number].after
    )
    assert executor.most <= slots
    assert executor.stopped == 1
    assert set(seen[-1].values()) == {"done"}
    assert all(list(states.values()).count("running") <= slots for states in seen)


def test_the_first_ready_task_goes_first():
    executor = Inline(1)
    run_tasks(lambda number: number, [Task(str(number), (number,)) for number in range(6)], executor)
    assert executor.began == list(range(6))


def test_a_task_whose_worker_is_lost_runs_again():
    executor = Inline(2, lose=[1] * (ATTEMPTS - 1))
    tasks = [Task("a", (0,)), Task("b", (1,), ("a",)), Task("c", (2,), ("b",))]
    assert run_tasks(lambda number: number, tasks, executor) == {"a": 0, "b": 1, "c": 2}
    assert executor.began.count(1) == ATTEMPTS


def test_a_task_that_is_lost_again_and_again_is_named():
    executor = Inline(2, lose=[1] * ATTEMPTS)
    with pytest.raises(RunError, match=rf"b: its worker ended {ATTEMPTS} times \(killed by signal 9\)"):
        run_tasks(lambda number: number, [Task("a", (0,)), Task("b", (1,))], executor)
    assert executor.stopped == 1


def test_an_error_ends_all():
    def call(number):
        if number == 2:
            raise ValueError("no 2")
        return number

    executor = Inline(1)
    with pytest.raises(ValueError, match="no 2"):
        run_tasks(call, [Task(str(number), (number,)) for number in range(9)], executor)
    assert executor.began == [0, 1, 2]
    assert executor.stopped == 1


@pytest.mark.parametrize("tasks", [[Task("a", ()), Task("a", ())], [Task("a", (), ("b",)), Task("b", ())]])
def test_tasks_without_an_order_are_refused(tasks):
    with pytest.raises(RunError, match="is there twice, or is to come after"):
        run_tasks(print, tasks, Inline(1))
