"""Whether a network can ship, learned before anything is trained: its file is made untrained and compared."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import numpy as np

from compressor.bench import open_session
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
from compressor.search import Problem

_BATCHES = (1, 3)  # sizes that the file is compared at; code may take one sample for none


def try_shipping(context: RunContext, problem: Problem) -> None:
    """Export the unscaled network and the least one that the recipe allows, untrained.

    What was tried in this process, or by this run before it was interrupted, is not tried again.

    Raises:
        ExportError: one cannot be exported, or its file does not compute what PyTorch does
    """
    bounds, own = problem.bounds, problem.reference
    wanted = np.minimum(np.maximum(-(-bounds.minimum // bounds.multiple) * bounds.multiple, 1), bounds.maximum)
    least = own.with_widths(dict(zip(own.widths, wanted.tolist(), strict=True)))
    export, marker = context.recipe.export, context.checkpoints / "exported"
    how = (version_of(own.model), export.written_opset, export.plain_tolerance, form_of(context.recipe, context.data))
    what = digest_of(repr((own.to_json(), least.to_json(), how)), 64)
    if marker.exists() and read_text(marker) == what:
        return
    context.show("exporting untrained networks: can the result ship?")
    interface = interface_of(build_meta(own))
    if interface is not None and export.preprocess != "none" and (interface.channels_last or interface.is_half):
        raise ExportError(
            f"export.preprocess: {export.preprocess} is for float32 images (N, C, H, W); {own.model} takes others; "
            "valid: none"
        )
    for architecture in (own, least):
        try:
            _tried(architecture.to_json(), *how)
        except ExportError as error:
            which = "unscaled" if architecture is own else "least"
            raise ExportError(
                f"model.name: {own.model} cannot ship, tried with the {which} network: {error}"
            ) from error
    write_atomic(marker, what)


@functools.lru_cache(maxsize=64)
def _tried(architecture: str, version: str, opset: int | None, tolerance: float, form: Form) -> None:
    """Export one network, compare it at two sizes of batches, and bring the file into its form; raises as these do."""
    network = Architecture.from_json(architecture)
    model = build(network).eval()
    scatter_(model)
    one = noise_like(example_input(network))
    batches = [inputs_of_batch(one, size) for size in _BATCHES]
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        path = Path(folder) / "trial.onnx"
        try:
            export_onnx(model, path, batches, opset=opset, tolerance=tolerance)
            if not form.plain:
                shipped = path.with_name("finished.onnx")
                next(finished(path, shipped, form, one))
                open_session(shipped, provider="cpu")
        except ExportError as error:
            if "not finite" not in str(error):  # what is untrained may be too deep for numbers; there is no more to say
                raise ExportError(str(error).replace(f"{path}: ", "")) from error
