"""What a scheduler of runs costs: 1,000 fake runs of some milliseconds on 20 processes of this machine.

    python experiments/sweep_scale.py

Half of the runs come after another one, as those do that share a search. The processes are started beforehand by runs
of their own. Overhead is the wall-clock time beyond what the runs sleep, divided by the number of runs; it holds the
pipes, the graph and the look at what is done. Takes ten seconds; the numbers go to experiments/sweep_scale.json.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import write_result

from compressor.pipeline.executors import LocalPool
from compressor.pipeline.scheduler import Task, run_tasks

HERE = Path(__file__).parent


class Kept(LocalPool):
    """Processes that stay when tasks are over, so that what comes next finds them started."""

    def stop(self) -> None:
        """Stay."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=20)
    parser.add_argument("--milliseconds", type=float, default=10.0, help="that a run sleeps")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    pool = Kept(arguments.workers, 1)
    try:
        run_tasks(time.sleep, [Task(str(place), (1.0,)) for place in range(arguments.workers)], pool)
        rows = [measured(arguments, pool) for _ in range(arguments.repeats)]
    finally:
        LocalPool.stop(pool)
    result = {**vars(arguments), "rows": rows}
    result["median_overhead_ms"] = statistics.median(row["overhead_ms"] for row in rows)
    print(result)
    write_result(HERE / "sweep_scale.json", result)


def measured(arguments: Any, pool: LocalPool) -> dict[str, float]:
    """One sweep."""
    pause, jobs = arguments.milliseconds / 1e3, arguments.jobs
    tasks = [Task(str(place), (pause,), (str(place - 1),) if place % 2 else ()) for place in range(jobs)]
    looks = 0

    def look(states: Any) -> None:
        nonlocal looks
        looks += 1

    seconds = timed(lambda: run_tasks(time.sleep, tasks, pool, look))
    ideal = pause * jobs / arguments.workers
    return {"seconds": seconds, "ideal_seconds": ideal, "overhead_ms": 1e3 * (seconds - ideal) / jobs, "looks": looks}


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
