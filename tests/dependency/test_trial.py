"""What a trial says of sizes is what torch says: shape, strides, type, and the errors."""

import pytest
import torch
from torch import nn

from compressor.dependency import dependency_graph
from compressor.dependency.trial import _Quick


def seen(tensor):
    strides = [
        stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1
    ]  # others are free
    return tensor.shape, strides, tensor.dtype


LAYOUTS = {
    "contiguous": lambda shape: torch.empty(shape, device="meta"),
    "transposed": lambda shape: torch.empty(shape[:-2] + shape[:-3:-1], device="meta").transpose(-1, -2),
    "a part": lambda shape: torch.empty((*shape[:-1], 2 * shape[-1]), device="meta")[..., ::2],
}

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


def both_ways(call):
    """What the call gives, or raises, as torch does it and in the quick way."""

    def result():
        try:
            return call()
        except Exception as error:
            return type(error), str(error)

    with torch.no_grad():
        expected = result()
        with _Quick():
            return expected, result()


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(3, 5, 6), (3, 5, 7), (3, 4, 6), (2, 3, 5, 6), (1, 6), (0, 5, 6), (1, 5)])
def test_the_quick_way_gives_the_same_or_the_same_error(layer, layout, shape):
    module, x = LAYERS[layer]().to("meta"), LAYOUTS[layout](shape)
    expected, found = both_ways(lambda: seen(module(x)))
    assert found == expected


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("shape", [(6,), ()])
def test_inputs_of_few_dimensions_are_treated_alike(layer, shape):
    module, x = LAYERS[layer]().to("meta"), torch.empty(shape, device="meta")
    expected, found = both_ways(lambda: seen(module(x)))
    assert found == expected


LSTMS = {
    "as it is": {},
    "batch first": {"batch_first": True},
    "without bias": {"bias": False},
    "two layers": {"num_layers": 2},
    "both ways": {"bidirectional": True},
    "projected": {"proj_size": 3},
}


@pytest.mark.parametrize("kind", LSTMS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(7, 3, 6), (1, 1, 6), (7, 6), (7, 3, 5)])
def test_an_lstm_gives_the_same_or_the_same_error(kind, layout, shape):
    lstm, x = nn.LSTM(6, 4, **LSTMS[kind]).to("meta"), LAYOUTS[layout](shape)

    def call():
        output, state = lstm(x)
        return seen(output), [seen(tensor) for tensor in state]

    expected, found = both_ways(call)
    assert found == expected


def test_an_lstm_called_by_keywords_is_left_to_torch():
    lstm, x, state = (
        nn.LSTM(6, 4, device="meta"),
        torch.empty(7, 3, 6, device="meta"),
        torch.empty(1, 3, 4, device="meta"),
    )
    options = {"num_layers": 1, "dropout": 0.0, "train": False, "bidirectional": False, "batch_first": False}
    given = {"params": lstm._flat_weights, "has_biases": True, **options}
    expected, found = both_ways(lambda: seen(torch.lstm(x, (state, state), **given)[0]))
    assert found == expected == ((7, 3, 4), [12, 4, 1], torch.float32)


class Patches(nn.Module):
    """A view of what layer-norm gives, which is contiguous; and a gradient that forward takes by itself."""

    def __init__(self):
        super().__init__()
        self.cut, self.norm, self.head = nn.Conv2d(1, 12, 4, 4), nn.LayerNorm(12), nn.Linear(48, 10)

    def forward(self, x):
        patches = self.norm(self.cut(x).flatten(2).transpose(1, 2)).view(len(x), -1)
        with torch.enable_grad():
            moved = patches.detach().requires_grad_()
            (slope,) = torch.autograd.grad(nn.functional.gelu(moved).sum(), moved)
        return self.head(patches + slope)


def test_a_network_that_views_and_differentiates_is_planned():
    assert dependency_graph(Patches(), torch.zeros(2, 1, 8, 8)).widths == {"cut": 12}


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
