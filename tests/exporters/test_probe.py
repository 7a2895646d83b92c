"""Untrained files to measure: the same network as the checked export, whichever exporter made them."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from compressor.errors import ExportError
from compressor.exporters import export_probe
from compressor.models import build, reference_architecture


def outputs(path, images):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


@pytest.fixture
def small():
    """A small residual network, in training mode, and two images for it."""
    model = build(reference_architecture("resnet20", {}, 7, (3, 8, 8), 0.25), 0)
    return model, torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def old_exporter_fails(monkeypatch):
    export = torch.onnx.export

    def only_the_new_one(*args, **options):
        if not options["dynamo"]:
            raise RuntimeError("no such exporter")
        return export(*args, **options)

    monkeypatch.setattr(torch.onnx, "export", only_the_new_one)


def check(model, path, images):
    export_probe(model, path, images, opset=20)
    for batch in (images[:1], torch.cat([images, images])[:3]):
        with torch.no_grad():
            np.testing.assert_allclose(outputs(path, batch), model(batch).numpy(), rtol=1e-4, atol=1e-5)


def test_the_file_computes_what_the_network_does_at_any_batch(small, tmp_path):
    check(small[0], tmp_path / "probe.onnx", small[1])


@pytest.mark.usefixtures("old_exporter_fails")
def test_what_the_older_exporter_cannot_do_goes_through_the_newer_one(small, tmp_path):
    check(small[0], tmp_path / "probe.onnx", small[1])


class _Undecided(nn.Module):
    """Decides by its input."""

    def forward(self, images):
        return torch.zeros(len(images), 3) if float(images.sum()) > 1 else images.mean((2, 3))


@pytest.mark.usefixtures("old_exporter_fails")
def test_what_neither_can_export_is_told(tmp_path):
    with pytest.raises(ExportError, match="cannot export _Undecided"):
        export_probe(_Undecided(), tmp_path / "probe.onnx", torch.zeros(2, 3, 8, 8), opset=20)
