"""One network to one ONNX file, in the layout, the form and the precision that it ships in."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from compressor.data import DataSet, ordered
from compressor.dependency.inputs import AnyInputs, Inputs
from compressor.errors import ExportError, TrainingError
from compressor.exporters import (
    Exported,
    Form,
    OnnxNetwork,
    Parity,
    WithSoftmax,
    export_onnx,
    export_probe,
    finish,
    measure_parity,
    samples_of,
)
from compressor.exporters.interface import tolerance_of
from compressor.exporters.layouts import fastest, forms
from compressor.exporters.scheme_choice import form_of
from compressor.files import copy_atomic
from compressor.models.architecture import Architecture
from compressor.models.examples import given_example
from compressor.models.from_onnx.interface import interface_of, lacks_softmax
from compressor.models.onnx_reading import opset_in
from compressor.pipeline.precision_gate import Misses, finish_within, loses_too_much
from compressor.recipe import Recipe
from compressor.recipe.precision import precisions
from compressor.training.tasks import task_of

_PARITY_BATCH = 100

Retrain = Callable[[], nn.Module]  # → the trained network, trained on, on the CPU in eval mode


@dataclass(frozen=True)
class Made:
    """A network and its file.

    Attributes:
        model: whose file it is, on the CPU
        exported: the file
        precision: JSON values of its precision
        stacked: how the layouts of stacked layers compare; None: there is one
        trained_on: whether the network was trained on with the rounding of its precision
    """

    model: nn.Module
    exported: Exported
    precision: dict[str, Any]
    stacked: dict[str, Any] | None
    trained_on: bool = False


@dataclass(frozen=True)
class FileMaker:
    """Makes the file of a network.

    Attributes:
        architecture: of the network
        recipe: its sections `export`, `bench` and `budget` are used
        data: for samples and scores
        path: of the file
        retrain: trains a network on with the rounding of its precision; None: nothing does
    """

    architecture: Architecture
    recipe: Recipe
    data: DataSet
    path: Path
    retrain: Retrain | None = None

    def in_precision(self, model: nn.Module, precision: str) -> Made:
        """Make the file in a precision, whatever it loses; the network is trained on first if anything does that."""
        form, failed = replace(form_of(self.recipe, self.data), precision=precision), None
        if self.retrain is not None:
            try:
                return replace(self._file(self.retrain(), self.path, form, None), trained_on=True)
            except TrainingError as error:  # it ships as it was trained before
                failed = f"quantisation-aware training failed, and the weights from before ship: {error}"
        made = self._file(model, self.path, form, None)
        notes = [note for note in (failed, made.precision["note"]) if note]
        return replace(made, precision=made.precision | {"note": "; ".join(notes) or None})

    def weighed(self, model: nn.Module, misses: Misses) -> Made:
        """Make the file as `finish_within` decides, and if it loses too much that of the network trained on.

        The latter ships if it is of the precision asked for and within the tolerance; or, if that precision has to
        ship, loses less. For `misses` see `finish_within`.
        """
        with tempfile.TemporaryDirectory(prefix="compressor-", dir=self.path.parent) as folder:
            made = self._best(model, misses, Path(folder))
            copy_atomic(made.exported.path, self.path)
        return replace(made, exported=replace(made.exported, path=self.path))

    def _best(self, model: nn.Module, misses: Misses, folder: Path) -> Made:
        form = form_of(self.recipe, self.data)
        first = self._file(model, folder / "first.onnx", form, misses)
        if self.retrain is None or not loses_too_much(first.precision, self.recipe):
            return first
        old = first.precision["gate"]
        told: dict[str, Any] = {
            "epochs": self.recipe.export.qat_epochs,
            "points_before": old["tried"][0]["points"],
            "points": None,
            "taken": False,
        }
        second = None
        try:
            second = self._file(self.retrain(), folder / "second.onnx", form, misses, old["plain_score"])
        except (TrainingError, ExportError) as error:  # what was trained before can ship
            told["failed"] = str(error)
        if second is not None:
            new = second.precision["gate"]["tried"][0]
            forced = first.precision["name"] == second.precision["name"] == old["asked"]
            better = _of(new["points"]) < _of(told["points_before"])
            told |= {"points": new["points"], "taken": new["rejected"] is None or (forced and better)}
        made = second if second is not None and told["taken"] else first
        gate: Mapping[str, Any] = made.precision["gate"]
        return replace(made, precision=made.precision | {"gate": {**gate, "qat": told}}, trained_on=told["taken"])

    def _file(
        self, model: nn.Module, path: Path, form: Form, misses: Misses | None, before: float | None = None
    ) -> Made:
        """Export a network in the fastest of its layouts, and bring the file into its form; see `finish_within`."""
        recipe, config, batches = self.recipe, self.recipe.export, parity_batches(self.data, self.recipe)
        with tempfile.TemporaryDirectory(prefix="compressor-", dir=path.parent) as folder:
            arranged, plain = forms(model, self.architecture, recipe), Path(folder) / "plain.onnx"
            quick = {name: Path(folder) / f"{name}-quick.onnx" for name in arranged if len(arranged) > 1}
            for name, beside in quick.items():  # all of them made alike, so that they can be compared
                export_probe(arranged[name], beside, batches[-1], opset=config.written_opset)
            timed = _converted(quick, form.precision, batches)
            measured = fastest(timed, recipe.measured) if timed else None
            layout = next(iter(arranged)) if measured is None else measured["chosen"]
            chosen = export_onnx(
                arranged[layout], plain, batches, opset=config.written_opset, tolerance=config.plain_tolerance
            )
            measured = measured or fastest({layout: plain}, recipe.measured)
            finished = Path(folder) / "finished.onnx"

            def compare(path: Path, form: Form) -> Parity:
                tolerance, threads = config.tolerance_of(form.precision), recipe.measured.threads
                return shipped_parity(model, path, form, batches, tolerance=tolerance, threads=threads)

            own = replace(self.data, metric=None)  # precisions are weighed by the task's, whatever judges networks
            form, precision = finish_within(
                chosen.path, finished, form, recipe, own, misses=misses, check=compare, before=before
            )
            shipped = replace(chosen, path=path, opset=opset_in(onnx.load_model(finished, load_external_data=False)))
            if self.architecture.stacks or not form.plain:
                # Of the network that was trained and of the file that is shipped.
                shipped = replace(shipped, parity=compare(finished, form))
            if not precisions()[form.precision].plain:
                precision["parity_of_fp32"] = chosen.parity.to_json()
            copy_atomic(finished, path)
        return Made(model, shipped, precision, measured if self.architecture.stacks else None)


def _converted(paths: Mapping[str, Path], name: str, batches: Sequence[AnyInputs]) -> Mapping[str, Path]:
    """Float32 files in the precision that ships, by the first scheme that suits them, to be timed; all or none."""
    precision = precisions()[name]
    if precision.plain:
        return paths
    made = {layout: path.with_name(f"{name}-{path.name}") for layout, path in paths.items()}
    try:
        for layout, path in paths.items():
            scheme = next(iter(precision.schemes_for(path).values())) if precision.schemes else None
            finish(path, made[layout], Form(precision=name), scheme, samples_of(batches[-1]))
    except ExportError:  # it is said where the file is made that ships
        return paths
    return made


def _of(points: float | None) -> float:
    """Points lost, of a file without a finite score more than of any other."""
    return math.inf if points is None else points


def shipped_parity(
    model: nn.Module,
    path: Path,
    form: Form,
    batches: Sequence[AnyInputs],
    *,
    tolerance: float,
    threads: int | None = None,
) -> Parity:
    """Compare a network with its file in the form that is shipped; see `measure_parity`."""
    axis = 1 if lacks_softmax(model) else form.softmax
    compared = model if axis is None else WithSoftmax(model, axis)
    network = OnnxNetwork(path, threads)
    outputs: Any = network.all_outputs if isinstance(batches[0], Inputs) else network.outputs
    return measure_parity(compared, outputs, batches, tolerance_of(interface_of(model), tolerance))


def parity_batches(data: DataSet, recipe: Recipe) -> list[AnyInputs]:
    """Real inputs: one sample and many; of text also a few that are half as long."""
    if data.example is not None:
        example = given_example(recipe.model.name)
        assert example is not None
        return [example.of_batch(1), example, example.of_batch(len(example) + 1)]
    most = task_of(data).batch(data.classes, data.input_shape, _PARITY_BATCH)
    sample = next(ordered(data.test, data, most))[0].cpu()
    if data.task != "language":
        return [sample[:1], sample]
    return [sample[:1], sample[:2, : -(-sample.shape[1] // 2)], sample]
