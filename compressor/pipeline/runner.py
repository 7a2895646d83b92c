"""One way through: recipe → search → train → export → bench → report, each stage a file in the run folder.

A stage whose file is there is not run again, so a run can stop anywhere and go on. The uniform baseline and the
unscaled reference are trained, exported and measured exactly as the result is.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from compressor.bench import Conditions, measure_latencies
from compressor.costs.budget import Budget
from compressor.costs.latency_measurement import Runtime
from compressor.data import DataSet, load_data, normalised
from compressor.errors import DataError, RecipeError, RunError, TrainingError
from compressor.exporters import exporters
from compressor.exporters.scheme_choice import form_of
from compressor.files import copy_atomic, read_json, read_text, write_atomic, write_json
from compressor.models import build, check_reference, check_task, reference_architecture, supports_channels_last
from compressor.models.architecture import Architecture
from compressor.pipeline import environment, run_folder
from compressor.pipeline.calibration import calibrated
from compressor.pipeline.contender import Contender, network_record
from compressor.pipeline.doctor import check_provider
from compressor.pipeline.inherit import given_weights, inherited
from compressor.pipeline.limits import limited_costs
from compressor.pipeline.lock import alone_in
from compressor.pipeline.run_log import RunLog
from compressor.pipeline.settings import final_settings, finetuning_settings
from compressor.pipeline.shipping import load_weights, measure_as_shipped, ship, without_paths
from compressor.recipe import Cost, CostContext, Recipe, method_of, methods
from compressor.recipe import costs as known_costs
from compressor.report import efficiency_of, write_report
from compressor.search import Finetuning, Problem, SearchResult, Unfinished, search
from compressor.search.methods.uniform import UniformConfig
from compressor.training.checkpoint import save_tensors
from compressor.training.distributed import Team, team
from compressor.training.trainer import Paused, Trainer, pick_device

STAGES = ("search", "train", "export", "bench", "report")
Progress = Callable[[str, str, float | None], None]  # stage, text, share done


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


def run(
    recipe: Recipe,
    out: Path | str,
    *,
    resume: bool = False,
    until: str = "report",
    progress: Progress = lambda stage, text, share: None,
    shared: Shared | None = None,
    pause: Callable[[], bool] = lambda: False,
    stop_at: float | None = None,
) -> dict[str, Any]:
    """Run a recipe into a folder.

    Args:
        recipe: what to do
        out: the run folder; must be empty or absent unless `resume`
        resume: go on in a folder that this recipe has begun
        until: last stage to run, one of `STAGES`
        progress: called with stage, text and share done
        shared: what this run has in common with others
        pause: asked after every step of training; True ends the run there, to be resumed
        stop_at: end the run after so many epochs of a search that has a network at any time

    Returns:
        the report, or {} if `until` is an earlier stage

    Raises:
        Stopped: paused or stopped; the run goes on with `resume` as if it had not been
        CompressorError: see compressor.errors
    """
    folder = Path(out)
    if stop_at is not None and not stop_at > 0:
        raise RecipeError(f"--stop-at: {stop_at} is not a number of epochs above 0")
    if stop_at is not None and not method_of(recipe.search).anytime:
        able = ", ".join(name for name, method in methods().items() if method.anytime)
        raise RecipeError(f"--stop-at: search.method: {recipe.search.method} has no network to stop at; valid: {able}")
    with alone_in(folder):
        run_folder.claim(folder, recipe, resume)
        return _Run(recipe, folder, progress, shared or Shared(), pause, stop_at).to(until)


def continue_run(
    out: Path | str,
    until: str,
    progress: Progress = lambda stage, text, share: None,
    pause: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Go on in a run folder up to a stage, with the recipe that it holds; see `run`."""
    folder = Path(out)
    recipe = run_folder.load(folder)
    with alone_in(folder):
        return _Run(recipe, folder, progress, pause=pause).to(until)


def join(out: Path | str, team: Team) -> None:
    """In the processes of torchrun beside the first: train along whatever that one trains in a run folder."""

    def train(task: dict[str, Any]) -> None:
        run = _Run(task["recipe"], Path(out), lambda stage, text, share: None)
        run.stage = "train"
        run._train_one(next(c for c in run._contenders() if c.name == task["name"]))

    team.serve(train)


class Stopped(Exception):  # noqa: N818 - nothing went wrong
    """A run was paused or stopped while it trained.

    Attributes:
        current: the export record of the network of that moment, in the folder `now`; None: there is none yet
    """

    def __init__(self, message: str, current: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.current = current


@dataclass
class _Run:
    recipe: Recipe
    out: Path
    progress: Progress
    shared: Shared = Shared()
    pause: Callable[[], bool] = lambda: False
    stop_at: float | None = None
    stage: str = "search"
    team: Team | None = field(default_factory=team)
    _data: DataSet | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.device = pick_device(self.recipe.device)
        if self.recipe.threads is not None:
            torch.set_num_threads(self.recipe.threads)
        self.log = RunLog(self.out / "log.jsonl")

    def to(self, until: str) -> dict[str, Any]:
        """Run the stages up to `until`."""
        report: dict[str, Any] = {}
        timed = any(known_costs()[name].timed for name in self.recipe.budget.names)
        measuring = timed or "bench" in STAGES[: STAGES.index(until) + 1]
        if measuring and not (self.out / "latency.json").exists():
            check_provider(self.recipe.measured.provider)  # now, not after hours of training
        for stage in STAGES[: STAGES.index(until) + 1]:
            self.stage = stage
            self._stop_if_asked()
            run_folder.record(self.out, stage, self.recipe)
            try:
                with self.log.timing(stage):
                    report = getattr(self, f"_{stage}")() or {}
            except Paused as paused:
                raise Stopped(f"{stage}: {paused}") from paused
            except Unfinished as unfinished:
                raise Stopped(f"{stage}: {unfinished}", self._ship_current(unfinished)) from unfinished
        return report

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    @property
    def current(self) -> Path:
        """Files of the network that a paused search has."""
        return self.out / "now"

    @property
    def data(self) -> DataSet:
        if self._data is None:
            self._show(f"loading {self.recipe.data.name}", None)
            loaded = self.shared.load(self.recipe.data, seed=self.recipe.seed, device=self.device)
            self._data = normalised(loaded, self.recipe.data.mean, self.recipe.data.std)
            self._check_same_images(self._data)
            if len(self._data.train) < 2:
                raise DataError(
                    f"data: {self.recipe.data.name} leaves one training image; batch-norm needs two or more"
                )
        return self._data

    def _check_same_images(self, data: DataSet) -> None:
        path = self.out / "search.json"
        if path.exists() and read_json(path).get("images", _identity(data)) != _identity(data):
            raise RunError(
                f"data.path: {self.recipe.data.path} holds other images than those the search of this run used"
            )

    def _show(self, text: str, share: float | None) -> None:
        if self.team is not None and self.team.rank:
            return
        self.progress(self.stage, text, share)
        self.log.beat(text)

    def _trainer(self, trained: Architecture | None = None, narrower: bool = False) -> Trainer:
        """A trainer of one network, whose widths may fall while it trains; without it, one that only evaluates."""
        config, on_cpu = self.recipe.train, self.device.type == "cpu"
        fits = trained is not None and supports_channels_last(trained, on_cpu=on_cpu, narrower=narrower)
        if config.channels_last is True and trained is not None and not fits:
            raise RecipeError(
                f"train.channels_last: true, but {trained.model} cannot train so on this device; valid: auto, false"
            )
        bf16 = config.precision == "bf16" or (config.precision == "auto" and self.device.type == "cuda")
        last = fits and config.channels_last is not False
        return Trainer(
            self.data,
            self.device,
            self.recipe.data.augment,
            bf16,
            last,
            self.recipe.checkpoint_seconds,
            self._show,
            self._pausing,
        )

    def _stop_if_asked(self) -> None:
        if self.pause():
            raise Stopped(f"{self.stage}: stopped")

    def _pausing(self, epochs: float) -> bool:
        stop = self.stop_at if self.stage == "search" else None
        return self.pause() or (stop is not None and epochs >= stop)

    def _reference(self) -> Architecture:
        model, data = self.recipe.model, self.data
        return reference_architecture(model.name, model.options, data.classes, data.input_shape, model.width)

    # search ------------------------------------------------------------------------------------------------------

    def _search(self) -> None:
        baselines = {name: self.out / "baselines" / name / "architecture.json" for name in self.recipe.baselines}
        found_before = self._found_before()
        if found_before and all(path.exists() for path in baselines.values()):
            return
        exporters(self.recipe.export.also)  # now, not after hours of training
        check_reference(self.recipe.model.name, self.recipe.model.options)
        reference = self._reference()
        check_task(reference, self.data.task)
        limited = limited_costs(self._cost_context(reference))
        costs, budget = limited.costs, limited.budget
        if needless := budget.needless(limited.own):
            self._show(needless, None)
        problem = Problem(
            reference,
            budget,
            costs,
            self._trainer(reference, narrower=True),
            self.recipe.seed,
            self.shared.work or self.checkpoints / "search",
            limited.bounds,
            final_settings(self.recipe.train),
            self.recipe.model.width,
            given_weights(reference, self.data) if self.recipe.model.inherits else None,
            self.recipe.widths.engine,
        )
        for name, path in baselines.items():
            baseline = reference if name == "reference" else calibrated(search, problem, UniformConfig()).architecture
            self._keep_start(path.parent, problem, baseline)
            write_atomic(path, baseline.to_json())
        if found_before:
            return
        found = calibrated(self.shared.search, problem, self.recipe.search)
        result = {name: float(costs[name](found.architecture)) for name in budget.limits}
        record = {
            "trace": found.trace,
            "limits": dict(budget.limits),
            "one_channel": found.one_channel,
            "binding": found.binding,
            "note": budget.needless(limited.own, result),
            "dataset": self.data.describe(),
            "images": _identity(self.data),
            "reference_widths": dict(reference.widths),
            "finetuning": None if found.finetuning is None else asdict(found.finetuning),
            "training": [asdict(epoch) for epoch in found.history],
            **_searched(costs),
            "round_to": problem.bounds.multiple.tolist(),
        }
        write_json(self.out / "search.json", record)
        if found.weights is None:
            self._keep_start(self.out, problem, found.architecture)
        else:
            note = {"architecture": found.architecture.to_json()}
            save_tensors(self.out / "start.safetensors", found.weights, note)
        write_atomic(self.out / "architecture.json", found.architecture.to_json())  # last: the stage is done
        shutil.rmtree(self.checkpoints / "search", ignore_errors=True)
        shutil.rmtree(self.current, ignore_errors=True)

    def _keep_start(self, folder: Path, problem: Problem, architecture: Architecture) -> None:
        """Write the weights that a network of this run begins with, if the unscaled one comes with some."""
        if problem.given is not None:
            weights = inherited(problem.reference, problem.given, architecture, self.recipe.seed, problem.engine)
            save_tensors(folder / "start.safetensors", weights, {"architecture": architecture.to_json()})

    def _ship_current(self, unfinished: Unfinished) -> dict[str, Any]:
        """Export the network of a search that was paused."""
        architecture = unfinished.architecture
        self._show(f"exporting the network of epoch {unfinished.epochs:.2f}", None)
        shutil.rmtree(self.current, ignore_errors=True)
        note = {"architecture": architecture.to_json()}
        save_tensors(self.current / "weights.safetensors", unfinished.weights, note)
        write_atomic(self.current / "architecture.json", architecture.to_json())
        trainer, limits = self._trainer(), unfinished.limits
        ship("now", self.current, architecture, self.recipe, trainer, limits)
        record: dict[str, Any] = read_json(self.current / "export.json")
        counted = {name: limit for name, limit in limits.items() if name in record}  # latency was not measured
        return record | {"budget": Budget(counted).verdict(record)}

    def _runtime(self, reference: Architecture) -> Runtime:
        bench = self.recipe.measured
        conditions = Conditions(bench.provider, bench.batch, bench.threads, self.recipe.seed)
        return Runtime(
            reference,
            conditions,
            self.recipe.export.opset,
            self.checkpoints / "latency",
            lambda text: self._show(text, None),
            self.recipe.export.stacked,
            form_of(self.recipe, self.data),
        )

    def _cost_context(self, reference: Architecture) -> CostContext:
        return CostContext(
            self.recipe,
            reference,
            lambda architecture, measure: measure_as_shipped(architecture, self.recipe, self.data, measure),
            functools.cache(lambda: self._runtime(reference)),
            lambda text: self._show(text, None),
        )

    def _found_before(self) -> bool:
        if not all((self.out / name).exists() for name in ("search.json", "architecture.json")):
            return False
        begins = self._finetuning() is not None or self.recipe.model.inherits
        return not begins or (self.out / "start.safetensors").exists()

    def _finetuning(self) -> Finetuning | None:
        """How the result goes on from the weights that the search gave it, if it gave any."""
        given = read_json(self.out / "search.json").get("finetuning")
        return None if given is None else Finetuning(**given)

    def _contenders(self) -> list[Contender]:
        folders = {"result": self.out} | {name: self.out / "baselines" / name for name in self.recipe.baselines}
        contenders = []
        for name, folder in folders.items():
            path = folder / "architecture.json"
            if not path.exists():
                raise RunError(f"{path}: file not found; the search has not finished in this folder")
            architecture = Architecture.from_json(read_text(path), str(path))
            finetuning = self._finetuning() if name == "result" else None
            contenders.append(Contender(name, folder, architecture, finetuning))
        return contenders

    # train -------------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        contenders = self._contenders()
        for index, contender in enumerate(contenders):
            if contender.has("training.json", "weights.safetensors"):
                continue
            alike = (contender.architecture, contender.finetuning)
            twin = next((c for c in contenders[:index] if (c.architecture, c.finetuning) == alike), None)
            if twin is not None:  # same network, same seed, same training: the same weights
                for name in ("training.json", "weights.safetensors"):
                    copy_atomic(twin.folder / name, contender.folder / name)
                continue
            self._train_one(contender)

    def _train_one(self, contender: Contender) -> None:
        if contender.finetuning is not None and contender.finetuning.epochs == 0:
            copy_atomic(contender.folder / "start.safetensors", contender.folder / "weights.safetensors")
            write_json(contender.folder / "training.json", read_json(self.out / "search.json")["training"])
            return
        trainer = replace(self._trainer(contender.architecture), team=self.team)
        settings, verb = final_settings(self.recipe.train), "training"
        start = contender.folder / "start.safetensors"
        if contender.finetuning is None and not self.recipe.model.inherits:
            model = build(contender.architecture, self.recipe.seed)
        else:
            model, verb = load_weights(contender.architecture, start), "fine-tuning"
        if contender.finetuning is not None:
            settings = finetuning_settings(settings, contender.finetuning)
        model = trainer.prepare(model)
        checkpoint = self.checkpoints / f"train-{contender.name}.safetensors"
        joined = (
            nullcontext() if self.team is None else self.team.together({"recipe": self.recipe, "name": contender.name})
        )
        try:
            with joined:
                label = f"{verb} {contender.name}"
                history = trainer.fit(model, settings, seed=self.recipe.seed, label=label, checkpoint=checkpoint)
        except TrainingError:
            checkpoint.unlink(missing_ok=True)  # it leads to the same end; train.lr may be changed now
            raise
        if self.team is not None and self.team.rank:
            return
        write_json(contender.folder / "training.json", [asdict(record) for record in history])
        note = {"architecture": contender.architecture.to_json()}
        save_tensors(contender.folder / "weights.safetensors", model.state_dict(), note)

    # export ------------------------------------------------------------------------------------------------------

    def _export(self) -> None:
        for contender in self._contenders():
            if not contender.has("export.json", "model.onnx"):
                self._stop_if_asked()
                self._show(f"exporting {contender.name}", None)
                trainer = self._trainer()
                limits = read_json(self.out / "search.json")["limits"]
                ship(contender.name, contender.folder, contender.architecture, self.recipe, trainer, limits)

    # bench -------------------------------------------------------------------------------------------------------

    def _bench(self) -> None:
        contenders, config = self._contenders(), self.recipe.measured
        for contender in contenders:
            if not contender.has("export.json", "model.onnx"):
                raise RunError(f"{contender.folder / 'model.onnx'}: file not found; the export has not finished")
        if not (self.out / "latency.json").exists():
            self._show(f"measuring {config.warmup + config.runs} batches of {config.batch}", None)
            measured = measure_latencies(
                [contender.folder / "model.onnx" for contender in contenders],
                provider=config.provider,
                batch=config.batch,
                warmup=config.warmup,
                runs=config.runs,
                threads=config.threads,
            )
            record = {c.name: m.to_json() for c, m in zip(contenders, measured, strict=True)}
            write_json(self.out / "latency.json", {"networks": record, "machine": environment.machine(self.device)})
        for cost in self._verified():
            if not (self.out / f"{cost.record}.json").exists():
                self._verify(cost, contenders)

    def _verified(self) -> list[Cost]:
        """The limited costs that are measured on the shipped file."""
        return [cost for name in self.recipe.budget.names if (cost := known_costs()[name]).verify is not None]

    def _verify(self, cost: Cost, contenders: Sequence[Contender]) -> None:
        """Measure the shipped files against a limit of the budget."""
        context = self._cost_context(self._reference())
        limit = read_json(self.out / "search.json")["limits"][cost.name]
        assert cost.verify is not None
        record = {}
        for contender in contenders:
            self._show(f"verifying {contender.name}: {cost.title}", None)
            record[contender.name] = cost.verify(context, contender.folder / "model.onnx", limit)
        write_json(self.out / f"{cost.record}.json", record)

    # report ------------------------------------------------------------------------------------------------------

    def _report(self) -> dict[str, Any]:
        search_record = read_json(self.out / "search.json")
        latency = read_json(self.out / "latency.json")
        budget = Budget(search_record["limits"])
        verified = {cost.name: read_json(self.out / f"{cost.record}.json") for cost in self._verified()}
        networks = {
            c.name: network_record(
                c, latency["networks"][c.name], budget, {name: found[c.name] for name, found in verified.items()}
            )
            for c in self._contenders()
        }
        if reference := networks.get("reference"):
            for network in networks.values():
                network["efficiency"] = efficiency_of(network, reference)
        result = networks.pop("result")
        result["budget"] |= {key: search_record[key] for key in ("one_channel", "binding", "note")}
        record = {
            **result,
            "name": self.recipe.model.name,
            "recipe": without_paths(self.recipe.model_dump(mode="json")),
            "method": self.recipe.search.method,
            "seed": self.recipe.seed,
            "dataset": search_record["dataset"],
            "reference_widths": search_record["reference_widths"],
            **{f"{key}_search": search_record.get(key) for key in _search_records()},
            "baseline": networks,
            "trace": search_record["trace"],
            "finetuning": search_record.get("finetuning"),
            "machine": latency["machine"],
            "fallback": search_record["trace"].get("fallback"),
            "note": search_record["trace"].get("note"),
            "versions": read_json(self.out / "export.json")["versions"],
            "seconds": self.log.seconds(),
        }
        write_report(record, self.out)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        return record


def _search_records() -> list[str]:
    """Keys under which search.json has what a cost was found to be while searching."""
    return [cost.search_record for cost in known_costs().values() if cost.search_record]


def _searched(evaluators: Mapping[str, Any]) -> dict[str, Any]:
    """What those of the costs that were limited have to say, as JSON values; None for the others."""
    known = {cost.search_record: name for name, cost in known_costs().items() if cost.search_record}
    return {key: evaluators[name].to_json() if name in evaluators else None for key, name in known.items()}


def _identity(data: DataSet) -> list[Any]:
    """What identifies a set of images, as JSON values."""
    return [data.describe(), list(data.class_names), list(data.mean), list(data.std)]
