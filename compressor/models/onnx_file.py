"""A network from an ONNX file: read, converted to torch by onnx2torch, and checked against ONNX Runtime.

Exporters fold batch-norms into convolutions, and without them a pruned network hardly trains. So every convolution
that has no normalisation behind it gets one back, which at first changes nothing: its statistics become those of the
training images (`settle_`), its scale and shift undo them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from compressor.bench import open_session
from compressor.errors import ModelError, UnavailableError, not_one_of
from compressor.models.onnx_reading import read_onnx

_CLOSE = 1e-3  # of the largest output: float32 sums in another order differ by less
_OPTIONS = {"batch_norm": ("restore", "as_is")}
_SOME_BATCH = 7  # stands for a size that is not fixed while shapes are inferred
_RESTORED = "restored_batch_norm"  # marks what `settle_` may set
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def network_of(path: Path, options: Mapping[str, Any]) -> nn.Module:
    """The network of an ONNX file, with its weights, for batches of any size.

    Args:
        path: of a file with one float input (N, C, H, W) and one output (N, classes)
        options: {"batch_norm": "restore" (default) or "as_is"}

    Raises:
        ModelError: the file cannot be read, has another form, or is not computed alike by torch
        UnavailableError: onnx2torch is not installed
    """
    for key, value in options.items():
        if key not in _OPTIONS:
            raise ModelError(f"model.options: {not_one_of(key, _OPTIONS)}")
        if value not in _OPTIONS[key]:
            raise ModelError(f"model.options.{key}: {not_one_of(value, _OPTIONS[key])}")
    network = _converted(path)
    if options.get("batch_norm", "restore") == "restore":
        _restore_batch_norms_(network)
    return network


def settle_(network: nn.Module, batches: Iterable[torch.Tensor]) -> int:
    """Give restored batch-norms the statistics of images, so that they change nothing in training either.

    Args:
        network: of `network_of`; changed in place, computes the same
        batches: normalised images (N, C, H, W)

    Returns:
        how many there are; without any, no batch is looked at
    """
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and hasattr(m, _RESTORED)]
    if not norms:
        return 0
    sums = {norm: [torch.zeros(norm.num_features, dtype=torch.float64) for _ in range(2)] for norm in norms}
    counts = dict.fromkeys(norms, 0)

    def look(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(norm, nn.BatchNorm2d)
        values = inputs[0].detach().double().transpose(0, 1).flatten(1).cpu()
        sums[norm][0] += values.sum(1)
        sums[norm][1] += values.square().sum(1)
        counts[norm] += values.shape[1]

    handles = [norm.register_forward_pre_hook(look) for norm in norms]
    training = network.training
    with torch.no_grad():
        for images in batches:
            network.eval()(images)
        for norm in norms:
            mean = sums[norm][0] / counts[norm]
            variance = (sums[norm][1] / counts[norm] - mean.square()).clamp_min(1e-8)
            _undo_(norm, mean, variance)
    for handle in handles:
        handle.remove()
    network.train(training)
    return len(norms)


def _undo_(norm: nn.BatchNorm2d, mean: torch.Tensor, variance: torch.Tensor) -> None:
    """Set statistics, and scale and shift such that the outputs stay as they are."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    gain = norm.weight.double() / deviation
    shift = norm.bias.double() - norm.running_mean.double() * gain
    norm.weight.copy_(gain * (variance.to(gain) + norm.eps).sqrt())
    norm.bias.copy_(shift + mean.to(gain) * gain)
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance)


def _converted(path: Path) -> nn.Module:
    try:
        import onnx2torch
        from onnx2torch.node_converters import registry
    except ImportError as error:
        raise UnavailableError(
            f"model.onnx: {path} needs onnx2torch, which is not installed: pip install 'onnx-compressor[onnx]'"
        ) from error
    try:
        proto = read_onnx(path)
    except ModelError as error:
        raise ModelError(f"model.onnx: {error}") from error
    shape = _input_shape(path, proto)
    _add_converters(registry)
    _take_later_versions(registry, proto)
    try:
        _fold_constants_(proto)
        _free_sizes_(proto)
        network = onnx2torch.convert(proto)
    except Exception as error:  # it raises what it likes
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ModelError(f"model.onnx: {path}: onnx2torch cannot convert it: {reason[:300]}") from error
    _train_arrays_(network)
    _check_equal(path, network, shape)
    return network  # type: ignore[no-any-return]


def _train_arrays_(network: nn.Module) -> None:
    """Make weights of the arrays that operators such as Add and Mul take: to onnx2torch they are buffers."""
    for module in network.modules():
        for name, buffer in list(module._buffers.items()):
            if (
                name.startswith("onnx_initializer_")
                and buffer is not None
                and buffer.is_floating_point()
                and buffer.numel() > 1
            ):
                delattr(module, name)
                module.register_parameter(name, nn.Parameter(buffer))


def _input_shape(path: Path, proto: onnx.ModelProto) -> tuple[int, ...]:
    """(C, H, W) of one image; sizes that the file leaves open are 64."""
    weights = {weight.name for weight in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    for what, values in (("input", inputs), ("output", proto.graph.output)):
        if len(values) != 1:
            names = ", ".join(value.name for value in values)
            raise ModelError(f"model.onnx: {path} has {len(values)} {what}s ({names}); it must have one")
    tensor = inputs[0].type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT or len(tensor.shape.dim) != 4:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ModelError(
            f"model.onnx: {path}: input {inputs[0].name} is {kind} with {len(tensor.shape.dim)} axes; "
            "it must be float32 images (N, C, H, W)"
        )
    return tuple(dim.dim_value if dim.dim_value > 0 else 64 for dim in tensor.shape.dim[1:])


def _fold_constants_(proto: onnx.ModelProto) -> None:
    """Make weights of Constant nodes, and of Identity nodes, by which exporters share equal weights."""
    graph = proto.graph
    weights = {weight.name: weight for weight in graph.initializer}
    kept = []
    for node in graph.node:
        given = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
        if node.op_type == "Identity":
            given = weights.get(node.input[0])
        elif node.op_type != "Constant":
            given = None
        if given is None:
            kept.append(node)
            continue
        copied = onnx.TensorProto()
        copied.CopyFrom(given)
        copied.name = node.output[0]
        graph.initializer.append(copied)
        weights[copied.name] = copied
    del graph.node[:]
    graph.node.extend(kept)


def _free_sizes_(proto: onnx.ModelProto) -> None:
    """Let a file take any batch, and its reshapes any number of channels: these are constants in most files."""
    graph = proto.graph
    batch = graph.input[0].type.tensor_type.shape.dim[0]
    batch.dim_value = batch.dim_value if batch.dim_value > 0 else _SOME_BATCH
    shapes = _shapes(proto)
    batch.dim_param = "batch"
    for node in graph.node:
        before, after = shapes.get(node.input[0], []), shapes.get(node.output[0], [])
        if node.op_type != "Reshape" or len(after) < 2 or None in before + after:
            continue
        if before[0] == after[0] and math.prod(before) == math.prod(after):  # type: ignore[arg-type]
            name = f"{node.output[0]}_sizes"
            graph.initializer.append(numpy_helper.from_array(np.array(_free(before, after)), name))
            node.input[1] = name
            del node.attribute[:]  # allowzero
    del graph.value_info[:]


def _shapes(proto: onnx.ModelProto) -> dict[str, list[int | None]]:
    """Shapes as far as they can be inferred."""
    del proto.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    return {
        value.name: [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }


def _free(before: list[int | None], after: list[int | None]) -> list[int]:
    """Sizes of a reshape that hold for any batch, and for other numbers of channels: 0 as before, -1 what is left.

    (N, C, 1, 1) to (N, C) becomes [0, -1]; the first step of a channel shuffle, (N, 4, H, W) to (N, 2, 2, H, W),
    becomes [0, 2, -1, H, W].
    """
    same = 0
    while same < min(len(before), len(after)) - 2 and before[-1 - same] == after[-1 - same]:
        same += 1
    sizes = [0, *(size or 0 for size in after[1:])]
    sizes[len(after) - 1 - same] = -1
    return sizes


def _check_equal(path: Path, network: nn.Module, shape: tuple[int, ...]) -> None:
    images = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            made = network.eval()(images)
            pair = network(torch.cat([images, images]))
    except Exception as error:  # converted code may fail anywhere
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ModelError(f"model.onnx: {path} does not run in torch: {reason}") from error
    try:
        session, _ = open_session(path, provider="cpu", threads=1)
        taken = session.get_inputs()[0]
        batch = taken.shape[0] if isinstance(taken.shape[0], int) else 1
        expected = session.run(None, {taken.name: np.repeat(images.numpy(), batch, axis=0)})[0][:1]
    except Exception as error:  # of pybind, without a common base
        raise ModelError(f"model.onnx: ONNX Runtime cannot run {path}: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(made, torch.Tensor) or made.shape != expected.shape or pair.shape[0] != 2:
        raise ModelError(f"model.onnx: {path}: torch gives another shape than ONNX Runtime, or takes no other batch")
    error_of = max(float(np.abs(made.numpy() - expected).max()), float((pair[1:] - made).abs().max()))
    if not error_of <= _CLOSE * max(float(np.abs(expected).max()), 1e-6):
        raise ModelError(f"model.onnx: {path}: torch and ONNX Runtime differ by {error_of:.2g}")


def _restore_batch_norms_(network: Any) -> None:
    """Insert a batch-norm that changes nothing behind every convolution that has no normalisation behind it."""
    modules = dict(network.named_modules())
    for node in list(network.graph.nodes):
        layer = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(layer, nn.Conv2d) or any(isinstance(modules.get(user.target), _NORMS) for user in node.users):
            continue
        norm = nn.BatchNorm2d(layer.out_channels)
        setattr(norm, _RESTORED, True)
        with torch.no_grad():
            norm.weight.fill_(math.sqrt(1 + norm.eps))
            if layer.bias is not None:
                norm.bias.copy_(layer.bias)
        layer.bias = None
        name = f"{node.target}_bn"
        network.add_submodule(name, norm)
        with network.graph.inserting_after(node):
            added = network.graph.call_module(name, (node,))
        node.replace_all_uses_with(added, delete_user_cb=lambda user, added=added: user is not added)
    network.graph.lint()
    network.recompile()


def _take_later_versions(registry: Any, proto: onnx.ModelProto) -> None:
    """Let onnx2torch convert an operator of a later version than it knows by its converter of the version before.

    Most versions only admit further types or attributes; a difference that counts is found by `_check_equal`.
    """
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    for kind, domain in sorted({(node.op_type, node.domain) for node in proto.graph.node}):
        if domain not in opsets or not onnx.defs.has(kind, domain):
            continue
        wanted = onnx.defs.get_schema(kind, opsets[domain], domain).since_version
        known = {
            description.version: converter
            for description, converter in registry._CONVERTER_REGISTRY.items()
            if (description.operation_type, description.domain) == (kind, domain)
        }
        earlier = [version for version in known if version < wanted]
        if wanted not in known and earlier:
            registry.add_converter(operation_type=kind, version=wanted, domain=domain)(known[max(earlier)])


class _Reduced(nn.Module):
    """ReduceMean or ReduceMax over fixed axes."""

    def __init__(self, reduce: str, axes: tuple[int, ...] | None, keepdim: bool) -> None:
        super().__init__()
        self.reduce, self.axes, self.keepdim = reduce, axes, keepdim

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        axes = self.axes if self.axes is not None else tuple(range(values.dim()))
        function: Callable[..., torch.Tensor] = torch.mean if self.reduce == "ReduceMean" else torch.amax
        return function(values, dim=axes, keepdim=self.keepdim)


class _Reshaped(nn.Module):
    """Reshape to constant sizes, 0 for a size that stays: numbers rather than a tensor, for the meta device."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.reshape([values.shape[axis] if size == 0 else size for axis, size in enumerate(self.sizes)])


@functools.cache
def _add_converters(registry: Any) -> None:
    """Teach onnx2torch the reductions of operator set 18, whose axes are an input, and reshapes without a tensor."""
    from onnx2torch.utils.common import OnnxMapping, OperationConverterResult

    known = registry._CONVERTER_REGISTRY
    by_tensor = known[registry.OperationDescription("", "Reshape", 14)]

    def reduction(node: Any, graph: Any) -> Any:
        axes = None
        if len(node.input_values) > 1:
            axes = tuple(int(axis) for axis in graph.initializers[node.input_values[1]].to_torch().tolist())
        module = _Reduced(node.operation_type, axes, bool(node.attributes.get("keepdims", 1)))
        mapping = OnnxMapping(inputs=node.input_values[:1], outputs=node.output_values)
        return OperationConverterResult(module, mapping)

    def reshape(node: Any, graph: Any) -> Any:
        constant = graph.initializers.get(node.input_values[1])
        sizes = () if constant is None else tuple(int(size) for size in constant.to_torch().tolist())
        if constant is None or (0 in sizes and node.attributes.get("allowzero", 0)):
            return by_tensor(node, graph)
        mapping = OnnxMapping(inputs=node.input_values[:1], outputs=node.output_values)
        return OperationConverterResult(_Reshaped(sizes), mapping)

    for kind, versions, converter in (
        ("ReduceMean", (18,), reduction),
        ("ReduceMax", (18, 20), reduction),
        ("Reshape", (5, 13, 14, 19, 21, 23), reshape),
    ):
        for version in versions:
            known[registry.OperationDescription("", kind, version)] = converter
