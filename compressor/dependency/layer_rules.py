"""What layers do to channels: convolutions, products with weights, embeddings and normalisations."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from compressor.dependency.calls import Call
from compressor.dependency.slots import along_dim, core_of, living

if TYPE_CHECKING:
    from compressor.dependency.tracer import Tracer

_BATCH_NORMS = {"native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update"}
_BATCH_NORMS |= {"_native_batch_norm_legit_no_training", "miopen_batch_norm", "batch_norm", "_batch_norm_no_update"}


def embedding(tracer: Tracer, call: Call) -> None:
    """A look-up in a table of weights."""
    if (vector := tracer.vector(call.args[0], 1)) is not None:
        tracer.trace.produced.append(vector.numpy())
        tracer.add(call.output, along_dim(vector, -1, call.output.shape))


def batch_norm(tracer: Tracer, call: Call) -> None:
    """Scale, shift and statistics go with the channels."""
    source, output = call.args[0], call.output
    vector = tracer.vector(source, 1)
    for tensor in call.args[1:5]:
        if isinstance(tensor, torch.Tensor) and (own := tracer.vector(tensor, 0)) is not None:
            if vector is not None:
                tracer.tie(vector, own)
            vector = own if vector is None else vector
    if vector is not None:
        tracer.add(output, along_dim(vector, 1, output.shape))
    for slots in list(tracer.of(source)):
        if 1 not in living(slots):
            tracer.add(output, slots)
    weight = tracer.made.get(id(source))
    norm = tracer.leaves.get(id(call.args[1]))
    if weight is not None and norm is not None:
        tracer.normed[id(output)] = weight, norm


def layer_norm(tracer: Tracer, call: Call) -> None:
    """Scale and shift lie along the last dimensions."""
    tracer.pointwise([call.args[0], *(tensor for tensor in call.args[2:4] if tensor is not None)], call.outputs[:1])


def group_norm(tracer: Tracer, call: Call) -> None:
    """Scale and shift go with the channels, whose groups stay equal."""
    source, groups = call.args[0], call.args[6]
    vector = tracer.vector(source, 1)
    for tensor in call.args[1:3]:
        own = tracer.vector(tensor, 0)
        if vector is not None and own is not None:
            tracer.tie(vector, own)
    if vector is None:
        return
    if groups > 1:
        _even(tracer, vector, groups)
        tracer.trace.divided.append((vector.numpy(), groups))
    tracer.add(call.output, along_dim(vector, 1, call.output.shape))


def weight_norm(tracer: Tracer, call: Call) -> None:
    """A weight is computed from its direction and its length."""
    tracer.pointwise(call.inputs, call.outputs[:1])


def convolution(tracer: Tracer, call: Call) -> None:
    """Channels are read along one dimension of the weight, and made along the other."""
    source, weight, bias, transposed, groups = (call.args[place] for place in (0, 1, 2, 6, 8))
    output = call.output
    into, out_of = (0, 1) if transposed else (1, 0)
    enters, leaves = tracer.vector(source, 1), tracer.vector(weight, out_of)
    if groups == 1:
        _read(tracer, enters, tracer.vector(weight, into))
        made = leaves
    elif _channelwise(weight, transposed, groups):
        made = _follow_channels(tracer, call, enters)
    else:
        made = _grouped(tracer, call, enters)
    if made is not None:
        tracer.add(output, along_dim(made, 1, output.shape))
        if (own := tracer.vector(bias, 0)) is not None:
            tracer.tie(made, own)
    if leaves is not None and not _channelwise(weight, transposed, groups):
        tracer.trace.produced.append(leaves.numpy())
    _along_sides(tracer, call)
    if (name := tracer.leaves.get(id(weight))) is not None:
        tracer.trace.uses[name] += (source if transposed else output)[0, 0].numel()
        tracer.made[id(output)] = name


def _along_sides(tracer: Tracer, call: Call) -> None:
    """Channels that lie along an image's side (ECA)."""
    source, output = call.args[0], call.output
    for slots in tracer.of(source):
        along = [dim for dim in living(slots) if dim > 1]
        if along and 1 not in living(slots):
            if all(source.shape[dim] == output.shape[dim] for dim in along):
                tracer.add(output, core_of(slots).select(1, 0).unsqueeze(1).expand(output.shape))
            else:
                tracer.trace.hold(core_of(slots).numpy(), "a convolution works along its channels")


def _channelwise(weight: torch.Tensor, transposed: bool, groups: int) -> bool:
    """Whether each input channel has filters of its own (depth-wise)."""
    return groups > 1 and (weight.shape[0] == groups if transposed else weight.shape[1] == 1)


def _follow_channels(tracer: Tracer, call: Call, enters: torch.Tensor | None) -> torch.Tensor | None:
    """A depth-wise convolution: one filter or more for each channel, which go with it."""
    weight, transposed, groups = (call.args[place] for place in (1, 6, 8))
    rows = tracer.vector(weight, 0)
    own = rows if rows is None else rows.view(groups, -1)
    if own is not None:
        tracer.tie(own, own[:, :1] if enters is None else enters[:, None])
    if transposed and weight.shape[1] > 1:
        return None
    if own is not None:
        return own.flatten()
    width = call.output.shape[1]
    return None if enters is None else enters[:, None].expand(groups, width // groups).flatten()


def _grouped(tracer: Tracer, call: Call, enters: torch.Tensor | None) -> torch.Tensor | None:
    """A convolution in groups, whose number stays: every group keeps as many channels as the others."""
    weight, transposed, groups = (call.args[place] for place in (1, 6, 8))
    reads, makes = tracer.vector(weight, 1), tracer.vector(weight, 0)
    if transposed:
        for vector in (reads, makes, enters):
            if vector is not None:
                tracer.trace.hold(vector.numpy(), "a transposed convolution in groups is not supported")
        return None
    if makes is not None:
        tracer.trace.divided.append((makes.numpy(), groups))
    if reads is not None:
        if enters is not None:
            tracer.tie(enters.view(groups, -1), reads[None])
        tracer.trace.read.append(reads.numpy())
    _even(tracer, makes, groups)
    return makes


def _even(tracer: Tracer, vector: torch.Tensor | None, groups: int) -> None:
    if vector is not None:
        parts = vector.view(groups, -1)
        tracer.tie(parts, parts[:1])


def _read(tracer: Tracer, enters: torch.Tensor | None, reads: torch.Tensor | None) -> None:
    if reads is not None:
        tracer.trace.read.append(reads.numpy())
        if enters is not None:
            tracer.tie(enters, reads)


def sum_and_product(tracer: Tracer, call: Call) -> None:
    """A matrix product, and what is added to it."""
    _product(tracer, call.args[1], call.args[2], call.output)
    tracer.pointwise([call.args[0]], call.outputs)


def product(tracer: Tracer, call: Call) -> None:
    """A matrix product."""
    _product(tracer, call.args[0], call.args[1], call.output)


def _product(tracer: Tracer, left: torch.Tensor, right: torch.Tensor, output: torch.Tensor) -> None:
    """A matrix product; of activations and weights, or of two activations."""
    row, column = left.dim() - 1, max(right.dim() - 2, 0)  # the dimensions summed over
    weighted = (id(left) in tracer.data) != (id(right) in tracer.data)
    if weighted:
        weight, data = (right, left) if id(left) in tracer.data else (left, right)
        over, other = (column, row) if weight is right else (row, column)
        _read(tracer, tracer.vector(data, other), tracer.vector(weight, over))
        free = next((dim for dim in (weight.dim() - 1, weight.dim() - 2) if dim != over and dim >= 0), None)
        if free is not None and (made := tracer.vector(weight, free)) is not None:
            tracer.trace.produced.append(made.numpy())
        if (name := tracer.leaves.get(id(weight))) is not None:
            tracer.trace.uses[name] += data.numel() // data.shape[other] // tracer.batch
            tracer.made[id(output)] = name
    else:
        tracer.trace.products += output.numel() * left.shape[row] // tracer.batch
        _tie_summed(tracer, left, row, right, column)
    for tensor, over, at in ((left, row, -1), (right, column, -2)):
        for slots in list(tracer.of(tensor)):
            if over in living(slots) or not living(slots):
                continue
            core = core_of(slots).select(over, 0)
            tracer.add(output, (core.unsqueeze(at) if right.dim() > 1 else core).expand(output.shape))


def _tie_summed(tracer: Tracer, left: torch.Tensor, row: int, right: torch.Tensor, column: int) -> None:
    for one in tracer.of(left):
        for two in tracer.of(right):
            if row in living(one) and column in living(two):
                first, second = core_of(one).movedim(row, -1), core_of(two).movedim(column, -1)
                tracer.tie(first, second)
                tracer.trace.summed.append(first.flatten().numpy())


RULES: dict[str, Callable[[Tracer, Call], None]] = {
    **dict.fromkeys(_BATCH_NORMS, batch_norm),
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    "_weight_norm_interface": weight_norm,
    "convolution": convolution,
    "embedding": embedding,
    "addmm": sum_and_product,
    "baddbmm": sum_and_product,
    "mm": product,
    "bmm": product,
    "mv": product,
}
