"""What a trial says of sizes is what torch says."""

import pytest
import torch
from torch import nn

from compressor.widths.trial import _Quick

LAYERS = {
    "linear": lambda: nn.Linear(6, 4),
    "linear without bias": lambda: nn.Linear(6, 4, bias=False),
    "layer-norm": lambda: nn.LayerNorm(6),
    "layer-norm of two dimensions": lambda: nn.LayerNorm((5, 6)),
    "layer-norm without weights": lambda: nn.LayerNorm(6, elementwise_affine=False),
    "batch-norm": lambda: nn.BatchNorm1d(5),
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("shape", [(3, 5, 6), (3, 5, 7), (3, 4, 6), (2, 3, 5, 6), (1, 6), (6,), (0, 5, 6), (1, 5), ()])
def test_the_quick_way_gives_the_same_shape_or_the_same_error(layer, shape):
    module = LAYERS[layer]().to("meta")
    x = torch.empty(shape, device="meta")

    def result():
        try:
            return module(x).shape
        except Exception as error:
            return type(error), str(error)

    expected = result()
    with _Quick():
        assert result() == expected


def test_a_bias_of_another_width_is_refused():
    linear = nn.Linear(6, 4, device="meta")
    linear.bias = nn.Parameter(torch.empty(5, device="meta"))
    with _Quick(), pytest.raises(RuntimeError, match="5"):
        linear(torch.empty(3, 6, device="meta"))
