"""Whether a network can ship, learned before anything is trained: its file is made untrained, compared, and
brought into the form that is shipped.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from compressor.bench import BenchError, open_session
from compressor.costs.untrained import finished
from compressor.dependency.inputs import inputs_of_batch
from compressor.errors import ExportError
from compressor.exporters import Form, export_onnx
from compressor.exporters.scheme_choice import form_of
from compressor.files import digest_of, read_text, write_atomic
from compressor.models import build, build_meta, example_input, version_of
from compressor.models.architecture import Architecture
from compressor.models.from_onnx.interface import interface_of
from compressor.models.initialise import noise_like, scatter_
from compressor.pipeline.context import RunContext
from compressor.pipeline.file_maker import shipped_parity
from compressor.recipe.precision import precisions
from compressor.search import Problem

_MARKER = "exported"
_BATCHES = (1, 3)  # sizes that the file is compared at; code may take one sample for none


def try_shipping(context: RunContext, problem: Problem) -> None:
    """Export the unscaled network and the least one that the recipe allows, untrained, in the form that is shipped.

    What was tried in this process, or by this run before it was interrupted, is not tried again.

    Raises:
        ExportError: one cannot be exported, its file does not compute what PyTorch does, or cannot have that form
    """
    bounds, own = problem.bounds, problem.reference
    wanted = np.minimum(np.maximum(-(-bounds.minimum // bounds.multiple) * bounds.multiple, 1), bounds.maximum)
    least = own.with_widths(dict(zip(own.widths, wanted.tolist(), strict=True)))
    what = digest_of(repr((own.to_json(), least.to_json(), version_of(own.model))), 64)
    if _marked(context) == [what, _form(context)]:
        return
    context.show("exporting untrained networks: can the result ship?")
    for which, architecture in (("unscaled", own), ("least", least)):
        _try(context, architecture, which)
    write_atomic(context.checkpoints / _MARKER, f"{what}\n{_form(context)}")


def try_form(context: RunContext, architecture: Architecture) -> None:
    """Export an untrained network that was found, if files are to be of another form than when it was searched for.

    Raises:
        ExportError: see `try_shipping`
    """
    before = _marked(context)
    if before[1:] == [_form(context)]:
        return
    context.show("exporting an untrained network: can the result ship?")
    _try(context, architecture, "found")
    write_atomic(context.checkpoints / _MARKER, f"{before[0]}\n{_form(context)}")


def _marked(context: RunContext) -> list[str]:
    """What was tried: a digest of the networks, and one of the form."""
    marker = context.checkpoints / _MARKER
    return read_text(marker).split("\n") if marker.exists() else [""]


def _how(context: RunContext) -> tuple[int | None, float, float, Form]:
    """Operator set, tolerances before and in the form of the shipped file, and that form."""
    export, form = context.recipe.export, form_of(context.recipe, context.data)
    compared = export.preprocess == "none" and precisions()[form.precision].plain  # else noise is no input for it
    tolerance = export.tolerance_of(form.precision) if compared else float("inf")
    return export.written_opset, export.plain_tolerance, tolerance, form


def _form(context: RunContext) -> str:
    return digest_of(repr(_how(context)), 64)


def _try(context: RunContext, architecture: Architecture, which: str) -> None:
    model, preprocess = architecture.model, context.recipe.export.preprocess
    interface = interface_of(build_meta(architecture))
    if interface is not None and preprocess != "none" and (interface.channels_last or interface.is_half):
        raise ExportError(
            f"export.preprocess: {preprocess} is for float32 images (N, C, H, W); {model} takes others; valid: none"
        )
    try:
        _tried(architecture.to_json(), version_of(model), *_how(context))
    except ExportError as error:
        raise ExportError(f"model.name: {model} cannot ship, tried with the {which} network: {error}") from error


@functools.lru_cache(maxsize=64)
def _tried(
    architecture: str, version: str, opset: int | None, tolerance: float, shipped_tolerance: float, form: Form
) -> None:
    """Export one network, compare it at two sizes of batches, and bring the file into its form; raises as these do."""
    network = Architecture.from_json(architecture)
    model = build(network).eval()
    scatter_(model)
    one = noise_like(example_input(network))
    batches = [inputs_of_batch(one, size) for size in _BATCHES]
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        path, shipped = Path(folder) / "trial.onnx", Path(folder) / "finished.onnx"
        try:
            export_onnx(model, path, batches, opset=opset, tolerance=tolerance)
            if not form.plain:
                _open_first(finished(path, shipped, form, one), shipped)
                if shipped_tolerance < float("inf"):
                    shipped_parity(model, shipped, form, batches, tolerance=shipped_tolerance)
        except ExportError as error:
            if "not finite" not in str(error):  # what is untrained may be too deep for numbers; there is no more to say
                raise ExportError(str(error).replace(f"{path}: ", "")) from error


def _open_first(schemes: Iterator[Any], path: Path) -> None:
    """Find a scheme whose file opens, as the choice among them does."""
    refused: BenchError | None = None
    for _ in schemes:
        try:
            open_session(path, provider="cpu")
        except BenchError as error:
            refused = error
        else:
            return
    raise ExportError(str(refused))
