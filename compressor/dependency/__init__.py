"""Width groups of a network: which channels must change together, and changing them.

`tracer` follows a forward pass, operator by operator (`rules`, `layer_rules`), and says which indices of which
parameters carry the same channel. From that a `DependencyGraph` notes, for every dimension of every parameter and
buffer, which slice of which group each position belongs to. The graph is made once; removing or adding channels is
then direct slicing, and returns the graph of the changed network.

    conv1 (13) ── bn1 ──┬── conv2 (23) ──       conv1.weight, dim 0: a a a …      bn1.weight, dim 0:   a a a …
                        └── conv3 (29) ──       conv2.weight, dim 1: a a a …      conv2.weight, dim 0: b b b …

A slice is what one can remove: one channel, or one channel of each part where parts must stay equal (the groups of a
grouped convolution, the halves of a split).
"""

from __future__ import annotations

from compressor.dependency.graph import DependencyGraph, LayerSizes, Owners, Positions, WidthGroup
from compressor.dependency.grouping import dependency_graph
from compressor.dependency.removal import ChannelRemover, Engine, Remove
from compressor.dependency.surgery import remove_channels_, resize_
from compressor.dependency.trace import Axis

__all__ = [
    "Axis",
    "ChannelRemover",
    "Engine",
    "LayerSizes",
    "Owners",
    "Positions",
    "Remove",
    "WidthGroup",
    "DependencyGraph",
    "dependency_graph",
    "remove_channels_",
    "resize_",
]
