"""Numbers of the ONNX file that an architecture would be shipped as, before it is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from compressor.dependency.inputs import AnyInputs
from compressor.errors import ExportError
from compressor.exporters import Form, export_onnx, finish, samples_of, write_metadata
from compressor.models import build, example_input
from compressor.models.architecture import Architecture
from compressor.models.initialise import noise_like, scatter_
from compressor.recipe.precision import precisions

_PLAIN = Form()


def measure_untrained(
    architecture: Architecture,
    opset: int | None,
    metadata: Mapping[str, str],
    form: Form = _PLAIN,
    measure: Callable[[Path], float] = lambda path: path.stat().st_size,
) -> float:
    """Export an untrained network with its metadata, and measure the file.

    Args:
        architecture: what to build
        opset: ONNX operator set
        metadata: as long as what the shipped file will hold
        form: of the shipped file; where its precision has schemes, those that give the largest files are tried
        measure: file → number; by default its bytes

    Returns:
        the number, of several files the largest

    Raises:
        ExportError: torch cannot export it, or it cannot be brought into that form
    """
    model = build(architecture)
    scatter_(model)
    inputs = noise_like(example_input(architecture))
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        plain, path = Path(folder) / "plain.onnx", Path(folder) / "untrained.onnx"
        export_onnx(model, plain, [inputs], opset=opset, tolerance=float("inf"))
        found = []
        for _ in finished(plain, path, form, inputs):
            write_metadata(path, metadata)
            found.append(measure(path))
        return max(found)


def finished(plain: Path, path: Path, form: Form, inputs: AnyInputs) -> Iterator[Any]:
    """Bring a file into a form, in turn by every scheme of its precision that gives the largest files.

    Where none of these can be written, as scales by channel in older operator sets, the others are taken.

    Args:
        plain: the file
        path: of the finished one, overwritten in every turn
        form: of the shipped file
        inputs: of the network

    Yields:
        the scheme that `path` was made by; None of a precision that has none

    Raises:
        ExportError: it cannot be brought into that form
    """
    precision, written = precisions()[form.precision], False
    if not precision.schemes:
        finish(plain, path, form, None, samples_of(inputs))
        yield None
        return
    refused: list[ExportError] = []
    schemes = precision.schemes_for(plain)
    largest = [name for name in schemes if name in precision.largest]
    for names in (largest, [name for name in schemes if name not in largest]):
        for name in names:
            try:
                finish(plain, path, form, schemes[name], samples_of(inputs))
            except ExportError as error:
                refused.append(error)
                continue
            written = True
            yield schemes[name]
        if written:
            return
    raise refused[0]
