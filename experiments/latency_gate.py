"""How often the latency gate is right: models that are as fast, and 3, 6 and 12 % slower, judged many times.

    python experiments/latency_gate.py                       # 40 trials of every case; goes on where it stopped
    python experiments/latency_gate.py --trials 4 --only /1/ # 4 trials of the cases at batch 1

A case is a network, a batch and a slowdown. The candidate without one is a copy of the base. The slower ones have one
layer more, of as many units as it takes: `Gemm + ReLU` in front of the classifier, which is work like any other. How
many that are is found before the trials: units are chosen on a line through measured ratios, and a long measurement in
pairs tells the true ratio, with its interval, which must lie within half a per cent of the one wanted; else the line
is drawn again. The JSON has these true ratios beside the nominal ones, and a second look at them: the median over all
trials of the ratio that the gate saw.

Every trial runs in a process of its own, as the command does, and the cases come in random order, so that slow minutes
hit all alike. The gate is `compressor.bench.compare_latency` as it comes, one thread of the CPU, 2 % allowed. Beside
it in each trial are two gates that do not measure in turns:

    stored     the candidate's mean is more than 10 % over the base's, which was stored before the first trial
    separate   base and candidate are measured one after the other, and the means differ by more than 5 %

A false alarm is a regression where there is none; a catch is one where the candidate is slower. The numbers go to
experiments/latency_gate.json after every trial; those that are there are not repeated: delete the file to begin anew.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import random
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np
from untrained import export_untrained

# torch and onnx stay outside: the processes that measure begin by importing this file.
from compressor.bench import measure_latency
from compressor.bench.gate import compare_latency
from compressor.bench.pairs import measure_pairs
from compressor.bench.turns import Conditions

RESULT: Final = Path(__file__).with_suffix(".json")
NETWORKS: Final = {"vgg11": ("vgg11_bn", 0.25), "mobilenetv2": ("mobilenetv2", 0.25)}  # name and width multiplier
SLOWDOWNS: Final = (0.0, 0.03, 0.06, 0.12)
WITHIN: Final = 0.005  # of the wanted ratio must the true one lie
STORED, SEPARATE = 0.10, 0.05  # what the naive gates allow
NAIVE: Final = {1: (20, 80), 100: (5, 25)}  # batch: warm-up and measured runs of the naive gates
FIRST_UNITS: Final = {1: 512, 100: 2048}  # batch: where the search for the units begins
COARSE: Final = 16  # blocks for a point of the line
TRIES: Final = 5  # lines drawn before a case is given up


@dataclass(frozen=True)
class Case:
    """What is judged: a network at a batch, and the slowdown that the candidate should have."""

    network: str
    batch: int
    slowdown: float

    def __str__(self) -> str:
        return f"{self.pair}/{'A/A' if self.slowdown == 0 else f'{self.slowdown:+.0%}'}"

    @property
    def pair(self) -> str:
        return f"{self.network}/{self.batch}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=40, help="of every case")
    parser.add_argument("--only", default="", help="cases whose name has this in it, such as vgg11/1/ or A/A")
    parser.add_argument("--networks", nargs="+", choices=list(NETWORKS), default=["vgg11"])
    parser.add_argument("--blocks", type=int, default=100, help="of the measurement that tells the true ratio")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no trial after so long")
    parser.add_argument("--json", type=Path, default=RESULT)
    arguments = parser.parse_args()
    cases = [
        Case(network, batch, slowdown)
        for network in arguments.networks
        for batch in FIRST_UNITS
        for slowdown in SLOWDOWNS
    ]
    cases = [case for case in cases if arguments.only in str(case)]
    record = load(arguments.json)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        networks = {case.network for case in cases}
        bases = {name: export_untrained(*NETWORKS[name], work / f"{name}.onnx") for name in networks}
        for case in cases:
            prepare(case, bases[case.network], record, arguments)
        run_trials(cases, bases, record, arguments, lambda: time.monotonic() - begun < 60 * arguments.minutes)
    print_table(record)
    print(*(f"{what}: {count} of {trials}" for what, (count, trials) in summary(record).items()), sep="\n")


def load(path: Path) -> dict[str, Any]:
    """What earlier runs found."""
    from compressor.files import read_json

    if path.exists():
        return {key: read_json(path)[key] for key in ("calibration", "points", "stored", "trials")}
    return {"calibration": {}, "points": {}, "stored": {}, "trials": []}


def save(record: dict[str, Any], path: Path) -> None:
    from record import write_result

    write_result(path, record | {"settings": settings(), "table": table(record), "summary": summary(record)})


def settings() -> dict[str, Any]:
    return {
        "provider": "cpu",
        "threads": 1,
        "max_regression": 0.02,
        "networks": {name: {"model": model, "width": width} for name, (model, width) in NETWORKS.items()},
        "naive_runs": {str(batch): runs for batch, (_, runs) in NAIVE.items()},
        "stored_allows": STORED,
        "separate_allows": SEPARATE,
    }


def slower(base: Path, units: int) -> Path:
    """Write the base with one hidden layer more in front of its classifier; 0 units: a copy."""
    import onnx
    from onnx import helper, numpy_helper

    path = base.with_name(f"{base.stem}-{units}.onnx")
    if units == 0:
        shutil.copyfile(base, path)
    if path.exists():
        return path
    model = onnx.load(base)
    graph, rng = model.graph, np.random.default_rng(0)
    last = graph.node[-1]
    weights = {tensor.name: tensor for tensor in graph.initializer}
    classes, features = weights[last.input[1]].dims
    wide = rng.normal(0, features**-0.5, (units, features)).astype(np.float32)
    narrow = rng.normal(0, units**-0.5, (classes, units)).astype(np.float32)
    graph.initializer.append(numpy_helper.from_array(wide, "hidden.weight"))
    weights[last.input[1]].CopyFrom(numpy_helper.from_array(narrow, last.input[1]))
    hidden = [
        helper.make_node("Gemm", [last.input[0], "hidden.weight"], ["hidden"], transB=1),
        helper.make_node("Relu", ["hidden"], ["activated"]),
    ]
    last.input[0] = "activated"
    for node in hidden:
        graph.node.insert(len(graph.node) - 1, node)
    del graph.value_info[:]  # the classifier's weight has another shape now
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def prepare(case: Case, base: Path, record: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Store the base's mean and find the candidate's units, unless an earlier run did."""
    if case.pair not in record["stored"]:
        record["stored"][case.pair] = apart(naive_mean, str(base), case.batch)
        save(record, arguments.json)
    if str(case) not in record["calibration"]:
        print(f"{case}: ", end="", flush=True)
        record["calibration"][str(case)] = calibrated(case, base, record, arguments.blocks)
        save(record, arguments.json)


def calibrated(case: Case, base: Path, record: dict[str, Any], blocks: int) -> dict[str, Any]:
    """Find the units that make the candidate so much slower, and its true ratio."""
    if case.slowdown == 0:
        print("the base itself")
        return {"units": 0, "ratio": 1.0, "low": 1.0, "high": 1.0, "blocks": 0}
    points = record["points"].setdefault(case.pair, [])  # (units, ratio), for all slowdowns of this pair

    def ratio(units: int, blocks: int) -> dict[str, Any]:
        found = apart(true_ratio, str(base), str(slower(base, units)), case.batch, blocks)
        print(f"{units} units {found['ratio']:.4f}", end=", ", flush=True)
        points.append([units, found["ratio"]])
        return found

    while not any(above > 1 + case.slowdown for _, above in points):
        most = max((units for units, _ in points), default=0)
        ratio(2 * most or FIRST_UNITS[case.batch], COARSE)
    for _ in range(TRIES):
        units = on_line(points, 1 + case.slowdown)
        found = ratio(units, blocks)
        if abs(found["ratio"] - 1 - case.slowdown) <= WITHIN:
            print("taken")
            return {"units": units, **found}
    raise SystemExit(f"{case}: no number of units found after {TRIES} tries; is the machine busy?")


def on_line(points: Sequence[Sequence[float]], wanted: float) -> int:
    """Units at which a line through the two points next to the wanted ratio, one on each side, meets it."""
    below = [point for point in points if point[1] <= wanted]
    nearest = (max(below, key=lambda point: point[1])) if below else (0, 1.0)
    above = min((point for point in points if point[1] > wanted), key=lambda point: point[1])
    if above[0] <= nearest[0]:  # noise turned the two around
        return round((above[0] + nearest[0]) / 2)
    share = (wanted - nearest[1]) / (above[1] - nearest[1])
    return max(1, round(nearest[0] + share * (above[0] - nearest[0])))


def run_trials(
    cases: Sequence[Case],
    bases: dict[str, Path],
    record: dict[str, Any],
    arguments: argparse.Namespace,
    in_time: Callable[[], bool],
) -> None:
    """Judge what has not been judged, in random order."""
    done = {(trial["case"], trial["index"]) for trial in record["trials"]}
    left = [(case, index) for case in cases for index in range(arguments.trials) if (str(case), index) not in done]
    random.Random(len(record["trials"])).shuffle(left)
    begun = time.monotonic()
    for number, (case, index) in enumerate(left, start=1):
        if not in_time():
            print(f"stopped after {arguments.minutes:g} minutes, {len(left) - number + 1} trials left")
            return
        base = bases[case.network]
        candidate = slower(base, record["calibration"][str(case)]["units"])
        trial = apart(judge, str(base), str(candidate), case.batch, record["stored"][case.pair], len(record["trials"]))
        record["trials"].append({"case": str(case), "index": index, **trial})
        save(record, arguments.json)
        minutes = (time.monotonic() - begun) / number * (len(left) - number) / 60
        print(
            f"{number}/{len(left)} {case}: {trial['verdict']} {trial['ratio']:.4f} "
            f"[{trial['low']:.4f} {trial['high']:.4f}], {trial['blocks']} blocks, {trial['seconds']:.1f} s; "
            f"{minutes:.0f} min left",
            flush=True,
        )


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def judge(base: str, candidate: str, batch: int, stored: float, seed: int) -> dict[str, Any]:
    """One trial: the verdicts of all gates."""
    separate = [naive_mean(path, batch) for path in (base, candidate)]
    begun = time.perf_counter()
    found = compare_latency(base, candidate, max_regression=0.02, provider="cpu", batch=batch, threads=1, seed=seed)
    return {
        "verdict": found.verdict,
        "ratio": found.ratio.median,
        "low": found.ratio.low,
        "high": found.ratio.high,
        "blocks": found.blocks,
        "pairs": found.pairs,
        "seconds": time.perf_counter() - begun,
        "base_ms": found.base.median_ms,
        "seed": seed,
        "means_ms": separate,
        "stored_alarm": separate[1] > (1 + STORED) * stored,
        "separate_alarm": separate[1] > (1 + SEPARATE) * separate[0],
    }


def naive_mean(path: str, batch: int) -> float:
    """Mean latency of a file measured alone, milliseconds."""
    warmup, runs = NAIVE[batch]
    return measure_latency(path, provider="cpu", batch=batch, threads=1, warmup=warmup, runs=runs).mean


def true_ratio(base: str, candidate: str, batch: int, blocks: int) -> dict[str, Any]:
    """Ratio of the CPU times in many blocks, with a 95 % interval."""
    pairs = measure_pairs(base, candidate, Conditions("cpu", batch, 1), lambda pairs: True, looks=(blocks,))
    found = pairs.ratio(0.95)
    return {"ratio": found.median, "low": found.low, "high": found.high, "blocks": blocks}


def table(record: dict[str, Any]) -> dict[str, Any]:
    """{case: how often each gate said what, and how long it took}."""
    rows: dict[str, Any] = {}
    order = [str(Case(*pair, slowdown)) for pair in product(NETWORKS, FIRST_UNITS) for slowdown in SLOWDOWNS]
    for case in order:
        trials = [trial for trial in record["trials"] if trial["case"] == case]
        if not trials:
            continue
        seconds, blocks = ([trial[key] for trial in trials] for key in ("seconds", "blocks"))
        counts = Counter(trial["verdict"] for trial in trials)
        rows[case] = {
            "trials": len(trials),
            "true_ratio": [record["calibration"][case][key] for key in ("ratio", "low", "high")],
            "median_ratio": statistics.median(trial["ratio"] for trial in trials),
            "base_ms": statistics.median(trial["base_ms"] for trial in trials),
            **{verdict: counts[verdict] for verdict in ("regression", "ok", "improvement", "inconclusive")},
            "stored_alarms": sum(trial["stored_alarm"] for trial in trials),
            "separate_alarms": sum(trial["separate_alarm"] for trial in trials),
            "seconds_median": statistics.median(seconds),
            "seconds_max": max(seconds),
            "blocks_median": statistics.median(blocks),
            "blocks_max": max(blocks),
        }
    return rows


def summary(record: dict[str, Any]) -> dict[str, list[int]]:
    """{what: [how often, of how many]}, all networks and batches together."""
    rows = table(record)
    found = {}
    for slowdown in SLOWDOWNS:
        name = "A/A" if slowdown == 0 else f"{slowdown:+.0%}"
        chosen = [row for case, row in rows.items() if case.endswith(name)]
        trials = sum(row["trials"] for row in chosen)
        for key in ("regression", "inconclusive", "stored_alarms", "separate_alarms"):
            found[f"{name} {key}"] = [sum(row[key] for row in chosen), trials]
        if slowdown == 0:
            found[f"{name} improvement"] = [sum(row["improvement"] for row in chosen), trials]
    return found


def print_table(record: dict[str, Any]) -> None:
    columns = ("trials", "regression", "ok", "improvement", "inconclusive", "stored_alarms", "separate_alarms")
    print("case", "true", *columns, "seconds (median, max)", sep=" | ")
    for case, row in table(record).items():
        seconds = f"{row['seconds_median']:.1f}, {row['seconds_max']:.1f}"
        print(case, f"{row['true_ratio'][0]:.4f}", *(row[column] for column in columns), seconds, sep=" | ")


if __name__ == "__main__":
    main()
