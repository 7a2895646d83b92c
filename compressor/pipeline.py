"""One way through: recipe → search → train → export → bench → report, each stage a file in the run folder.

A stage whose file is there is not run again, so a run can stop anywhere and go on. The uniform baseline and the
unscaled reference are trained, exported and measured exactly as the result is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from compressor import cost, provenance, runfolder
from compressor.architecture import Architecture
from compressor.bench import Conditions, measure_latencies
from compressor.budget import Budget
from compressor.calibration import calibrated
from compressor.checkpoint import save_tensors
from compressor.data import DataSet, load_data, ordered
from compressor.doctor import check_provider
from compressor.errors import DataError, RunError, TrainingError
from compressor.exporters import OnnxClassifier, export_onnx, write_metadata
from compressor.files import copy_atomic, read_json, write_atomic, write_json
from compressor.filesize import exported_bytes
from compressor.latency import LatencyCost
from compressor.limits import limited_costs
from compressor.models import build, build_meta, check_reference, example_input, reference_architecture
from compressor.recipe import Recipe, UniformConfig
from compressor.recipe.budget import LATENCY
from compressor.report import efficiency_of, write_report
from compressor.runlog import RunLog
from compressor.runtime import Runtime
from compressor.search import Finetuning, Problem, SearchResult, search
from compressor.settings import final_settings, finetuning_settings
from compressor.train import Trainer, pick_device

STAGES = ("search", "train", "export", "bench", "report")
Progress = Callable[[str, str, float | None], None]  # stage, text, share done
# The longest that a share of right answers and a limit can be in JSON, and what a resumed recipe may grow by: the
# file's size is settled before they are known.
_LONGEST_SHARE, _LONGEST_LIMIT, _SPARE_BYTES = 0.00012345678901234567, 1e15, 64


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
) -> dict[str, Any]:
    """Run a recipe into a folder.

    Args:
        recipe: what to do
        out: the run folder; must be empty or absent unless `resume`
        resume: go on in a folder that this recipe has begun
        until: last stage to run, one of `STAGES`
        progress: told how it goes
        shared: what this run has in common with others

    Returns:
        the report, or {} if `until` is an earlier stage

    Raises:
        CompressorError: see compressor.errors
    """
    folder = Path(out)
    runfolder.claim(folder, recipe, resume)
    return _Run(recipe, folder, progress, shared or Shared()).to(until)


def continue_run(out: Path | str, until: str, progress: Progress = lambda stage, text, share: None) -> dict[str, Any]:
    """Go on in a run folder up to a stage, with the recipe that it holds; see `run`."""
    folder = Path(out)
    return _Run(runfolder.load(folder), folder, progress).to(until)


@dataclass(frozen=True)
class _Contender:
    """A network of the run: the result, or a baseline; with the folder of its files."""

    name: str
    folder: Path
    architecture: Architecture
    finetuning: Finetuning | None = None  # of the weights in start.safetensors; None: trained from scratch


@dataclass
class _Run:
    recipe: Recipe
    out: Path
    progress: Progress
    shared: Shared = Shared()
    stage: str = "search"
    _data: DataSet | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self.device = pick_device(self.recipe.device)
        if self.recipe.threads is not None:
            torch.set_num_threads(self.recipe.threads)
        self.log = RunLog(self.out / "log.jsonl")

    def to(self, until: str) -> dict[str, Any]:
        """Run the stages up to `until`."""
        report: dict[str, Any] = {}
        measuring = "bench" in STAGES[: STAGES.index(until) + 1] or LATENCY in self.recipe.budget.names
        if measuring and not (self.out / "latency.json").exists():
            check_provider(self.recipe.measured.provider)  # now, not after hours of training
        for stage in STAGES[: STAGES.index(until) + 1]:
            self.stage = stage
            runfolder.record(self.out, stage, self.recipe)
            with self.log.timing(stage):
                report = getattr(self, f"_{stage}")() or {}
        return report

    @property
    def checkpoints(self) -> Path:
        return self.out / "checkpoints"

    @property
    def data(self) -> DataSet:
        if self._data is None:
            self._tell(f"loading {self.recipe.data.name}", None)
            self._data = self.shared.load(self.recipe.data, seed=self.recipe.seed, device=self.device)
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

    def _tell(self, text: str, share: float | None) -> None:
        self.progress(self.stage, text, share)
        self.log.beat(text)

    def _trainer(self, channels_last: bool = True) -> Trainer:
        config = self.recipe.train
        bf16 = config.precision == "bf16" or (config.precision == "auto" and self.device.type == "cuda")
        last = channels_last if config.channels_last == "auto" else config.channels_last
        return Trainer(
            self.data,
            self.device,
            self.recipe.data.augment,
            bf16,
            last,
            self.recipe.checkpoint_seconds,
            self._tell,
        )

    def _reference(self) -> Architecture:
        model, data = self.recipe.model, self.data
        return reference_architecture(model.name, model.options, data.classes, data.input_shape, model.width)

    # search ------------------------------------------------------------------------------------------------------

    def _search(self) -> None:
        baselines = {name: self.out / "baselines" / name / "architecture.json" for name in self.recipe.baselines}
        found_before = self._found_before()
        if found_before and all(path.exists() for path in baselines.values()):
            return
        check_reference(self.recipe.model.name, self.recipe.model.options)
        reference = self._reference()
        limited = limited_costs(
            self.recipe,
            reference,
            self._shipped_bytes,
            lambda: self._runtime(reference),
            lambda text: self._tell(text, None),
        )
        costs, budget = limited.costs, limited.budget
        if needless := budget.needless(limited.own):
            self._tell(needless, None)
        problem = Problem(
            reference,
            budget,
            costs,
            self._trainer(_bears_channels_last(reference)),
            self.recipe.seed,
            self.shared.work or self.checkpoints / "search",
            limited.bounds,
            final_settings(self.recipe.train),
            self.recipe.model.width,
        )
        for name, path in baselines.items():
            baseline = reference if name == "reference" else calibrated(search, problem, UniformConfig()).architecture
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
            "latency": latency.to_json() if isinstance(latency := costs.get(LATENCY), LatencyCost) else None,
            "round_to": problem.bounds.multiple.tolist(),
        }
        write_json(self.out / "search.json", record)
        if found.weights is not None:
            note = {"architecture": found.architecture.to_json()}
            save_tensors(self.out / "start.safetensors", found.weights, note)
        write_atomic(self.out / "architecture.json", found.architecture.to_json())  # last: the stage is done
        shutil.rmtree(self.checkpoints / "search", ignore_errors=True)

    def _runtime(self, reference: Architecture) -> Runtime:
        bench = self.recipe.measured
        conditions = Conditions(bench.provider, bench.batch, bench.threads, self.recipe.seed)
        return Runtime(
            reference,
            conditions,
            self.recipe.export.opset,
            self.checkpoints / "latency",
            lambda text: self._tell(text, None),
        )

    def _shipped_bytes(self, architecture: Architecture) -> int:
        """The size that the ONNX file of an architecture will have, or a few bytes more."""
        name = max("result", *self.recipe.baselines, key=len)
        scores = dict.fromkeys(("onnx", "torch"), _LONGEST_SHARE)
        accuracy = {**scores, "samples": len(self.data.test), "weights": self.recipe.train.keep}
        limits = dict.fromkeys(self.recipe.budget.names, _LONGEST_LIMIT)
        metadata = self._metadata(_Contender(name, self.out, architecture), accuracy, limits)
        return exported_bytes(architecture, self.recipe.export.opset, metadata) + _SPARE_BYTES

    def _found_before(self) -> bool:
        if not all((self.out / name).exists() for name in ("search.json", "architecture.json")):
            return False
        return self._finetuning() is None or (self.out / "start.safetensors").exists()

    def _finetuning(self) -> Finetuning | None:
        """How the result goes on from the weights that the search gave it, if it gave any."""
        given = read_json(self.out / "search.json").get("finetuning")
        return None if given is None else Finetuning(**given)

    def _contenders(self) -> list[_Contender]:
        folders = {"result": self.out} | {name: self.out / "baselines" / name for name in self.recipe.baselines}
        contenders = []
        for name, folder in folders.items():
            path = folder / "architecture.json"
            if not path.exists():
                raise RunError(f"{path}: file not found; the search has not finished in this folder")
            architecture = Architecture.from_json(path.read_text(encoding="utf-8"), str(path))
            finetuning = self._finetuning() if name == "result" else None
            contenders.append(_Contender(name, folder, architecture, finetuning))
        return contenders

    # train -------------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        contenders = self._contenders()
        for index, contender in enumerate(contenders):
            if _there(contender, "training.json", "weights.safetensors"):
                continue
            alike = (contender.architecture, contender.finetuning)
            twin = next((c for c in contenders[:index] if (c.architecture, c.finetuning) == alike), None)
            if twin is not None:  # same network, same seed, same training: the same weights
                for name in ("training.json", "weights.safetensors"):
                    copy_atomic(twin.folder / name, contender.folder / name)
                continue
            self._train_one(contender)

    def _train_one(self, contender: _Contender) -> None:
        trainer = self._trainer(_bears_channels_last(contender.architecture))
        settings, verb = final_settings(self.recipe.train), "training"
        if contender.finetuning is None:
            model = build(contender.architecture, self.recipe.seed)
        else:
            model = load_weights(contender.architecture, contender.folder / "start.safetensors")
            settings, verb = finetuning_settings(settings, contender.finetuning), "fine-tuning"
        model = trainer.prepare(model)
        checkpoint = self.checkpoints / f"train-{contender.name}.safetensors"
        try:
            history = trainer.fit(
                model,
                settings,
                seed=self.recipe.seed,
                label=f"{verb} {contender.name}",
                checkpoint=checkpoint,
            )
        except TrainingError:
            checkpoint.unlink(missing_ok=True)  # it leads to the same end; train.lr may be changed now
            raise
        write_json(contender.folder / "training.json", [asdict(record) for record in history])
        note = {"architecture": contender.architecture.to_json()}
        save_tensors(contender.folder / "weights.safetensors", model.state_dict(), note)

    # export ------------------------------------------------------------------------------------------------------

    def _export(self) -> None:
        for contender in self._contenders():
            if not _there(contender, "export.json", "model.onnx"):
                self._tell(f"exporting {contender.name}", None)
                self._export_one(contender)

    def _export_one(self, contender: _Contender) -> None:
        data, config = self.data, self.recipe.export
        trainer = self._trainer(channels_last=False)
        model = load_weights(contender.architecture, contender.folder / "weights.safetensors")
        sample = next(ordered(data.test, data, 100))[0].cpu()
        batches = [sample[:1], sample]
        path = contender.folder / "model.onnx"
        exported = export_onnx(model, path, batches, opset=config.opset, tolerance=config.tolerance)
        measured, samples = OnnxClassifier(path, self.recipe.measured.threads).accuracy(ordered(data.test, data, 500))
        in_torch = trainer.evaluate(model.to(self.device), data.test)
        accuracy = {
            "onnx": measured,
            "torch": in_torch.accuracy,
            "samples": samples,
            "weights": self.recipe.train.keep,
        }
        limits = read_json(self.out / "search.json")["limits"]
        write_metadata(path, self._metadata(contender, accuracy, limits))
        record = {
            "params": cost.count_params(model),
            "macs": cost.macs(contender.architecture),
            "onnx_bytes": path.stat().st_size,
            "opset": exported.opset,
            "versions": provenance.versions(),
            "accuracy": accuracy,
            "parity": exported.parity.to_json(),
        }
        write_json(contender.folder / "export.json", record)

    def _metadata(self, contender: _Contender, accuracy: dict[str, Any], limits: dict[str, float]) -> dict[str, str]:
        data = self.data
        return {
            "compressor.recipe": self.recipe.to_yaml(),
            "compressor.network": contender.name,
            "compressor.architecture": contender.architecture.to_json(),
            "compressor.budget": json.dumps(limits),
            "compressor.accuracy": json.dumps(accuracy),
            "compressor.versions": json.dumps(provenance.versions()),
            "compressor.classes": json.dumps(data.class_names),
            "compressor.mean": json.dumps(data.mean),
            "compressor.std": json.dumps(data.std),
        }

    # bench -------------------------------------------------------------------------------------------------------

    def _bench(self) -> None:
        contenders, config = self._contenders(), self.recipe.measured
        for contender in contenders:
            if not _there(contender, "export.json", "model.onnx"):
                raise RunError(f"{contender.folder / 'model.onnx'}: file not found; the export has not finished")
        if not (self.out / "latency.json").exists():
            self._tell(f"measuring {config.warmup + config.runs} batches of {config.batch}", None)
            measured = measure_latencies(
                [contender.folder / "model.onnx" for contender in contenders],
                provider=config.provider,
                batch=config.batch,
                warmup=config.warmup,
                runs=config.runs,
                threads=config.threads,
            )
            record = {c.name: m.to_json() for c, m in zip(contenders, measured, strict=True)}
            write_json(self.out / "latency.json", {"networks": record, "machine": provenance.machine(self.device)})
        if LATENCY in self.recipe.budget.names and not (self.out / "verification.json").exists():
            self._verify(contenders)

    def _verify(self, contenders: Sequence[_Contender]) -> None:
        """Measure the shipped files against the latency that the budget allows."""
        runtime = self._runtime(self._reference())
        limit, share = read_json(self.out / "search.json")["limits"][LATENCY], self.recipe.budget.latency_share
        record = {}
        for contender in contenders:
            self._tell(f"verifying the latency of {contender.name}", None)
            record[contender.name] = runtime.verify(contender.folder / "model.onnx", limit, share)
        write_json(self.out / "verification.json", record)

    # report ------------------------------------------------------------------------------------------------------

    def _report(self) -> dict[str, Any]:
        search_record = read_json(self.out / "search.json")
        latency = read_json(self.out / "latency.json")
        budget = Budget(search_record["limits"])
        verified = read_json(path) if (path := self.out / "verification.json").exists() else {}
        networks = {
            c.name: self._network(c, latency["networks"][c.name], budget, verified.get(c.name))
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
            "method": self.recipe.search.method,
            "seed": self.recipe.seed,
            "dataset": search_record["dataset"],
            "reference_widths": search_record["reference_widths"],
            "latency_search": search_record.get("latency"),
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

    def _network(
        self, contender: _Contender, latency: dict[str, Any], budget: Budget, verified: dict[str, Any] | None
    ) -> dict[str, Any]:
        exported = read_json(contender.folder / "export.json")
        costs = {name: exported[name] for name in ("params", "macs", "onnx_bytes")}
        if verified is not None:
            costs[LATENCY] = verified["cost_ms"]
        return {
            **{key: exported[key] for key in ("params", "macs", "onnx_bytes", "opset", "accuracy", "parity")},
            "budget": budget.verdict(costs),
            "latency_ms": {key.removesuffix("_ms"): value for key, value in latency.items() if key != "path"},
            "verification": verified,
            "efficiency": None,
            "widths": dict(contender.architecture.widths),
            "training": read_json(contender.folder / "training.json"),
        }


def load_weights(architecture: Architecture, path: Path) -> nn.Module:
    """A network of an architecture with the weights of a safetensors file, on the CPU."""
    model = build(architecture)
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        raise RunError(f"{path}: holds the weights of another architecture; delete it to train again") from error
    return model.eval()


def _identity(data: DataSet) -> list[Any]:
    """What tells one set of images from another, as JSON values."""
    return [data.describe(), list(data.class_names), list(data.mean), list(data.std)]


def _there(contender: _Contender, *names: str) -> bool:
    return all((contender.folder / name).exists() for name in names)


def _bears_channels_last(architecture: Architecture) -> bool:
    """Whether a network convolves images and does not view its maps as they lie in memory."""
    if not any(isinstance(module, nn.Conv2d) for module in build_meta(architecture).modules()):
        return False
    # Real tensors: what memory format a convolution gives is up to its kernel.
    model = build(architecture).to(memory_format=torch.channels_last).eval()
    images = example_input(architecture).to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            model(images)
    except RuntimeError:  # view size is not compatible
        return False
    return True
