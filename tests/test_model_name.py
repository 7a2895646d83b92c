"""What a model is called says where it comes from."""

from pathlib import Path

import pytest

from compressor.recipe.model_name import ModelName


@pytest.mark.parametrize(
    ("text", "source", "name", "carries"),
    [
        ("vgg11_bn", "zoo", "vgg11_bn", False),
        ("torchvision:resnet18", "torchvision", "resnet18", False),
        ("timm:resnet10t", "timm", "resnet10t", False),
        ("given:mine", "given", "mine", True),
        ("onnx:C:/nets/net.onnx", "onnx", "C:/nets/net.onnx", True),
        ("package.module:make", "factory", "package.module:make", False),
    ],
)
def test_a_models_name_says_where_it_comes_from(text, source, name, carries):
    found = ModelName.of(text)
    assert (found.source, found.name, found.carries_weights) == (source, name, carries)
    assert found.has_weights == (source != "zoo")
    assert (found.file == Path(name)) == (source == "onnx")
