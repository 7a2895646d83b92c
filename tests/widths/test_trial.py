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


LSTMS = {
    "as it is": {},
    "batch first": {"batch_first": True},
    "without bias": {"bias": False},
    "two layers": {"num_layers": 2},
    "both ways": {"bidirectional": True},
    "projected": {"proj_size": 3},
}


@pytest.mark.parametrize("kind", LSTMS)
@pytest.mark.parametrize("shape", [(7, 3, 6), (1, 1, 6), (7, 6), (7, 3, 5)])
def test_an_lstm_gives_the_same_shapes_or_the_same_error(kind, shape):
    lstm = nn.LSTM(6, 4, **LSTMS[kind]).to("meta")
    x = torch.empty(shape, device="meta")

    def result():
        try:
            output, state = lstm(x)
            return output.shape, [tensor.shape for tensor in state]
        except Exception as error:
            return type(error), str(error)

    expected = result()
    with _Quick():
        assert result() == expected


def test_an_lstm_with_a_weight_of_another_width_is_refused():
    lstm = nn.LSTM(6, 4, device="meta")
    lstm.weight_hh_l0 = nn.Parameter(torch.empty(16, 5, device="meta"))
    with _Quick(), pytest.raises(RuntimeError):
        lstm(torch.empty(7, 3, 6, device="meta"))


def test_a_bias_of_another_width_is_refused():
    linear = nn.Linear(6, 4, device="meta")
    linear.bias = nn.Parameter(torch.empty(5, device="meta"))
    with _Quick(), pytest.raises(RuntimeError, match="5"):
        linear(torch.empty(3, 6, device="meta"))
