"""Where a model's time goes, by ONNX Runtime's own profile.

The same runs are timed by our clock too, so that the two can be held against each other: `Profile.clock_ratio`.
"""

import json
import os
import tempfile
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from .errors import BenchError
from .session import short_name
from .turns import Conditions, open_entrant

__all__ = ["NodeTime", "Profile", "profile_model"]

_KERNEL: Final = "_kernel_time"
_RUN: Final = "model_run"

Event = Mapping[str, Any]
Key = tuple[str, str, str]


@dataclass(frozen=True)
class NodeTime:
    """Time of one node of the optimised graph.

    Attributes:
        name: of the node; ONNX Runtime makes one for a node that has none
        op_type: operator, fused ones included
        provider: short name of what ran it
        median_ms: of the runs; the sum of all times that it runs in one (in a loop)
        mean_ms: of the runs
        share: of all nodes' time, between 0 and 1
    """

    name: str
    op_type: str
    provider: str
    median_ms: float
    mean_ms: float
    share: float


@dataclass(frozen=True)
class Profile:
    """ONNX Runtime's profile of the measured runs; warm-up runs are not in it.

    On a GPU the time of a node is that of the host, which only launches it, so shares mean little there.

    Attributes:
        nodes: most expensive first
        run_ms: ONNX Runtime's own time (`model_run`) of each run
        clock_ms: ours of the same runs, the wait for the outputs included
        batch: inputs in one run
        provider: what ran it
    """

    nodes: tuple[NodeTime, ...]
    run_ms: tuple[float, ...]
    clock_ms: tuple[float, ...]
    batch: int
    provider: str

    @property
    def clock_ratio(self) -> float:
        """Median of our clock's time over ONNX Runtime's, run by run."""
        return float(np.median(np.asarray(self.clock_ms) / np.asarray(self.run_ms)))

    @property
    def nodes_ms(self) -> float:
        """Sum of all nodes' mean times."""
        return sum(node.mean_ms for node in self.nodes)

    def to_json(self) -> dict[str, Any]:
        """Give the record as JSON types."""
        record = asdict(self) | {"clock_ratio": self.clock_ratio, "nodes_ms": self.nodes_ms}
        return record | {key: list(record[key]) for key in ("nodes", "run_ms", "clock_ms")}


def profile_model(path: str | os.PathLike[str], conditions: Conditions, warmup: int = 20, runs: int = 80) -> Profile:
    """Run a model with ONNX Runtime's profiling switched on.

    A CUDA graph hides its nodes, so the profile is of runs without it.

    Args:
        path: the ONNX file
        conditions: how it is run
        warmup: runs before those in the profile, 0 or more
        runs: in the profile, 1 or more

    Raises:
        ProviderError: as `Turns`
        BenchError: as `Turns`; a bad count, or ONNX Runtime ran out of room for the events of so many runs
    """
    for name, value, least in (("warmup", warmup, 0), ("runs", runs, 1)):
        if value < least:
            raise BenchError(f"{name}={value} must be {least} or more")
    with tempfile.TemporaryDirectory(prefix="compressor-profile-") as folder:
        prefix = os.fspath(Path(folder) / "profile")
        entrant = open_entrant(path, replace(conditions, cuda_graph=False), profile=prefix)
        for _ in range(warmup):
            entrant.run()
        clock_ms = [entrant.run()[0] for _ in range(runs)]
        events = json.loads(Path(entrant.opened.session.end_profiling()).read_text(encoding="utf-8"))
    expected = 1 + warmup + runs  # the first finds the outputs' shapes
    if sum(event.get("name") == _RUN for event in events) < expected:
        raise BenchError(f"{path}: ONNX Runtime had no room for the profile of {expected} runs; take fewer runs")
    return _sum_up(events, clock_ms, conditions.batch, entrant.opened.provider)


def _sum_up(events: Sequence[Event], clock_ms: Sequence[float], batch: int, provider: str) -> Profile:
    """Make a profile of the last runs' events, as many as our clock timed."""
    runs = [event for event in events if event.get("name") == _RUN][-len(clock_ms) :]
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_KERNEL)]
    times = _per_run(_own_times(kernels), runs)
    total = sum(map(sum, times.values())) or 1.0
    nodes = [
        NodeTime(*key, float(np.median(spent)), float(np.mean(spent)), sum(spent) / total)
        for key, spent in times.items()
    ]
    nodes.sort(key=lambda node: (-node.share, node.name))
    run_ms = tuple(max(run["dur"], 1) / 1e3 for run in runs)  # whole microseconds
    return Profile(tuple(nodes), run_ms, tuple(clock_ms), batch, provider)


def _own_times(kernels: Sequence[Event]) -> list[tuple[float, Key, float]]:
    """Give each event's begin, node and time in ms, less the events inside it (the body of an If or a Loop)."""
    ordered = sorted(kernels, key=lambda event: (event["ts"], -event["dur"]))
    own = [float(event["dur"]) for event in ordered]
    around: list[int] = []
    for index, event in enumerate(ordered):
        while around and _end(ordered[around[-1]]) <= event["ts"]:
            around.pop()
        if around:
            own[around[-1]] -= event["dur"]
        around.append(index)
    return [(event["ts"], _key(event), max(0.0, time) / 1e3) for event, time in zip(ordered, own, strict=True)]


def _end(event: Event) -> float:
    return float(event["ts"] + event["dur"])


def _key(event: Event) -> Key:
    details = event.get("args", {})
    return event["name"].removesuffix(_KERNEL), details.get("op_name", ""), short_name(details.get("provider", ""))


def _per_run(kernels: Sequence[tuple[float, Key, float]], runs: Sequence[Event]) -> dict[Key, list[float]]:
    """Sum up each node's time in each run, 0 where it did not run."""
    begins = [begin for begin, _, _ in kernels]
    times: defaultdict[Key, list[float]] = defaultdict(lambda: [0.0] * len(runs))
    for number, run in enumerate(runs):
        for _, key, spent in kernels[bisect_left(begins, run["ts"]) : bisect_right(begins, _end(run))]:
            times[key][number] += spent
    return dict(times)
