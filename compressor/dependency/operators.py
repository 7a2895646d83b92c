"""Names of ATen operators by what they do to channels; in-place ones go without their underscore."""

from __future__ import annotations

from typing import Any

import torch

SAME = {"clone", "alias", "detach", "_to_copy", "contiguous", "lift_fresh", "view_as", "to"}
SHAPED = {"view", "_unsafe_view", "reshape", "_reshape_alias"}
MOVED = {"t", "permute", "transpose", "expand", "select", "unsqueeze", "squeeze", "unbind", "roll", "flip", "repeat"}
MOVED |= {"pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold", "slice", "diagonal", "movedim"}
PARTS = {"split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes"}
NEW_TENSORS = {"new_zeros", "new_ones", "new_full", "new_empty", "new_empty_strided", "size", "stride", "sym_size"}
REDUCED = {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "std_mean", "prod", "logsumexp"}
REDUCED |= {"linalg_vector_norm", "norm", "argmax", "argmin", "any", "all", "median", "count_nonzero"}
SPATIAL = ("pool", "upsample", "reflection_pad", "replication_pad", "circular_pad")
BATCH_NORMS = {"native_batch_norm", "_native_batch_norm_legit", "cudnn_batch_norm", "_batch_norm_with_update"}
BATCH_NORMS |= {"_native_batch_norm_legit_no_training", "miopen_batch_norm", "batch_norm", "_batch_norm_no_update"}
# At every position they give something of that position, though torch does not tag them so; softmax mixes channels, but
# only by a common factor.
_ALIKE = {"hardswish", "bernoulli", "dropout", "native_dropout", "alpha_dropout", "feature_dropout", "fill", "zero"}
_ALIKE |= {"empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "normal", "uniform"}
_ALIKE |= {"softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax", "masked_fill", "prelu"}
_ALIKE |= {"_prelu_kernel", "log_sigmoid_forward", "rrelu_with_noise", "exponential", "random", "bernoulli_scalar"}


def elementwise(func: Any, name: str) -> bool:
    """Whether every element of the output is made of the inputs' elements of that position."""
    if name in _ALIKE or torch.Tag.pointwise in func.tags:
        return True
    packet = getattr(torch.ops.aten, name, None) if func.namespace == "aten" else None  # the in-place form's original
    return packet is not None and any(torch.Tag.pointwise in getattr(packet, form).tags for form in packet.overloads())
