"""What an ONNX file takes and gives, and its graph as conversion wants it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import onnx.inliner
import torch

from compressor.errors import ModelError
from compressor.models.from_onnx.elementwise import Tensor
from compressor.models.from_onnx.operators import KNOWN
from compressor.models.from_onnx.values import UnsupportedError, torch_dtype
from compressor.models.onnx_reading import opset_in, read_onnx

_SOME_SIZES = (64, 224, 32, 299)  # stand for sizes of images that a file leaves open
_LENGTH = 8  # likewise for any other axis
_DRAWN = 2  # integers are drawn below it: any table has as many rows
_BYTES = 256  # and those of images below it
FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)


@dataclass(frozen=True)
class Port:
    """An input or an output of a file.

    Attributes:
        name: in the file
        kind: ONNX's element type
        sizes: of its axes: a number, or the name of one that may vary ("" if it has none)
    """

    name: str
    kind: int
    sizes: tuple[int | str, ...]

    @property
    def is_float(self) -> bool:
        """Whether its values are floating point."""
        return self.kind in FLOATS


@dataclass(frozen=True)
class OnnxFile:
    """A file, read: its graph with functions inlined, and what it takes and gives.

    Attributes:
        path: of the file
        proto: its graph
        inputs: without initializers
        outputs: likewise
    """

    path: Path
    proto: onnx.ModelProto
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return opset_in(self.proto)

    @property
    def is_half(self) -> bool:
        """Whether it computes in 16 bits."""
        kinds = {tensor.data_type for tensor in self.proto.graph.initializer} | {port.kind for port in self.inputs}
        return bool(kinds & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})

    @property
    def takes_images(self) -> bool:
        """Whether it takes float images alone, (N, C, H, W) or (N, H, W, C)."""
        (taken, *others) = self.inputs
        return not others and taken.is_float and len(taken.sizes) == 4

    @property
    def batch(self) -> int | None:
        """The only batch that it takes; None: any."""
        first = self.inputs[0].sizes[0]
        return first if isinstance(first, int) else None

    def used_on(self, shape: Sequence[int] | None, *, channels_last: bool) -> OnnxFile:
        """The same, with sizes of images that it leaves open filled in from (C, H, W).

        Raises:
            ModelError: it fixes other ones
        """
        first = self.inputs[0]
        if shape is None or len(shape) != 3 or len(first.sizes) != 4 or len(self.inputs) > 1:
            return self
        mine = [*shape[1:], shape[0]] if channels_last else list(shape)
        if any(isinstance(own, int) and own != given for own, given in zip(first.sizes[1:], mine, strict=True)):
            raise ModelError(
                f"model.onnx: {self.path}: input {first.name} has the axes {_shown(first.sizes)}; the data's images "
                f"are {_shown(mine)} (data.image_size and data.channels change them)"
            )
        sizes = tuple(own if isinstance(own, int) else given for own, given in zip(first.sizes[1:], mine, strict=True))
        return replace(self, inputs=(replace(first, sizes=(first.sizes[0], *sizes)),))

    def examples(self, batch: int, size: int = _SOME_SIZES[0]) -> list[Tensor]:
        """Inputs drawn at random.

        Args:
            batch: samples
            size: of images' axes that the file leaves open
        """
        draw = torch.Generator().manual_seed(0)
        found = []
        for port in self.inputs:
            image = len(port.sizes) == 4
            shape = [batch, *(one if isinstance(one, int) else (size if image else _LENGTH) for one in port.sizes[1:])]
            dtype = torch_dtype(port.kind)
            if dtype == torch.float32:
                found.append(torch.randn(shape, generator=draw))
            else:
                top = _BYTES if image and port.kind == onnx.TensorProto.UINT8 else _DRAWN
                found.append(torch.randint(0, top, shape, generator=draw).to(dtype))
        return found


def read_file(path: Path) -> OnnxFile:
    """Read a file.

    Raises:
        ModelError: it cannot be read, or an input or output is nothing that a network takes or gives
    """
    try:
        proto = read_onnx(path)
    except ModelError as error:
        raise ModelError(f"model.onnx: {error}") from error
    proto = inlined(proto)
    weights = {weight.name for weight in proto.graph.initializer}
    weights |= {weight.values.name for weight in proto.graph.sparse_initializer}
    inputs = tuple(_port(path, "input", value) for value in proto.graph.input if value.name not in weights)
    outputs = tuple(_port(path, "output", value) for value in proto.graph.output)
    if not inputs or not outputs:
        raise ModelError(f"model.onnx: {path}: has no {'outputs' if inputs else 'inputs'}")
    first = inputs[0].sizes[0] if inputs[0].sizes else None
    for port in inputs:
        if (
            not port.sizes
            or (isinstance(port.sizes[0], int) != isinstance(first, int))
            or (isinstance(first, int) and port.sizes[0] != first)
        ):
            raise ModelError(
                f"model.onnx: {path}: input {port.name} has the axes {_shown(port.sizes)}; axis 0 of every input must "
                "be the same batch"
            )
    return OnnxFile(path, proto, inputs, outputs)


def sizes_to_try(file: OnnxFile) -> Sequence[int]:
    """Sizes of images to run a file on that leaves them open."""
    open_ = any(not isinstance(size, int) for port in file.inputs if len(port.sizes) == 4 for size in port.sizes[2:])
    return _SOME_SIZES if open_ else _SOME_SIZES[:1]


def _port(path: Path, what: str, value: onnx.ValueInfoProto) -> Port:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise ModelError(f"model.onnx: {path}: {what} {value.name} is no tensor but a {kind or 'value without a type'}")
    tensor = value.type.tensor_type
    try:
        torch_dtype(tensor.elem_type)
    except UnsupportedError as error:
        raise ModelError(f"model.onnx: {path}: {what} {value.name}: {error} are not known") from error
    sizes = tuple(dim.dim_value if dim.dim_value > 0 else dim.dim_param for dim in tensor.shape.dim)
    return Port(value.name, tensor.elem_type, sizes)


def _shown(sizes: Sequence[int | str]) -> str:
    return f"({', '.join(str(size) or '?' for size in sizes)})"


def inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph without functions: those of the file, and operators that ONNX defines by simpler ones."""
    if proto.functions:
        proto = onnx.inliner.inline_local_functions(proto)
    unknown = sorted({node.op_type for node in proto.graph.node if node.domain in ("", "ai.onnx")} - KNOWN)
    defined = [kind for kind in unknown if onnx.defs.has(kind) and _is_defined(kind)]
    if not defined:
        return proto
    try:
        return onnx.inliner.inline_selected_functions(
            proto, [("", kind) for kind in defined], inline_schema_functions=True
        )
    except Exception:  # of C++: what is left will be refused by its name
        return proto


def _is_defined(kind: str) -> bool:
    schema: Any = onnx.defs.get_schema(kind)
    return bool(schema.has_function or schema.has_context_dependent_function)
