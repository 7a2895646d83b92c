"""One way through: recipe → search → train → export → bench → report, each stage a file in the run folder.

A stage whose file is there is not run again, so a run can stop anywhere and go on. The uniform baseline and the
unscaled reference are trained, exported and measured exactly as the result is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from compressor import cost, provenance, runfolder
from compressor.architecture import Architecture
from compressor.bench import measure_latencies
from compressor.budget import Budget
from compressor.checkpoint import save_tensors
from compressor.data import DataSet, load_data, ordered
from compressor.doctor import check_provider
from compressor.errors import DataError, RunError, TrainingError
from compressor.exporters import OnnxClassifier, export_onnx, write_metadata
from compressor.files import copy_atomic, read_json, write_atomic, write_json
from compressor.models import build, build_meta, check_reference, reference_architecture
from compressor.recipe import Recipe, TrainConfig, UniformConfig
from compressor.report import efficiency, write_report
from compressor.runlog import RunLog
from compressor.search import Problem, search
from compressor.train import Settings, Trainer, pick_device, schedule

STAGES = ("search", "train", "export", "bench", "report")
Progress = Callable[[str, str, float | None], None]  # stage, text, share done


def run(
    recipe: Recipe,
    out: Path | str,
    *,
    resume: bool = False,
    until: str = "report",
    progress: Progress = lambda stage, text, share: None,
) -> dict[str, Any]:
    """Run a recipe into a folder.

    Args:
        recipe: what to do
        out: the run folder; must be empty or absent unless `resume`
        resume: go on in a folder that this recipe has begun
        until: last stage to run, one of `STAGES`
        progress: told how it goes

    Returns:
        the report, or {} if `until` is an earlier stage

    Raises:
        CompressorError: see compressor.errors
    """
    folder = Path(out)
    runfolder.claim(folder, recipe, resume)
    return _Run(recipe, folder, progress).to(until)


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


@dataclass
class _Run:
    recipe: Recipe
    out: Path
    progress: Progress
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
        if "bench" in STAGES[: STAGES.index(until) + 1] and not (self.out / "latency.json").exists():
            check_provider(self.recipe.bench.provider)  # now, not after hours of training
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
            self._data = load_data(self.recipe.data, seed=self.recipe.seed, device=self.device)
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
        found_before = all((self.out / name).exists() for name in ("search.json", "architecture.json"))
        if found_before and all(path.exists() for path in baselines.values()):
            return
        check_reference(self.recipe.model.name, self.recipe.model.options)
        reference = self._reference()
        problem = Problem(
            reference,
            Budget(self.recipe.budget.limits),
            cost.COSTS,
            self._trainer(_has_images(reference)),
            self.recipe.seed,
            self.checkpoints / "search",
        )
        for name, path in baselines.items():
            baseline = reference if name == "reference" else search(problem, UniformConfig()).architecture
            write_atomic(path, baseline.to_json())
        if found_before:
            return
        found = search(problem, self.recipe.search)
        record = {
            "trace": found.trace,
            "one_channel": found.one_channel,
            "dataset": self.data.describe(),
            "images": _identity(self.data),
            "reference_widths": dict(reference.widths),
        }
        write_json(self.out / "search.json", record)
        write_atomic(self.out / "architecture.json", found.architecture.to_json())  # last: the stage is done
        shutil.rmtree(self.checkpoints / "search", ignore_errors=True)

    def _contenders(self) -> list[_Contender]:
        folders = {"result": self.out} | {name: self.out / "baselines" / name for name in self.recipe.baselines}
        contenders = []
        for name, folder in folders.items():
            path = folder / "architecture.json"
            if not path.exists():
                raise RunError(f"{path}: file not found; the search has not finished in this folder")
            contenders.append(
                _Contender(name, folder, Architecture.from_json(path.read_text(encoding="utf-8"), str(path)))
            )
        return contenders

    # train -------------------------------------------------------------------------------------------------------

    def _train(self) -> None:
        contenders = self._contenders()
        for index, contender in enumerate(contenders):
            if _there(contender, "training.json", "weights.safetensors"):
                continue
            twin = next((c for c in contenders[:index] if c.architecture == contender.architecture), None)
            if twin is not None:  # same network, same seed, same training: the same weights
                for name in ("training.json", "weights.safetensors"):
                    copy_atomic(twin.folder / name, contender.folder / name)
                continue
            self._train_one(contender)

    def _train_one(self, contender: _Contender) -> None:
        trainer = self._trainer(_has_images(contender.architecture))
        model = trainer.prepare(build(contender.architecture, self.recipe.seed))
        checkpoint = self.checkpoints / f"train-{contender.name}.safetensors"
        try:
            history = trainer.fit(
                model,
                final_settings(self.recipe.train),
                seed=self.recipe.seed,
                label=f"training {contender.name}",
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
        measured, samples = OnnxClassifier(path, self.recipe.bench.threads).accuracy(ordered(data.test, data, 500))
        in_torch = trainer.evaluate(model.to(self.device), data.test)
        accuracy = {
            "onnx": measured,
            "torch": in_torch.accuracy,
            "samples": samples,
            "weights": self.recipe.train.keep,
        }
        write_metadata(path, self._metadata(contender, accuracy))
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

    def _metadata(self, contender: _Contender, accuracy: dict[str, Any]) -> dict[str, str]:
        data = self.data
        return {
            "compressor.recipe": self.recipe.to_yaml(),
            "compressor.network": contender.name,
            "compressor.architecture": contender.architecture.to_json(),
            "compressor.budget": json.dumps(self.recipe.budget.limits),
            "compressor.accuracy": json.dumps(accuracy),
            "compressor.versions": json.dumps(provenance.versions()),
            "compressor.classes": json.dumps(data.class_names),
            "compressor.mean": json.dumps(data.mean),
            "compressor.std": json.dumps(data.std),
        }

    # bench -------------------------------------------------------------------------------------------------------

    def _bench(self) -> None:
        if (self.out / "latency.json").exists():
            return
        contenders, config = self._contenders(), self.recipe.bench
        for contender in contenders:
            if not _there(contender, "export.json", "model.onnx"):
                raise RunError(f"{contender.folder / 'model.onnx'}: file not found; the export has not finished")
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

    # report ------------------------------------------------------------------------------------------------------

    def _report(self) -> dict[str, Any]:
        search_record = read_json(self.out / "search.json")
        latency = read_json(self.out / "latency.json")
        networks = {c.name: self._network(c, latency["networks"][c.name]) for c in self._contenders()}
        if reference := networks.get("reference"):
            for network in networks.values():
                network["efficiency"] = _efficiency(network, reference)
        result = networks.pop("result")
        result["budget"]["one_channel"] = search_record["one_channel"]
        record = {
            **result,
            "name": self.recipe.model.name,
            "method": self.recipe.search.method,
            "seed": self.recipe.seed,
            "dataset": search_record["dataset"],
            "reference_widths": search_record["reference_widths"],
            "baseline": networks,
            "trace": search_record["trace"],
            "machine": latency["machine"],
            "fallback": search_record["trace"].get("fallback"),
            "versions": read_json(self.out / "export.json")["versions"],
            "seconds": self.log.seconds(),
        }
        write_report(record, self.out)
        shutil.rmtree(self.checkpoints, ignore_errors=True)
        return record

    def _network(self, contender: _Contender, latency: dict[str, Any]) -> dict[str, Any]:
        exported = read_json(contender.folder / "export.json")
        costs = {name: exported[name] for name in ("params", "macs")}
        return {
            **{key: exported[key] for key in ("params", "macs", "onnx_bytes", "opset", "accuracy", "parity")},
            "budget": Budget(self.recipe.budget.limits).verdict(costs),
            "latency_ms": {key.removesuffix("_ms"): value for key, value in latency.items() if key != "path"},
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


def _has_images(architecture: Architecture) -> bool:
    return any(isinstance(module, nn.Conv2d) for module in build_meta(architecture).modules())


def final_settings(config: TrainConfig) -> Settings:
    """How a recipe's `train` section trains the result and the baselines."""
    smooth = config.schedule == "onecycle"
    return Settings(
        epochs=config.epochs,
        batch_size=config.batch_size,
        lr_at=schedule(config.schedule, config.lr, config.epochs),
        momentum=config.momentum if config.momentum is not None else (0.9 if smooth else 0.5),
        weight_decay=config.weight_decay,
        nesterov=smooth,
        label_smoothing=config.label_smoothing,
        keep=config.keep,
    )


def _efficiency(network: dict[str, Any], reference: dict[str, Any]) -> dict[str, float] | None:
    if not reference["accuracy"]["onnx"]:
        return None
    ce, se = efficiency(
        network["accuracy"]["onnx"],
        network["macs"],
        network["params"],
        base_accuracy=reference["accuracy"]["onnx"],
        base_macs=reference["macs"],
        base_params=reference["params"],
    )
    return {"ce": ce, "se": se}
