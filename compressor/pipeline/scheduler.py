"""Tasks that depend on one another, run on whatever runs them: each once, in an order that its dependencies allow.

A task whose worker is lost (killed, or its machine went away) is given to another one. The first error of a task ends
all: what has run lies in files, so that the same call goes on from there.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from compressor.errors import RunError

ATTEMPTS = 3
_POLL = 1.0  # seconds between two looks at what runs


class Lost(Exception):  # noqa: N818 - it is what its name says
    """The worker of a task ended before the task did; the text says how."""


class Executor(Protocol):
    """Runs calls side by side.

    Attributes:
        slots: calls at once; more are not submitted
    """

    slots: int

    def submit(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """Begin a call of an importable function with picklable arguments; returns a handle."""

    def ended(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """The handles of calls that ended, waiting at most so long for the first."""

    def result(self, handle: Any) -> Any:
        """What an ended call returned, or raise what it raised.

        Raises:
            Lost: its worker ended first
        """

    def stop(self) -> None:
        """End whatever runs, and give back what was taken; a second time does nothing."""


State = Literal["waiting", "running", "done"]


@dataclass(frozen=True)
class Task:
    """One call.

    Attributes:
        name: of the task, one of a kind
        arguments: of the function
        after: names of tasks that must have ended
    """

    name: str
    arguments: tuple[Any, ...]
    after: tuple[str, ...] = ()


def run_tasks(
    function: Callable[..., Any],
    tasks: Sequence[Task],
    executor: Executor,
    watch: Callable[[Mapping[str, State]], None] = lambda states: None,
) -> dict[str, Any]:
    """Call a function for every task; of those that can begin the first ones go first.

    Args:
        function: importable where tasks run
        tasks: with distinct names; `after` names earlier ones
        executor: stopped in the end, also by an error
        watch: called with the state of every task about once a second, and in the end

    Returns:
        {name: what the call returned}

    Raises:
        RunError: a task lost its worker `ATTEMPTS` times
        whatever a call raises
    """
    graph, results = _Graph(tasks), dict[str, Any]()
    running: dict[Any, Task] = {}
    lost: collections.Counter[str] = collections.Counter()
    looked = 0.0
    try:
        while len(results) < len(tasks):
            while graph.ready and len(running) < executor.slots:
                task = graph.begin()
                running[executor.submit(function, task.arguments)] = task
            if time.monotonic() - looked >= _POLL or not looked:
                watch(graph.states)
                looked = time.monotonic()
            for handle in executor.ended(list(running), _POLL):
                task = running.pop(handle)
                try:
                    results[task.name] = executor.result(handle)
                except Lost as error:
                    lost[task.name] += 1
                    if lost[task.name] == ATTEMPTS:
                        raise RunError(f"{task.name}: its worker ended {ATTEMPTS} times ({error})") from error
                    graph.again(task)
                except Exception as error:
                    error.add_note(f"In {task.name}.")
                    raise
                else:
                    graph.end(task)
        watch(graph.states)
    finally:
        executor.stop()
    return results


class _Graph:
    """What is left to do; every step takes as long as the task has dependents, however many tasks there are."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.states: dict[str, State] = {}
        self.ready: collections.deque[Task] = collections.deque()
        self._left: dict[str, int] = {}
        self._next: dict[str, list[Task]] = collections.defaultdict(list)
        for task in tasks:
            if task.name in self.states or not set(task.after) <= self.states.keys():
                raise RunError(f"{task.name}: is there twice, or is to come after a task that does not come before it")
            self.states[task.name] = "waiting"
            self._left[task.name] = len(set(task.after))
            for name in set(task.after):
                self._next[name].append(task)
            if not task.after:
                self.ready.append(task)

    def begin(self) -> Task:
        task = self.ready.popleft()
        self.states[task.name] = "running"
        return task

    def again(self, task: Task) -> None:
        self.states[task.name] = "waiting"
        self.ready.appendleft(task)

    def end(self, task: Task) -> None:
        self.states[task.name] = "done"
        for other in self._next[task.name]:
            self._left[other.name] -= 1
            if not self._left[other.name]:
                self.ready.append(other)
