"""Further formats beside the ONNX file: built in, or of other packages through the entry-point group."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.errors import CompressorError, ExportError, RecipeError, not_one_of
from compressor.plugins import with_plugins

GROUP = "compressor.exporters"
Exporter = Callable[[nn.Module, torch.Tensor, Path, Mapping[str, str]], Path]
_CLOSE = 1e-4  # of the largest output


def torch_export(model: nn.Module, example: torch.Tensor, folder: Path, metadata: Mapping[str, str]) -> Path:
    """Write model.pt2 by torch.export, with a dynamic batch; what is loaded again gives the same outputs."""
    program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    path = folder / "model.pt2"
    torch.export.save(program, path, extra_files=dict(metadata))
    with torch.inference_mode():
        found, expected = torch.export.load(path).module()(example), model(example)
    if float((found - expected).abs().max()) > _CLOSE * float(expected.abs().max()):
        raise ExportError("export.also: torch_export: the file gives other outputs than PyTorch")
    return path


BUILT_IN: dict[str, Exporter] = {"torch_export": torch_export}


def exporters(names: Sequence[str]) -> dict[str, Exporter]:
    """The exporters of these names.

    Raises:
        RecipeError: one is unknown, or no function
    """
    known = with_plugins(GROUP, BUILT_IN)
    for name in names:
        if name not in known:
            raise RecipeError(f"export.also: {not_one_of(name, known)}")
        if not callable(known[name]):
            raise RecipeError(f"export.also: entry point {GROUP}: {name!r} is a {type(known[name]).__name__}")
    return {name: known[name] for name in names}


def export_also(
    names: Sequence[str], model: nn.Module, example: torch.Tensor, folder: Path, metadata: Mapping[str, str]
) -> dict[str, Any]:
    """Write a network in further formats.

    Args:
        names: of exporters, each called with the network on the CPU in evaluation mode, two inputs, a folder of its
            own and the metadata of the ONNX file; it returns the path of its main file
        model: left as it is
        example: inputs of the network, two
        folder: gets a folder for each name, whole or not at all
        metadata: of the ONNX file

    Returns:
        {name: {"file": relative to `folder`, "bytes": of all its files}}

    Raises:
        ExportError: an exporter fails, or gives no file of its folder
    """
    record = {}
    for name, export in exporters(names).items():
        beside, place = folder / f".{name}.tmp", folder / name
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            path = export(copy.deepcopy(model).cpu().eval(), example, beside, metadata)
            if not (isinstance(path, Path) and path.is_file() and path.is_relative_to(beside)):
                raise ExportError(f"export.also: {name} gave {path!r}, which is no file of its folder")
            size = sum(file.stat().st_size for file in beside.rglob("*") if file.is_file())
            record[name] = {"file": f"{name}/{path.relative_to(beside)}", "bytes": size}
        except CompressorError:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        except Exception as error:  # the plug-in's own code
            shutil.rmtree(beside, ignore_errors=True)
            reason = " ".join(str(error).split())[:300]
            raise ExportError(f"export.also: {name} failed: {type(error).__name__}: {reason}") from error
        shutil.rmtree(place, ignore_errors=True)
        beside.rename(place)
    return record
