"""Experiment trackers that runs report to: TensorBoard, MLflow, Weights & Biases; one adapter each.

An adapter takes epochs as they are trained and the report in the end. What goes wrong in one is said once, and the run
goes on without it: hours of training are worth more than a curve.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compressor.errors import RecipeError, UnavailableError, not_one_of

if TYPE_CHECKING:
    from compressor.recipe import Recipe
    from compressor.training.trainer import EpochRecord

TRACKERS: Mapping[str, str] = {
    "tensorboard": "compressor.integrations.trackers.tensorboard:TensorBoard",
    "mlflow": "compressor.integrations.trackers.mlflow:MLflow",
    "wandb": "compressor.integrations.trackers.wandb:WandB",
}
_FILES = ("model.onnx", "report.html", "report.json", "recipe.yaml")


class Adapter(Protocol):
    """What a tracker is told. It is made with (run folder, name of the run, parameters by dotted name)."""

    def metrics(self, values: Mapping[str, float], step: int | None) -> None:
        """Take numbers by name, of an epoch or, without a step, of the whole run."""

    def files(self, paths: Sequence[Path]) -> None:
        """Take files of the finished run."""

    def close(self, finished: bool) -> None:
        """Write what is left; a run that is not finished goes on another time."""


class Trackers:
    """The trackers of a run, as `compressor.pipeline.runner.run` takes them; each begins with the first epoch.

    Args:
        names: of `TRACKERS`
        recipe: of the run
        out: the run folder; a tracker that has runs of its own notes there which one it is, so that a resumed run goes
            on in it
        tell: called with a sentence where a tracker fails

    Raises:
        RecipeError: no such tracker
        UnavailableError: it is not installed
    """

    def __init__(self, names: Sequence[str], recipe: Recipe, out: Path, tell: Callable[[str], None]) -> None:
        self._names, self._out, self._tell = tuple(dict.fromkeys(names)), out, tell
        self._title, self._parameters = out.name, _flat(recipe.model_dump(mode="json"))
        self._adapters: dict[str, Adapter] | None = None
        self._finished = False
        for name in self._names:
            if name not in TRACKERS:
                raise RecipeError(f"--log: {not_one_of(name, TRACKERS)}")
            if find_spec(name) is None:
                raise UnavailableError(
                    f"--log {name} needs {name}, which is not installed: pip install 'onnx-compressor[{name}]'"
                )

    def epoch(self, label: str, record: EpochRecord) -> None:
        """Take an epoch of a training: its losses, its score, the learning rate, the seconds it took."""
        values = {key: value for key, value in vars(record).items() if key != "epoch" and value is not None}
        self._each(lambda one: one.metrics({f"{label}/{key}": value for key, value in values.items()}, record.epoch))

    def end(self, report: Mapping[str, Any], out: Path) -> None:
        """Take the numbers of a finished run, of every network that it made, and its files."""
        networks = {"result": report, **(report.get("baseline") or {})}
        values = {
            f"{name}/{key}": float(value)
            for name, record in networks.items()
            for key, value in _flat(_numbers(record)).items()
            if isinstance(value, (int, float)) and not isinstance(value, bool)
        }
        self._each(lambda one: one.metrics(values, None))
        self._each(lambda one: one.files([out / name for name in _FILES if (out / name).exists()]))
        self._finished = True

    def close(self) -> None:
        """End all of them."""
        if self._adapters:
            self._each(lambda one: one.close(self._finished))
        self._adapters = {}

    def _each(self, call: Callable[[Adapter], None]) -> None:
        if self._adapters is None:
            self._adapters = {}
            for name in self._names:
                self._safely(name, lambda name=name: self._adapters.update({name: self._opened(name)}))  # type: ignore
        for name, adapter in list(self._adapters.items()):
            if not self._safely(name, lambda adapter=adapter: call(adapter)):  # type: ignore[misc]
                del self._adapters[name]

    def _opened(self, name: str) -> Adapter:
        module, _, adapter = TRACKERS[name].partition(":")
        opened: Adapter = getattr(import_module(module), adapter)(self._out, self._title, self._parameters)
        return opened

    def _safely(self, name: str, work: Callable[[], object]) -> bool:
        try:
            work()
        except Exception as error:  # of a library, of the network, of a full disk
            said = " ".join(str(error).split())[:200]
            self._tell(f"{name}: nothing more is logged there: {type(error).__name__}: {said}")
            return False
        return True


def _numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """What counts of a network: its costs, its score, its latency, parity with PyTorch."""
    own: dict[str, Any] = {key: value for key, value in record.items() if isinstance(value, (int, float))}
    nested = {
        "accuracy": ("onnx", "torch"),
        "latency_ms": ("mean", "median", "p90", "p99"),
        "parity": ("max_abs_error", "max_rel_error"),
    }
    for key, names in nested.items():
        found = record.get(key) or {}
        own[key] = {name: found[name] for name in names if found.get(name) is not None}
    metric = record.get("metric") or {}
    if metric.get("name", "accuracy") != "accuracy":
        own[metric["name"]] = {name: metric[name] for name in ("onnx", "torch") if metric.get(name) is not None}
    return own


def _flat(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}.{key}" if above else str(key)
        flat |= _flat(value, name) if isinstance(value, Mapping) else {name: value}
    return flat
