"""One ONNX file from a torch module: dynamic batch, no side file, checked, and the same numbers as PyTorch.

What takes images (floating point) keeps its image size; what takes tokens (int64) takes sequences of any length.
Networks with inputs and outputs of their own (`Inputs`) keep all sizes but the batch, and their own names.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import json
import logging
import math
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from compressor.bench import INPUT_SHAPE
from compressor.dependency.inputs import AnyInputs, Inputs, leaf_names, leaves, run
from compressor.errors import ExportError
from compressor.files import replace_atomic
from compressor.models.from_onnx.interface import interface_of, lacks_softmax
from compressor.models.onnx_reading import opset_in
from compressor.recipe.sections import USUAL_OPSET

from .form import OUTPUT_KIND, PROBABILITIES
from .interface import as_original, opset_of, tolerance_of
from .onnx_network import CHANNELS_LAST, LAYOUT, Floats, OnnxNetwork, WithSoftmax, fed_to, takes_tokens

IMAGES, TOKENS, OUTPUT = "images", "tokens", "logits"
_OLDER = (9, 20)  # operator sets of torch's older exporter
_NEWER = (18, 23)  # of the newer one, which writes 18 where less is asked for


@dataclass(frozen=True)
class Parity:
    """How far ONNX Runtime's outputs are from PyTorch's, over all compared batches.

    Attributes:
        max_abs_error: largest |onnx − torch| of any logit
        max_rel_error: largest |onnx − torch| of a batch, divided by the batch's largest |torch|
        batches: sizes of the batches compared
        tolerance: what max_rel_error was required to stay within; infinite if nothing was required
    """

    max_abs_error: float
    max_rel_error: float
    batches: tuple[int, ...]
    tolerance: float

    def to_json(self) -> dict[str, Any]:
        """JSON values; a tolerance that is infinite is None."""
        tolerance = self.tolerance if math.isfinite(self.tolerance) else None
        return asdict(self) | {"batches": list(self.batches), "tolerance": tolerance}


@dataclass(frozen=True)
class Exported:
    """An exported file: its path, size in bytes, operator set and parity with PyTorch."""

    path: Path
    onnx_bytes: int
    opset: int
    parity: Parity


def export_onnx(
    model: nn.Module,
    path: Path,
    batches: Sequence[AnyInputs],
    *,
    opset: int | None = None,
    tolerance: float = 1e-4,
    metadata: Mapping[str, str] | None = None,
) -> Exported:
    """Export a network, check the file, and measure its parity with PyTorch before it gets its name.

    Args:
        model: left as it is; its copy on the CPU, in evaluation mode and float32, is exported
        path: of the file; written whole or not at all
        batches: real inputs for the parity, normalised images (N, C, H, W) or tokens int64 (N, T); the sizes should
            differ, of tokens the lengths too; the first is as long as most will be. Or inputs of its own
        opset: ONNX operator set; None: that of the ONNX file that the network was made of, else 20
        tolerance: largest allowed relative error, see `Parity`
        metadata: put into the file's metadata_props

    Raises:
        ExportError: torch cannot export it, the checker refuses it, the batch or the time of tokens is not dynamic or
            another axis is, or the outputs differ by more than the tolerance
    """
    interface = interface_of(model)
    tolerance = tolerance_of(interface, tolerance)
    if interface is not None and not interface.is_plain:
        batches = [one if isinstance(one, Inputs) else Inputs((one,)) for one in batches]
    eager, first = copy.deepcopy(model).cpu().float().eval(), batches[0]
    written = opset_of(interface, opset, USUAL_OPSET, (_OLDER[0], _NEWER[1]))
    own = isinstance(first, Inputs)
    tokens = not isinstance(first, Inputs) and takes_tokens(first)
    try:
        proto = _written(eager, first, written)
    except ExportError:
        if opset is not None or written >= _NEWER[0]:
            raise
        proto = _written(
            eager, first, USUAL_OPSET
        )  # not all that torch computes can be said in the original's operator set
    _strip(proto)
    # Whoever measures the file needs a length.
    known = {INPUT_SHAPE: json.dumps(list(first.shape[1:]))} if tokens else {}
    _set_metadata(proto, known | dict(metadata or {}))
    _check(proto, path, [0, 1] if tokens else [0], own=own or interface is not None)
    if interface is not None:
        as_original(proto, interface, first.names(eager) if isinstance(first, Inputs) else [IMAGES])
        if interface.channels_last:
            _set_metadata(proto, {LAYOUT: CHANNELS_LAST})
        if interface.softmax:
            _set_metadata(proto, {OUTPUT_KIND: PROBABILITIES})
        _check_whole(proto, path)
    parity: list[Parity] = []

    def write(beside: Path) -> None:
        onnx.save_model(proto, beside)
        network = OnnxNetwork(beside)
        outputs: Any = network.all_outputs if own else network.logits
        compared: nn.Module = eager
        if lacks_softmax(model):
            compared, outputs = WithSoftmax(eager, 1), network.all_outputs if own else network.outputs
        parity.append(measure_parity(compared, outputs, batches, tolerance))

    replace_atomic(path, write)
    return Exported(path, path.stat().st_size, opset_in(proto), parity[0])


def _written(model: nn.Module, first: AnyInputs, opset: int) -> onnx.ModelProto:
    if isinstance(first, Inputs):
        return _export_own(model, first, opset)
    return (_export_sequences if takes_tokens(first) else _export_images)(model, first, opset)


def measure_parity(
    model: nn.Module,
    onnx_outputs: Callable[[Any], Floats | list[NDArray[Any]]],
    batches: Sequence[AnyInputs],
    tolerance: float,
) -> Parity:
    """Compare a network's outputs with those of its ONNX file.

    Args:
        model: on the CPU, in evaluation mode
        onnx_outputs: inputs → what the file gives, one array or all of them in their order
        batches: inputs
        tolerance: largest allowed relative error, see `Parity`; of several outputs each is compared with its own size

    Raises:
        ExportError: they differ by more than the tolerance, or are not finite
    """
    absolute = relative = 0.0
    for inputs in batches:
        for found, expected in _pairs(model, onnx_outputs, inputs):
            off = float(np.abs(found - expected).max()) if found.size else 0.0
            absolute = max(absolute, off)
            relative = max(relative, off / max(float(np.abs(expected).max()), 1e-30) if found.size else 0.0)
    if relative > tolerance:
        raise ExportError(
            f"parity: ONNX Runtime and PyTorch differ by {relative:.2g} of the largest logit, "
            f"more than export.tolerance = {tolerance:g}"
        )
    return Parity(absolute, relative, tuple(len(inputs) for inputs in batches), tolerance)


def _pairs(
    model: nn.Module, onnx_outputs: Callable[[Any], Floats | list[NDArray[Any]]], inputs: AnyInputs
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """What ONNX Runtime gives for a batch and what PyTorch does, output by output.

    Raises:
        ExportError: one of them does not run, or they give other shapes, or numbers that are not finite
    """
    fed = inputs if isinstance(inputs, Inputs) else fed_to(inputs)
    try:
        with torch.inference_mode():
            expected = [one.numpy() for one in leaves(run(model, fed.clone()))]  # it may change what it is given
    except Exception as error:  # the network's own code decides what it raises
        raise ExportError(f"parity: PyTorch does not run a batch of {len(inputs)}: {_line(error)}") from error
    try:
        given = onnx_outputs(inputs)
    except Exception as error:  # ONNX Runtime's errors share no narrower base class
        raise ExportError(f"parity: ONNX Runtime does not run a batch of {len(inputs)}: {_line(error)}") from error
    found = given if isinstance(given, list) else [given]
    shapes = [[one.shape for one in side] for side in (found, expected)]
    if shapes[0] != shapes[1]:
        one, other = (side[0] if len(side) == 1 else side for side in shapes)
        raise ExportError(f"parity: for a batch of {len(inputs)} ONNX Runtime gives shape {one}, PyTorch {other}")
    for name, side in (("ONNX Runtime", found), ("PyTorch", expected)):
        if not all(np.isfinite(one).all() for one in side):
            raise ExportError(f"parity: {name} gives logits that are not finite numbers")
    if not isinstance(given, list):  # as ever: in float32
        return list(zip(found, expected, strict=True))
    return [(one.astype(np.float64), other.astype(np.float64)) for one, other in zip(found, expected, strict=True)]


def write_metadata(path: Path, metadata: Mapping[str, str]) -> None:
    """Add entries to the metadata_props of an ONNX file, replacing those of the same name."""
    proto = onnx.load_model(path)
    _set_metadata(proto, metadata)
    replace_atomic(path, lambda beside: onnx.save_model(proto, beside))


def export_by_tracing(model: nn.Module, inputs: torch.Tensor, path: Path, opset: int) -> None:
    """Write a file with torch's older exporter; whatever goes wrong there is raised as it is."""
    name, axes = (TOKENS, {0: "batch", 1: "time"}) if takes_tokens(inputs) else (IMAGES, {0: "batch"})
    with _quietly():
        torch.onnx.export(
            model,
            (inputs,),
            str(path),
            dynamo=False,
            input_names=[name],
            output_names=[OUTPUT],
            dynamic_axes={name: axes},
            opset_version=opset,
        )


def _export_sequences(model: nn.Module, example: torch.Tensor, opset: int) -> onnx.ModelProto:
    """Export by torch's older exporter: the newer one fixes the length of what goes into an nn.LSTM, or fails.

    It is also the one that writes operator sets below 18.
    """
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        path = Path(folder) / "traced.onnx"
        try:
            export_by_tracing(model, _pair(example), path, opset)
        except Exception as error:  # it raises what it likes
            raise _refused(model, error) from error
        return onnx.load_model(path)


def _export_images(model: nn.Module, example: torch.Tensor, opset: int) -> onnx.ModelProto:
    if opset < _NEWER[0]:
        return _export_sequences(model, example, opset)
    try:
        with _quietly():
            program = torch.onnx.export(
                model,
                (_pair(example),),
                dynamo=True,
                dynamic_shapes=_dynamic_batch(model),
                input_names=[IMAGES],
                output_names=[OUTPUT],
                opset_version=opset,
                verbose=False,
                external_data=False,
            )
    except Exception as error:  # the exporter wraps whatever went wrong in classes of its own
        raise _refused(model, error) from error
    assert program is not None
    return program.model_proto


def _own_names(model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """Names of a network's own inputs and outputs, as torch's exporters take them."""
    with torch.no_grad():
        outputs = leaf_names(run(model, inputs.clone()))
    names = inputs.names(model)
    return {"input_names": names, "output_names": [f"{one}_out" if one in names else one for one in outputs]}


class _Positional(nn.Module):
    """A network that takes by position what it takes by name, which torch's exporters are surer of."""

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__()
        self.model, self.count, self.names = model, len(inputs.args), list(inputs.kwargs)

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.model(*tensors[: self.count], **dict(zip(self.names, tensors[self.count :], strict=True)))


def export_own_by_tracing(model: nn.Module, inputs: Inputs, path: Path, opset: int) -> None:
    """Write a file of a network with inputs of its own by torch's older exporter; errors are raised as they are."""
    names = _own_names(model, inputs)
    axes = {name: {0: "batch"} for name in (*names["input_names"], *names["output_names"])}
    taken = tuple(inputs.tensors)
    with _quietly():
        torch.onnx.export(
            _Positional(model, inputs).eval(),
            taken,
            str(path),
            dynamo=False,
            dynamic_axes=axes,
            opset_version=opset,
            **names,
        )


def _export_own(model: nn.Module, inputs: Inputs, opset: int) -> onnx.ModelProto:
    """Export a network with inputs and outputs of its own, by torch's exporter, or the older one where that fails."""
    fed = inputs.of_batch(2 if len(inputs) == 1 else len(inputs))  # torch.export would fix a batch of 1 as a constant
    names, taken = _own_names(model, fed), tuple(fed.tensors)
    first: Exception | None = None
    try:
        if opset < _NEWER[0]:
            raise ExportError(f"operator set {opset} is written by torch's older exporter alone")
        with _quietly():
            program = torch.onnx.export(
                _Positional(model, fed).eval(),
                taken,
                dynamo=True,
                dynamic_shapes=(({0: torch.export.Dim("batch", min=1)},) * len(taken),),
                opset_version=opset,
                verbose=False,
                external_data=False,
                **names,
            )
        assert program is not None
        return program.model_proto
    except Exception as error:  # the exporter wraps whatever went wrong in classes of its own
        first = error
    with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
        path = Path(folder) / "traced.onnx"
        try:
            export_own_by_tracing(model, fed, path, min(opset, _OLDER[1]))
        except Exception as error:
            raise _refused(model, error if isinstance(first, ExportError) else first or error) from error
        return onnx.load_model(path)


def _dynamic_batch(model: nn.Module) -> Any:
    """The batch as a dynamic axis of the only input, wherever `forward` takes it."""
    batch = {0: torch.export.Dim("batch", min=1)}
    taken = next(iter(inspect.signature(model.forward).parameters.values()), None)
    return ((batch,),) if taken is not None and taken.kind is taken.VAR_POSITIONAL else (batch,)


def _refused(model: nn.Module, error: Exception) -> ExportError:
    cause: BaseException = error  # what the exporter says first is which of its steps failed
    while cause.__cause__ is not None:
        cause = cause.__cause__
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", str(cause)).split())
    return ExportError(f"torch.onnx cannot export {type(model).__name__}: {type(cause).__name__}: {text[:400]}")


def _pair(example: torch.Tensor) -> torch.Tensor:
    """A batch of 2: torch.export would fix a batch of 1 as a constant."""
    return fed_to(torch.cat([example, example])[:2])


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch warns of and logs, tracebacks too: an error says it in one line."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _strip(proto: onnx.ModelProto) -> None:
    """Drop the exporter's notes: they hold paths of this machine and triple the size of a small model."""
    graph = proto.graph
    entries: list[Any] = [
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
        graph,
    ]
    for entry in entries:
        del entry.metadata_props[:]
        entry.doc_string = ""


def _set_metadata(proto: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    known = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, known | dict(metadata))


def _check_whole(proto: onnx.ModelProto, path: Path) -> None:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{path}: the ONNX checker refuses the export: {error}") from error


def _check(proto: onnx.ModelProto, path: Path, wanted: list[int], *, own: bool = False) -> None:
    _check_whole(proto, path)
    axes = "the batch, axis 0," if wanted == [0] else "batch and time, axes 0 and 1,"
    # Outputs of their own may have any shape.
    for value in proto.graph.input if own else (proto.graph.input[0], proto.graph.output[0]):
        dims = value.type.tensor_type.shape.dim
        dynamic = [axis for axis, dim in enumerate(dims) if dim.dim_param or not dim.HasField("dim_value")]
        if not dynamic and dims:
            raise ExportError(
                f"{path}: {value.name} has a batch of {dims[0].dim_value} and no other: the network's code, or torch's "
                "exporter, takes the size of the batch for a constant"
            )
        if dynamic != wanted:
            raise ExportError(f"{path}: {value.name} has dynamic axes {dynamic}; exactly {axes} should be")
