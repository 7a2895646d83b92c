"""The network of an ONNX file: read, converted, proven equal, with batch-norms put back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import fx

from compressor.errors import ModelError, not_one_of
from compressor.models.from_onnx.batch_norms import restore_batch_norms_
from compressor.models.from_onnx.checking import check_equal
from compressor.models.from_onnx.conversion import Conversion, ConversionError
from compressor.models.from_onnx.file import OnnxFile, read_file, sizes_to_try
from compressor.models.from_onnx.interface import is_channels_last, keep_interface_

_SOME_BATCH = 3  # unlike the literals that graphs are full of
_OPTIONS = {"batch_norm": ("restore", "as_is"), "layout": ("auto", "nchw", "nhwc")}


def network_of(path: Path, options: Mapping[str, Any], shape: Sequence[int] | None = None) -> fx.GraphModule:
    """The network of an ONNX file, with its weights, for batches of any size, in float32.

    Args:
        path: of a file of operator set 7 to 25, whose inputs all have the batch as their first axis
        options: {"batch_norm": "restore" (default) or "as_is", "layout": of images, "auto" (default), "nchw" or "nhwc"}
        shape: (C, H, W) of the images that it will be used on, where the file leaves that open; None: some are tried

    Raises:
        ModelError: the file cannot be read, has an operator that is not known, or is not computed alike by torch
    """
    for key, value in options.items():
        if key not in _OPTIONS:
            raise ModelError(f"model.options: {not_one_of(key, _OPTIONS)}")
        if value not in _OPTIONS[key]:
            raise ModelError(f"model.options.{key}: {not_one_of(value, _OPTIONS[key])}")
    file = read_file(path)
    layout = options.get("layout", "auto")
    network = _converted(file.used_on(shape, channels_last=is_channels_last(file, layout)))
    if options.get("batch_norm", "restore") == "restore":
        restore_batch_norms_(network, network.meta["shapes"])
    keep_interface_(network, file, channels_last=is_channels_last(file, layout))
    for known in ("values", "shapes"):
        network.meta.pop(known, None)
    return network


def _converted(file: OnnxFile) -> fx.GraphModule:
    """The network in the first size of images that it runs in, where the file leaves that open."""
    sizes = sizes_to_try(file)
    for size in sizes:
        batch = file.batch or _SOME_BATCH
        pairs = zip(file.examples(batch, size), file.examples(2 * batch, size), strict=True)
        examples = {port.name: list(pair) for port, pair in zip(file.inputs, pairs, strict=True)}
        try:
            network = Conversion(file.proto, examples).convert()
            check_equal(file, network, size)
        except ConversionError as error:
            if size == sizes[-1] or not error.may_be_size:
                raise ModelError(f"model.onnx: {file.path}: {error}") from error
        except ModelError:
            if size == sizes[-1]:
                raise
        else:
            return network
    raise AssertionError("the last size returns or raises")
