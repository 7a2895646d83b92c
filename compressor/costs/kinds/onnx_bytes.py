"""The size of the ONNX file: while a search goes on, the bytes of its precision a parameter, and an offset.

The offset is the graph and its names; batch-norms may be folded away or not, see `compressor.costs.corrected`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.recipe.cost import Cost, CostContext, ShippedNetwork
from compressor.recipe.precision import precisions

if TYPE_CHECKING:
    from compressor.models.architecture import Architecture

_CLOSE = 16  # bytes by which an estimate may be too large


def _evaluator(context: CostContext) -> Callable[[Architecture], float]:
    from compressor.costs.corrected import corrected
    from compressor.costs.params_macs import params

    export = context.recipe.export
    spare = precisions()[export.precision].spare

    def size(path: Path) -> float:
        return path.stat().st_size + (spare * _nodes(path) if spare else 0)

    return corrected(
        context,
        size,
        lambda architecture: export.bytes_of_value * params(architecture),
        _CLOSE,
        "measuring the size of the unscaled network's file",
    )


def _nodes(path: Path) -> int:
    import onnx

    return len(onnx.load_model(path).graph.node)


def _shipped(network: ShippedNetwork) -> int:
    return network.path.stat().st_size


COST = Cost(
    name="onnx_bytes",
    title="ONNX file, bytes",
    description="size of the ONNX file, such as 200k or 0.25x",
    evaluator=_evaluator,
    shipped=_shipped,
    depends_on=("export",),
    always=True,
    along_params=True,
    counts_zeros=True,
    place=3,
)
