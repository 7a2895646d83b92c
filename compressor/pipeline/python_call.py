"""One call from Python: a network, its inputs and a budget in; a smaller, trained network and its ONNX file out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader

from compressor.data.draws import drawing_at
from compressor.dependency.inputs import inputs_of
from compressor.errors import ModelError, RecipeError, RunError
from compressor.files import cache_folder, digest_of, replace_atomic, sha256_of
from compressor.models import offer
from compressor.models.architecture import Architecture
from compressor.models.examples import give_example, given_example
from compressor.models.from_onnx.file import read_file
from compressor.models.from_onnx.values import torch_dtype
from compressor.models.given_source import copied, is_offered, slug
from compressor.models.wrappers import unwrapped
from compressor.pipeline import run_folder
from compressor.pipeline.context import architecture_of
from compressor.pipeline.records import SearchRecord, damaged
from compressor.pipeline.runner import Progress, run
from compressor.pipeline.shipping import QAT_WEIGHTS, load_weights
from compressor.recipe import parse_recipe
from compressor.recipe.model_name import ModelName
from compressor.user_functions import offer_function

_PICKLE = "model.pt"
_PLAIN = (bool, int, float, str, type(None))  # settings of a layer, as far as they are looked at
_LOOKED_AT = 32  # inputs that statistics of batch-norms begin with
_DEEP, _MANY = 3, 20  # levels of data that are looked at, and items of each


@dataclass(frozen=True)
class Compressed:
    """What `compress` gives.

    Attributes:
        model: the smaller network, trained, on the CPU in evaluation mode
        onnx_path: its file
        architecture: its widths
        report: what report.json holds: accuracy or metric, parity, latency, costs against the budget
        folder: of the run, with report.html
    """

    model: nn.Module
    onnx_path: Path
    architecture: Architecture
    report: Mapping[str, Any]
    folder: Path

    @property
    def met(self) -> bool:
        """Whether the budget is met."""
        return bool(self.report["budget"]["met"])


def compress(
    model: nn.Module | Path | str,
    example_input: Any = None,
    *,
    budget: str | Mapping[str, Any],
    out: Path | str,
    method: str | Mapping[str, Any] = "taylor",
    data: Any = None,
    train: Callable[..., Any] | Mapping[str, Any] | None = None,
    evaluate: Callable[..., float] | Mapping[str, Any] | None = None,
    keep_weights: bool = True,
    resume: bool = False,
    progress: Progress = lambda stage, text, share: None,
    **sections: Any,
) -> Compressed:
    """Compress a network to a budget; what `compressor run` does, with objects of this process.

    With data that we can read (`data`, see `compressor.data.torch_data`) we train and judge, unless functions are
    given. With functions `train` and `evaluate` both, inputs, outputs and data are their business: the network may take
    several tensors and give any nested tuples and mappings of tensors.

    Args:
        model: any module; left as it is. DataParallel, AveragedModel and torch.compile are taken off. Or the path of an
            ONNX file
        example_input: a tensor (N, …), a tuple of some, or a mapping of keywords to some; of an ONNX file real inputs,
            several; None: the first of `data`, where that is a tensor or a loader, or data that we can read
        budget: a share of the parameters such as "0.25x", or a recipe's `budget` section
        out: the run folder
        method: a search method's name, or a recipe's `search` section
        data: torch datasets or loaders: (train, test), (train, validation, test) or a mapping; or a recipe's `data`
            section or its name; or, with both functions, whatever they take
        train: (model, data, epochs, device, on_step) → None; or a recipe's `train` section, whose `function` may be one
        evaluate: (model, data, device) → float; or a mapping of `function`, `name` and `better`
        keep_weights: go on from the weights that the network has; else only its architecture is taken
        resume: go on in a folder that the same call has begun
        progress: called with stage, text and share done
        sections: further sections of the recipe, such as finetune={"epochs": 5}, export={...}, seed=1

    Returns:
        the smaller network and its evidence

    Raises:
        CompressorError: see compressor.errors; nothing but a sentence is lost: the folder can be resumed
    """
    _check_types(model, budget=budget, method=method, out=out)
    with drawing_at(0):  # whoever calls goes on with their own random numbers
        named, example = _named(model, example_input, data)
    train_section, judged = _train_section(train), _evaluate_section(evaluate)
    if train_section.get("function") is not None and judged is not None:
        if example is None:
            raise RecipeError(
                "compress: example_input: missing; valid: some real inputs (N, …): batch-norms that the file has lost "
                "get the statistics of these"
            )
        inputs_of(example)  # refuses what is none
        given = {"example": example, "data": data}
        data_section: Any = {"name": offer_function(f"data-{_kind_of(data)}", lambda: given)}
    elif data is None:
        missing = "evaluate" if train_section.get("function") is not None else "data, or train and evaluate,"
        raise RecipeError(f"compress: {missing} must be given: what would the network be judged by?")
    else:
        data_section = _data_section(data)
    search = {"method": method} if isinstance(method, str) else dict(method)
    raw = {
        "model": {"name": named, "weights": "given" if keep_weights else "fresh"},
        "data": data_section,
        "budget": {"params": budget} if isinstance(budget, str) else dict(budget),
        "train": train_section,
        "evaluate": judged,
        **sections,
        "search": search | dict(sections.get("search", {})),
    }
    folder = Path(out)
    with drawing_at(0):
        report = run(parse_recipe(raw, source="compress"), folder, resume=resume, progress=progress)
        found = _network(folder)
    _pickle(found, folder)
    return Compressed(found, folder / "model.onnx", _architecture(folder), report, folder)


def _drawn_from(data: Any, path: Path) -> Any:
    """Inputs of a file in what the user's functions take as data; None: they are not found there."""
    ports = read_file(path).inputs
    with suppress(Exception):  # their own classes
        batch = data if isinstance(data, torch.Tensor) else next(iter(data))
        while isinstance(batch, (tuple, list)) and len(ports) == 1:
            batch = batch[0]
        if isinstance(batch, torch.Tensor) and batch.dim() == len(ports[0].sizes):
            wanted = torch_dtype(ports[0].kind)
            if batch.dtype == wanted or (batch.is_floating_point() and wanted.is_floating_point):
                return batch[:_LOOKED_AT]
    return None


def _named(model: nn.Module | Path | str, example: Any, data: Any) -> tuple[str, Any]:
    """What a recipe calls a network, and an example of its inputs."""
    if not isinstance(model, nn.Module):
        path = Path(model).resolve()  # the run goes on from any working directory
        return f"onnx:{path}", _drawn_from(data, path) if example is None else example
    inside, _ = unwrapped(copied(model))
    return offer(f"{slug(type(inside).__name__)}-{_digest(inside)}", inside), example


def load(folder: Path | str, model: nn.Module | None = None, *, trust: bool = False) -> nn.Module:
    """The network of a finished run, to train on or to export elsewhere.

    Args:
        folder: of the run
        model: the network that was compressed, where the run's was one of another process and its class cannot be
            imported here
        trust: build it though its recipe names code, or its file holds pickled objects, that this user has not run here

    Returns:
        the smaller network with its trained weights, on the CPU in evaluation mode

    Raises:
        RunError: the run has not got that far, or is not to be trusted
        ModelError: the network cannot be built here
    """
    place = Path(folder)
    recipe = run_folder.load(place, trust)
    named = ModelName.of(recipe.model.name)
    if named.file is not None and not named.file.exists():
        return _unpickled(place, trust=trust)
    if named.source != "given":
        return _network(place)
    if model is not None:
        if not isinstance(model, nn.Module):
            raise ModelError(f"load: model: a {type(model).__name__}; valid: the torch.nn.Module that was compressed")
        offer(named.name, model)
    if model is not None or is_offered(named.name):
        return _network(place)
    return _unpickled(place, trust=trust)


def _check_types(model: Any, *, budget: Any, method: Any, out: Any) -> None:
    """Refuse arguments of another kind, each in one sentence."""
    is_file = isinstance(model, (str, Path)) and Path(model).suffix == ".onnx"
    if not (is_file or isinstance(model, nn.Module)) or isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            f"compress: model: a {type(model).__name__}; valid: a torch.nn.Module that is not TorchScript, or the path "
            "of an .onnx file"
        )
    if not is_file and any(is_lazy(parameter) for parameter in model.parameters()):
        raise ModelError("compress: model: has lazy layers without a size; run it once before")
    for name, value, kinds, valid in (
        (
            "budget",
            budget,
            (str, Mapping),
            'a share of the parameters such as "0.25x", or a mapping such as {"macs": "3M"}',
        ),
        ("method", method, (str, Mapping), "a search method's name, or a mapping with method in it"),
        ("out", out, (str, Path), "the path of a folder"),
    ):
        if not isinstance(value, kinds):
            raise RecipeError(f"compress: {name}: {value!r:.80}; valid: {valid}")


def _digest(model: nn.Module) -> str:
    """What tells a network from another of its class: its layers, their settings, and its weights."""
    found = hashlib.blake2b(digest_size=4)
    for path, module in model.named_modules():
        settings = {name: value for name, value in vars(module).items() if name != "training"}
        settings = {name: value for name, value in settings.items() if _is_plain(value)}
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        found.update(repr((path, kind, sorted(settings.items(), key=str))).encode())
    for name, tensor in model.state_dict().items():
        if not isinstance(tensor, torch.Tensor):  # extra state
            continue
        value = tensor.detach().cpu().contiguous()
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return found.hexdigest()


def _is_plain(value: Any) -> bool:
    """Whether a setting is the same text in every process."""
    return all(map(_is_plain, value)) if isinstance(value, tuple) else isinstance(value, _PLAIN)


def _kind_of(data: Any) -> str:
    """What tells data from other data without reading them: kinds and lengths."""

    def told(value: Any, depth: int = 0) -> Any:
        if isinstance(value, Mapping) and depth < _DEEP:
            return {str(key): told(item, depth + 1) for key, item in value.items()}
        if isinstance(value, (tuple, list)) and depth < _DEEP and len(value) <= _MANY:
            return [told(item, depth + 1) for item in value]
        inner = told(value.dataset, depth + 1) if isinstance(value, DataLoader) else None
        try:
            length = len(value)
        except TypeError:  # an iterable, or anything
            length = None
        return [type(value).__qualname__, length, inner]

    return digest_of(json.dumps(told(data)), 8)


def _network(folder: Path) -> nn.Module:
    weights = folder / "weights.safetensors"
    if not weights.exists():
        raise RunError(f"{weights}: file not found; the network has not been trained in this folder")
    run_folder.check_files(folder)
    recipe = run_folder.load(folder, trust=True)
    taken = SearchRecord.read(folder / "search.json").inputs
    if taken is not None and given_example(recipe.model.name) is None:
        give_example(recipe.model.name, taken.zeros())
    trained_on = folder / QAT_WEIGHTS  # those of the file, where they are there
    return load_weights(_architecture(folder), trained_on if trained_on.exists() else weights, recipe.seed)


def _architecture(folder: Path) -> Architecture:
    path = folder / "architecture.json"
    if not path.exists():
        raise RunError(f"{path}: file not found; the search has not finished in this folder")
    return architecture_of(path, run_folder.load(folder, trust=True))


def _pickle(model: nn.Module, folder: Path) -> None:
    """Keep the network as an object, where its classes allow it; note that this user has made the file."""
    path = folder / _PICKLE
    try:
        replace_atomic(path, lambda beside: torch.save(model, beside))
    except Exception:  # pickling runs any code; a class within a function cannot be, nor a parametrized layer
        path.unlink(missing_ok=True)
        return
    with suppress(OSError):  # where it cannot be noted, `load` asks for trust
        mark = _mark_of(path)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _mark_of(path: Path) -> Path:
    return cache_folder() / "pickled" / sha256_of(path)


def _unpickled(folder: Path, *, trust: bool) -> nn.Module:
    path = folder / _PICKLE
    if path.is_symlink() or not path.is_file():
        raise ModelError(
            f"{folder}: its network was an object of another process, and could not be kept as one; give it as model="
        )
    if not (trust or _mark_of(path).exists()):
        raise RunError(
            f"{path}: holds pickled objects, whose loading runs code, and this user has not made it on this machine; "
            "say trust=True if that code may run"
        )
    try:
        found = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # unpickling runs any code
        text = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path}: cannot be loaded here ({text}); give the network that was compressed as model="
        ) from error
    if not isinstance(found, nn.Module):
        raise damaged(path, f"holds a {type(found).__name__}, not a network")
    return found.eval()


def _train_section(train: Callable[..., Any] | Mapping[str, Any] | None) -> dict[str, Any]:
    section = {} if train is None else dict(train) if isinstance(train, Mapping) else {"function": train}
    return _with_function(section, "train")


def _evaluate_section(evaluate: Callable[..., float] | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if evaluate is None:
        return None
    return _with_function(dict(evaluate) if isinstance(evaluate, Mapping) else {"function": evaluate}, "evaluate")


def _with_function(section: dict[str, Any], name: str) -> dict[str, Any]:
    if callable(section.get("function")):
        function = section["function"]
        of = slug(getattr(function, "__qualname__", type(function).__qualname__))
        return section | {"function": offer_function(f"{name}-{of}", function)}
    return section


def _data_section(data: Any) -> Any:
    if isinstance(data, str) or (isinstance(data, Mapping) and isinstance(data.get("name"), str)):
        return data
    return {"name": offer_function(f"data-{_kind_of(data)}", lambda: data)}
