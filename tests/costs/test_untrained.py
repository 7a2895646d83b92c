"""What is read off an untrained file is what the trained one will have."""

import pytest
import torch

from compressor.costs.untrained import measure_untrained
from compressor.exporters import export_onnx, write_metadata
from compressor.models import build, example_input, reference_architecture


@pytest.mark.parametrize(("name", "shape"), [("mlp", (1, 8, 8)), ("resnet20", (3, 8, 8))])
def test_an_untrained_file_is_as_large_as_a_trained_one(name, shape, tmp_path):
    architecture = reference_architecture(name, {}, 10, shape, 0.3)
    model = build(architecture, 3)
    with torch.no_grad():
        for number, tensor in enumerate((*model.parameters(), *model.buffers())):
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=torch.Generator().manual_seed(number)))
    path = tmp_path / "trained.onnx"
    images = torch.randn(example_input(architecture, 3).shape, generator=torch.Generator().manual_seed(0))
    export_onnx(model, path, [images], tolerance=1.0)
    write_metadata(path, {"note": "x" * 300})
    assert measure_untrained(architecture, 20, {"note": "y" * 300}) == path.stat().st_size
