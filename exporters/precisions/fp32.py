"""Float32: the file as the exporter writes it."""

from __future__ import annotations

from compressor.recipe.precision import Precision

PRECISION = Precision(name="fp32", title="32-bit floating point", bytes_of_value=4, tolerance=1e-4)
