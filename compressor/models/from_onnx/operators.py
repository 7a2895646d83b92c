"""All operators that are known: the modules that note them are imported here, wherever conversion begins."""

from __future__ import annotations

from compressor.models.from_onnx import elementwise, layers, movement, resampling, shape_arithmetic
from compressor.models.from_onnx.operator import FUNCTIONS, HOST_FUNCTIONS

_NOTING = (elementwise, layers, movement, resampling, shape_arithmetic)
KNOWN = frozenset({*FUNCTIONS, *HOST_FUNCTIONS, *layers.LAYERS})
