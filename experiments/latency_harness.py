"""What the bench's own code costs, and whether its clock agrees with ONNX Runtime's.

    python experiments/latency_harness.py                      # 20 trials of every network; goes on where it stopped
    python experiments/latency_harness.py --trials 2 --only vgg11

Batch 1, one thread of the CPU. In each trial a fresh process opens one session, whose one binding is run in rounds of
four turns in random order:

    bare      for _ in range(runs): session.run_with_iobinding(binding)
    again     the same once more, which tells the noise
    entrant   for _ in range(runs): entrant.run(), which reads the clocks around each run and waits for the outputs
    turns     turns.run(runs), which orders the rounds and keeps the samples too: the bench as it is used

A turn is timed as a whole from outside, by the clock and by the thread's CPU time; `loop` is its time for a run over
that of the bare loop in the same round. `sample_mean` and `sample_median` are what the bench reports for the runs of
its turn, over the time for a run of the bare loop. All ratios are medians over all rounds; intervals are bootstrapped
over trials, 95 %.

`Turns.run` begins with Python's garbage collection, once for all its runs. Here everything alive is frozen before, and
what `turns.run(0)` still takes in the same round is taken off; `collect_ms` is what it costs otherwise.

ONNX Runtime's own time is that of the `model_run` events of its profile, which is switched on for that; our clock runs
around the same runs, and `clock_over_model_run` is the median of the ratios.

The numbers go to experiments/latency_harness.json after every trial; those that are there are not repeated.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
from untrained import export_untrained

# torch stays outside: the processes that measure begin by importing this file.
from compressor.bench.profiling import profile_model
from compressor.bench.turns import Conditions, Turns

RESULT: Final = Path(__file__).with_suffix(".json")
NETWORKS: Final = {"vgg11": ("vgg11_bn", 0.25), "resnet20": ("resnet20", 1.0)}  # name and width multiplier
SIDES: Final = ("bare", "again", "entrant", "turns")
EMPTY: Final = "empty"  # turns.run(0)
CLOCKS: Final = ("wall", "cpu")
RESAMPLES: Final = 2000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20, help="of every network, each in a process of its own")
    parser.add_argument("--rounds", type=int, default=40, help="of one trial")
    parser.add_argument("--runs", type=int, default=80, help="of one turn")
    parser.add_argument("--only", nargs="+", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--json", type=Path, default=RESULT)
    arguments = parser.parse_args()
    record = load(arguments.json)
    done = {(trial["network"], trial["index"]) for trial in record["trials"]}
    left = [(name, index) for index in range(arguments.trials) for name in arguments.only if (name, index) not in done]
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: export_untrained(*NETWORKS[name], Path(folder) / f"{name}.onnx") for name in arguments.only}
        begun = time.monotonic()
        for number, (name, index) in enumerate(left, start=1):
            found = apart(trial, str(paths[name]), arguments.rounds, arguments.runs, index)
            record["trials"].append({"network": name, "index": index, **found})
            save(record, arguments)
            minutes = (time.monotonic() - begun) / number * (len(left) - number) / 60
            loops = ", ".join(f"{side} {np.median(found['loop_wall'][side]):.4f}" for side in SIDES)
            print(f"{number}/{len(left)} {name}: {loops}; {minutes:.1f} min left", flush=True)
    print_table(summary(record))


def load(path: Path) -> dict[str, Any]:
    """What earlier runs found."""
    from compressor.files import read_json

    return {"trials": read_json(path)["trials"] if path.exists() else []}


def save(record: dict[str, Any], arguments: argparse.Namespace) -> None:
    from record import write_result

    settings = {"batch": 1, "threads": 1, "provider": "cpu", "rounds": arguments.rounds, "runs": arguments.runs}
    networks = {name: {"model": model, "width": width} for name, (model, width) in NETWORKS.items()}
    write_result(arguments.json, record | {"summary": summary(record), "settings": settings | {"networks": networks}})


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def trial(path: str, rounds: int, runs: int, seed: int) -> dict[str, Any]:
    """Rounds of one session; milliseconds and ratios by round."""
    conditions = Conditions("cpu", 1, 1)
    turns = Turns([path], conditions)
    turns.warm_up(runs)
    began = time.perf_counter()
    turns.run(0)
    collect_ms = 1e3 * (time.perf_counter() - began)
    gc.freeze()
    loops = loops_of(turns)
    times: dict[str, dict[str, list[float]]] = {clock: {side: [] for side in (*SIDES, EMPTY)} for clock in CLOCKS}
    samples: dict[str, list[list[float]]] = {clock: [] for clock in CLOCKS}
    order, sides = random.Random(seed), [*SIDES, EMPTY]
    for _ in range(rounds):
        order.shuffle(sides)
        for side in sides:
            cpu, wall = time.thread_time(), time.perf_counter()
            loops[side](runs)
            times["wall"][side].append(1e3 * (time.perf_counter() - wall) / runs)
            times["cpu"][side].append(1e3 * (time.thread_time() - cpu) / runs)
            if side == "turns":  # emptied, or the collector would walk longer lists in every round
                for clock, kept in (("wall", turns.wall_ms[0]), ("cpu", turns.cpu_ms[0])):
                    samples[clock].append(kept.copy())
                    kept.clear()
    found: dict[str, Any] = {"collect_ms": collect_ms}
    for clock in CLOCKS:
        bare, kept = np.array(times[clock]["bare"]), np.array(samples[clock])
        times[clock]["turns"] = (np.array(times[clock]["turns"]) - np.array(times[clock][EMPTY])).tolist()
        found[f"bare_ms_{clock}"] = times[clock]["bare"]
        found[f"loop_{clock}"] = {side: (np.array(times[clock][side]) / bare).tolist() for side in SIDES}
        found[f"sample_mean_{clock}"] = (kept.mean(1) / bare).tolist()
        found[f"sample_median_{clock}"] = (np.median(kept, axis=1) / bare).tolist()
    profile = profile_model(path, conditions, runs=2 * runs)
    found["clock_over_model_run"] = profile.clock_ratio
    found["profiled_ms"] = statistics.median(profile.clock_ms)
    return found


def loops_of(turns: Turns) -> dict[str, Callable[[int], None]]:
    """{side: what runs the one session so many times}."""
    entrant = turns.entrants[0]
    session, binding = entrant.opened.session, entrant.binding

    def bare(runs: int) -> None:
        for _ in range(runs):
            session.run_with_iobinding(binding)

    def through_entrant(runs: int) -> None:
        for _ in range(runs):
            entrant.run()

    def empty(runs: int) -> None:
        turns.run(0)

    return {"bare": bare, "again": bare, "entrant": through_entrant, "turns": turns.run, EMPTY: empty}


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """{network: ratios as [median, low, high]}."""
    found = {}
    for name in NETWORKS:
        trials = [trial for trial in record["trials"] if trial["network"] == name]
        if not trials:
            continue
        row: dict[str, Any] = {"trials": len(trials)}
        for clock in CLOCKS:
            row[f"bare_ms_{clock}"] = statistics.median(ms for trial in trials for ms in trial[f"bare_ms_{clock}"])
            for side in SIDES[1:]:
                row[f"loop_{clock}_{side}"] = ratio([trial[f"loop_{clock}"][side] for trial in trials])
            for what in ("sample_mean", "sample_median"):
                row[f"{what}_{clock}"] = ratio([trial[f"{what}_{clock}"] for trial in trials])
        row["clock_over_model_run"] = ratio([[trial["clock_over_model_run"]] for trial in trials])
        row["collect_ms"] = statistics.median(trial["collect_ms"] for trial in trials)
        found[name] = row
    return found


def ratio(by_trial: Sequence[Sequence[float]]) -> list[float]:
    """Median of all rounds, and its 95 % interval, bootstrapped over trials."""
    values, rng = np.array(by_trial), np.random.default_rng(0)
    drawn = values[rng.integers(0, len(values), (RESAMPLES, len(values)))]
    low, high = np.quantile(np.median(drawn, axis=(1, 2)), [0.025, 0.975])
    return [float(np.median(values)), float(low), float(high)]


def print_table(rows: dict[str, Any]) -> None:
    for name, row in rows.items():
        print(f"{name}: {row['bare_ms_wall']:.4f} ms a bare run, {row['trials']} trials")
        for key, value in row.items():
            if isinstance(value, list):
                median, low, high = (f"{100 * (end - 1):+.2f}" for end in value)
                print(f"  {key}: {median} % [{low} {high}]")


if __name__ == "__main__":
    main()
