import json

import pytest

from compressor import Architecture
from compressor.errors import ModelError

NET = Architecture("vgg11_bn", 10, (3, 32, 31), {"conv1": 13, "conv2": 23, "conv10": 29}, {"shortcut": "conv"})


def edited(**changes):
    value = json.loads(NET.to_json()) | changes
    return json.dumps({key: kept for key, kept in value.items() if kept != "left out"})


def test_json_holds_everything():
    assert Architecture.from_json(NET.to_json()) == NET
    assert list(Architecture.from_json(NET.to_json()).widths) == sorted(NET.widths)


@pytest.mark.parametrize("shape", [(35,), (13, 7), (3, 32, 31)])
def test_inputs_have_one_to_three_dimensions(shape):
    network = Architecture("lstm", 29, shape, {"lstm1": 13}, {"units": [[0, 2], [0]]})
    assert Architecture.from_json(network.to_json()) == network


def test_the_same_architecture_gives_the_same_text():
    turned = Architecture("vgg11_bn", 10, (3, 32, 31), dict(reversed(NET.widths.items())), {"shortcut": "conv"})
    assert turned.to_json() == NET.to_json()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "a.json: not valid JSON: "),
        ("9" * 9999, "a.json: not valid JSON: "),
        ("[" * 200_000, "a.json: not valid JSON: "),
        ("[]", "a.json: must be an object with the keys model, options, classes, input_shape, widths"),
        (edited(width={}), r"a.json: key 'width' is not one of classes, .*did you mean widths\?"),
        (edited(classes="left out"), "a.json: key classes is missing"),
        (edited(classes=0), "a.json: classes: 0 is not a whole number"),
        (edited(classes="10"), "a.json: classes: '10' is not a whole number"),
        (edited(model=3), "a.json: model: 3 is not a text"),
        (edited(options=None), "a.json: options: None is not a mapping"),
        (edited(widths=[13]), r"a.json: widths: \[13\] is not a mapping"),
        (edited(widths={"conv1": 0}), "a.json: widths.conv1: 0 is not a whole number of channels"),
        (
            edited(widths={"conv1": 2**70}),
            "a.json: widths.conv1: 1180591620717411303424 is not a whole number of channels",
        ),
        (edited(widths={"conv1": True}), "a.json: widths.conv1: True is not"),
        (edited(widths={"conv1": 1.5}), "a.json: widths.conv1: 1.5 is not"),
        (edited(input_shape=[]), r"a.json: input_shape: \(\) is not one to three whole numbers"),
        (
            edited(input_shape=[2, 3, 32, 32]),
            r"a.json: input_shape: \(2, 3, 32, 32\) is not one to three whole numbers",
        ),
        (edited(input_shape=[3, 32, -1]), "a.json: input_shape: .* is not one to three whole numbers"),
        (edited(input_shape="abc"), "a.json: input_shape: 'abc' is not a list"),
    ],
)
def test_what_is_no_architecture(text, message):
    with pytest.raises(ModelError, match=message):
        Architecture.from_json(text, "a.json")


def test_widths_go_by_name_and_keep_the_order():
    narrow = NET.with_widths({"conv10": 3, "conv2": 2, "conv1": 1})
    assert list(narrow.widths.items()) == [("conv1", 1), ("conv2", 2), ("conv10", 3)]
    assert narrow.options == NET.options
    assert NET.widths["conv1"] == 13


def test_names_must_match_exactly():
    with pytest.raises(ModelError, match=r"widths: 'conv11' is not one of conv1, conv10, conv2"):
        NET.with_widths({**NET.widths, "conv11": 3})
    with pytest.raises(ModelError, match="widths: conv2 is missing"):
        NET.with_widths({"conv1": 1, "conv10": 3})
    with pytest.raises(ModelError, match=r"widths.conv2: 0 is not a whole number"):
        NET.with_widths({**NET.widths, "conv2": 0})
