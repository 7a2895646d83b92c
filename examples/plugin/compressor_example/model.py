"""A network: two convolutions and a linear layer, of any widths."""

from collections import OrderedDict

from torch import nn

from compressor.models.zoo import Family

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU}


def widths(options):
    """The unscaled widths, in the order of the network, named by the layers that they are the outputs of."""
    return {"conv1": 16, "conv2": 32}


def build(widths, options, classes, input_shape):
    """A network of these widths, with fresh weights."""
    activation = ACTIVATIONS[options["activation"]]
    first, second = widths["conv1"], widths["conv2"]
    layers = {
        "conv1": nn.Conv2d(input_shape[0], first, 3, padding=1, bias=False),
        "bn1": nn.BatchNorm2d(first),
        "act1": activation(),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(first, second, 3, padding=1, bias=False),
        "bn2": nn.BatchNorm2d(second),
        "act2": activation(),
        "pool2": nn.AdaptiveAvgPool2d(1),
        "flatten": nn.Flatten(),
        "classifier": nn.Linear(second, classes),
    }
    return nn.Sequential(OrderedDict(layers))


TINY_CNN = Family(widths, build, options={"activation": ("relu", *ACTIVATIONS)}, min_side=2)
