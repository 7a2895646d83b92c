"""What the stages of a run work with: recipe, folder, data, trainers, and how they show their progress."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from compressor.bench import Conditions
from compressor.costs.latency_measurement import Runtime
from compressor.data import DataSet, load_data, normalised
from compressor.dependency.inputs import Inputs, inputs_of
from compressor.errors import DataError, RecipeError, RunError
from compressor.exporters.layouts import allowed
from compressor.exporters.scheme_choice import form_of
from compressor.files import read_text
from compressor.models import given_network, reference_architecture, supports_channels_last
from compressor.models.architecture import Architecture
from compressor.models.examples import forget_example, give_example
from compressor.models.labels import labelled_by
from compressor.pipeline.records import SearchRecord, damaged
from compressor.pipeline.run_log import RunLog
from compressor.pipeline.run_network import RunNetwork
from compressor.pipeline.shipping import measure_as_shipped
from compressor.recipe import CostContext, Recipe
from compressor.recipe.model_name import ModelName
from compressor.search import Problem, SearchResult, search
from compressor.training.distributed import Team, team
from compressor.training.own_metric import OwnMetric
from compressor.training.own_trainer import OwnTrainer
from compressor.training.trainer import EpochRecord, Trainer, pick_device
from compressor.user_functions import imported

Progress = Callable[[str, str, float | None], None]  # stage, text, share done


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A run was paused or stopped while it trained.

    Attributes:
        current: the export record of the network of that moment, in the folder `now`; None: there is none yet
    """

    def __init__(self, message: str, current: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.current = current


class Tracker(Protocol):
    """Is told what a run does while it does it."""

    def epoch(self, label: str, record: EpochRecord) -> None:
        """An epoch of a training ended."""

    def end(self, report: Mapping[str, Any], out: Path) -> None:
        """The run is finished; its files lie in a folder."""


@dataclass(frozen=True)
class Shared:
    """What a run takes from outside when it is one of several.

    Attributes:
        work: folder of the search's checkpoints, kept for the next run; None: in the run folder, until the search ends
        search: finds the architecture
        load: loads the images
    """

    work: Path | None = None
    search: Callable[[Problem, Any], SearchResult] = search
    load: Callable[..., DataSet] = load_data


@dataclass
class RunContext:
    """One run.

    Attributes:
        recipe: what to do
        out: the run folder
        progress: called with stage, text and share done
        shared: what this run has in common with others
        pause: asked after every step of training; True ends the run there
        stop_at: end the run after so many epochs of a search that has a network at any time
        stage: that runs now
        span: what has been done of the stage before, and the share of it that is done now; each from 0 to 1
        team: the processes of torchrun, if there are several
        tracker: is told of epochs and of the report
    """

    recipe: Recipe
    out: Path
    progress: Progress
    shared: Shared = Shared()
    pause: Callable[[], bool] = lambda: False
    stop_at: float | None = None
    stage: str = "search"
    span: tuple[float, float] = (0.0, 1.0)
    team: Team | None = field(default_factory=team)
    tracker: Tracker | None = None
    _data: DataSet | None = field(default=None, repr=False)
    _steps: dict[str, int] = field(default_factory=dict, repr=False)  # of an epoch of a training function

    def __post_init__(self) -> None:
        self.device = pick_device(self.recipe.device)
        if self.recipe.threads is not None:
            torch.set_num_threads(self.recipe.threads)
        self.log = RunLog(self.out / "log.jsonl")

    # the folder --------------------------------------------------------------------------------------------------

    @property
    def checkpoints(self) -> Path:
        """Files of training and searching that are deleted with the report."""
        return self.out / "checkpoints"

    @property
    def current(self) -> Path:
        """Files of the network that a paused search has."""
        return self.out / "now"

    @property
    def reference_folders(self) -> dict[str, Path]:
        """{name: folder} of the networks that are trained beside the result."""
        return {name: self.out / "baselines" / name for name in self.recipe.baselines}

    @property
    def searched(self) -> SearchRecord:
        """What the search has left.

        Raises:
            RunError: it has not finished, or its record is damaged
        """
        path, names = self.out / "search.json", set(self.recipe.budget.names)
        record = SearchRecord.read(path)
        if set(record.limits) != names:
            found, wanted = (", ".join(sorted(some)) or "nothing" for some in (record.limits, names))
            raise damaged(path, f"limits: it limits {found}, the budget of the recipe {wanted}")
        return record

    def networks(self) -> list[RunNetwork]:
        """The result, then the references.

        Raises:
            RunError: the search has not finished
        """
        found, searched = [], self.searched
        for name, folder in ({"result": self.out} | self.reference_folders).items():
            path = folder / "architecture.json"
            if not path.exists():
                raise RunError(f"{path}: file not found; the search has not finished in this folder")
            architecture = architecture_of(path, self.recipe)
            if (begins := searched.begins.get(name)) is None:
                raise damaged(self.out / "search.json", f"begins: it has nothing of the network {name!r}")
            own = name in ("result", "undistilled")
            finetuning, taught = searched.finetuning if own else None, self.recipe.train.distill is not None
            distilled = taught and name not in ("reference", "undistilled")
            found.append(RunNetwork(name, folder, architecture, begins, finetuning, distilled))
        return found

    # what stages need --------------------------------------------------------------------------------------------

    @property
    def data(self) -> DataSet:
        """The images or the text, loaded once."""
        if self._data is None:
            config = self.recipe.data
            self.show(f"loading {config.name}")
            loaded = self.shared.load(config, seed=self.recipe.seed, device=self.device)
            metric = self.recipe.evaluate
            named = None if metric is None else (metric.name, metric.better)
            self._data = replace(normalised(loaded, config.mean, config.std), metric=named)
            if not config.labels:
                self._data = self._labelled(self._data)
            self._check_same_images(self._data)
            forget_example(self.recipe.model.name)
            if self._data.example is not None:
                self._take_example(self._data)
            elif self.recipe.train.keep == "best" and not len(self._data.validation):
                raise RecipeError(f"train.keep: best needs validation data, and {config.name} has none; valid: last")
            elif len(self._data.train) < 2:
                raise DataError(f"data: {config.name} leaves one training image; batch-norm needs two or more")
        return self._data

    def _take_example(self, data: DataSet) -> None:
        """Note what the network is called with.

        Raises:
            RecipeError: the recipe asks for what needs data that we can read
        """
        recipe, name = self.recipe, self.recipe.data.name
        needed = {"train.function": recipe.train.function, "evaluate.function": recipe.evaluate}
        for key, function in needed.items():
            if function is None:
                raise RecipeError(f"{key}: missing; {name} gives an example of inputs and no data that we can read")
        export = recipe.export
        for key, asked, plain in (
            ("precision", export.precision, ("fp32", "fp16")),
            ("tolerance_points", export.tolerance_points, (None,)),
            ("preprocess", export.preprocess, ("none",)),
            ("softmax", export.softmax, (False,)),
            ("also", export.also, ((),)),
            ("batch", export.batch, (None,)),
        ):
            if asked not in plain:
                valid = ", ".join("null" if one is None else str(one).lower() for one in plain)
                raise RecipeError(f"export.{key}: {asked} needs data that we can read; valid: {valid}")
        example = inputs_of(data.example)
        whole = example if isinstance(example, Inputs) else Inputs((example,))
        give_example(recipe.model.name, whole.map(lambda one: one.float() if one.is_floating_point() else one))

    def _labelled(self, data: DataSet) -> DataSet:
        """Images with the classes that the given network gives them.

        Raises:
            RecipeError: no trained network is given, or one that gives no logits of classes
        """
        model = self.recipe.model
        if not ModelName.of(model.name).carries_weights or model.weights == "fresh":
            asked = f"{model.name} with weights: {model.weights}"
            raise RecipeError(
                f"data.labels: false, but {asked} is no trained network that comes with its classes; valid: model: "
                "{onnx: FILE}, or an object given to compressor.compress"
            )
        self.show("labelling images by the given network")
        network = given_network(model.name, model.options, data.input_shape).to(self.device)
        with torch.inference_mode():
            output = network(torch.zeros(2, *data.input_shape, device=self.device))
        if not (isinstance(output, torch.Tensor) and output.dim() == 2):
            made = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
            raise RecipeError(f"data.labels: false needs a network that gives (N, classes); {model.name} gives {made}")
        return labelled_by(network, data, tuple(str(number) for number in range(output.shape[1])))

    def _check_same_images(self, data: DataSet) -> None:
        known = self.searched.images if (self.out / "search.json").exists() else None
        if known is not None and known != identity(data):
            raise RunError(
                f"data.path: {self.recipe.data.path} holds other images than those the search of this run used"
            )

    def reference(self) -> Architecture:
        """The unscaled network."""
        model, data = self.recipe.model, self.data
        return reference_architecture(model.name, model.options, data.classes, data.input_shape, model.width)

    def trainer(self, trained: Architecture | None = None, narrower: bool = False) -> Trainer:
        """A trainer of one network, whose widths may fall while it trains; without it, one that only evaluates."""
        config, on_cpu, data = self.recipe.train, self.device.type == "cpu", self.data  # which may say what inputs are
        fits = trained is not None and supports_channels_last(trained, on_cpu=on_cpu, narrower=narrower)
        if config.channels_last is True and trained is not None and not fits:
            raise RecipeError(
                f"train.channels_last: true, but {trained.model} cannot train so on this device; valid: auto, false"
            )
        plain = Trainer(
            data=data,
            device=self.device,
            augment=self.recipe.data.augment,
            bf16=config.precision == "bf16" or (config.precision == "auto" and self.device.type == "cuda"),
            channels_last=fits and config.channels_last is not False,
            checkpoint_seconds=self.recipe.checkpoint_seconds,
            progress=self.show,
            pause=self._pausing,
            team=self.team,
            sync_batch_norm=config.sync_batch_norm,
            metric=self._metric,
            on_epoch=self._on_epoch,
        )
        return plain if config.function is None else self._own_trainer(plain, config.function)

    def _on_epoch(self, label: str, record: EpochRecord) -> None:
        if self.tracker is not None:
            self.tracker.epoch(label, record)

    def _own_trainer(self, plain: Trainer, name: str) -> Trainer:
        """The trainer that calls a function of the user's."""
        if self.team is not None:
            raise RecipeError("train.function trains in one process; torchrun is for our own training")
        function = imported("train.function", name, RecipeError)
        fields = {one.name: getattr(plain, one.name) for one in dataclasses.fields(plain)}
        more = {"channels_last": False, "function": function, "given": self._given, "source": f"train.function: {name}"}
        return OwnTrainer(**(fields | more), _steps=self._steps)

    @property
    def _given(self) -> Any:
        """What functions of the user's get as data: what their data function gave, else our data set."""
        return self.data if self.data.given is None and self.data.example is None else self.data.given

    @property
    def _metric(self) -> OwnMetric | None:
        config = self.recipe.evaluate
        if config is None:
            return None
        function = imported("evaluate.function", config.function, RecipeError)
        found = OwnMetric(function, self._given, self.device, config.name, f"evaluate.function: {config.function}")
        if self.recipe.train.keep == "best" and not found.by_split:
            raise RecipeError(
                f"train.keep: best, but {config.function} has no argument split, by which it would judge validation "
                "data; valid: last"
            )
        return found

    def runtime(self, reference: Architecture) -> Runtime:
        """What measures latency beside the unscaled network."""
        bench = self.recipe.measured
        return Runtime(
            reference,
            Conditions(bench.provider, bench.batch, bench.threads, self.recipe.seed),
            opset=self.recipe.export.written_opset,
            folder=self.checkpoints / "latency",
            progress=self.show,
            stacked=allowed(self.recipe),
            form=form_of(self.recipe, self.data),
        )

    def cost_context(self, reference: Architecture) -> CostContext:
        """What costs are evaluated with."""
        return CostContext(
            self.recipe,
            reference,
            measure_file=lambda architecture, measure: measure_as_shipped(
                architecture, self.recipe, self.data, measure
            ),
            runtime=functools.cache(lambda: self.runtime(reference)),
            progress=self.show,
        )

    # progress ----------------------------------------------------------------------------------------------------

    def show(self, text: str, share: float | None = None) -> None:
        """Say what is done now, and how much of it."""
        if self.team is not None and self.team.rank:
            return
        before, width = self.span
        self.progress(self.stage, text, None if share is None else before + width * share)
        self.log.beat(text)

    def stop_if_asked(self) -> None:
        """End the run between two steps, if that is asked for.

        Raises:
            Stopped: it is
        """
        if self.pause():
            raise Stopped(f"{self.stage}: stopped")

    def _pausing(self, epochs: float) -> bool:
        stop = self.stop_at if self.stage == "search" else None
        return self.pause() or (stop is not None and epochs >= stop)


def architecture_of(path: Path, recipe: Recipe) -> Architecture:
    """An architecture of a file, which may name no other code than the recipe does.

    Raises:
        RunError: it is of another network
    """
    architecture, model = Architecture.from_json(read_text(path), str(path)), recipe.model
    same = architecture.model == model.name
    if same and ModelName.of(model.name).has_weights:  # code of others, called with the options
        same = dict(architecture.options) == dict(model.options)
    if not same:
        own = f"{architecture.model} {dict(architecture.options)}"
        raise damaged(path, f"it is of {own}, the recipe of {model.name} {dict(model.options)}")
    return architecture


def identity(data: DataSet) -> list[Any]:
    """What identifies a set of images, as JSON values."""
    return [data.describe(), list(data.class_names), list(data.mean), list(data.std)]
