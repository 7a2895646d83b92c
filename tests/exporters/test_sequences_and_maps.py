"""Networks of tokens keep batch and time free; networks that give a map of logits keep the batch free."""

import json

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compressor.bench import Conditions, measure_latency, measure_pairs
from compressor.errors import ExportError
from compressor.exporters import OnnxNetwork, export_onnx, export_probe


class Language(nn.Module):
    """(N, T) ─ embedding (11) ─ LSTM (13) ─ LSTM (23) ─ linear (29)."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(29, 11)
        self.lstm1 = nn.LSTM(11, 13, batch_first=True)
        self.lstm2 = nn.LSTM(13, 23, batch_first=True)
        self.decoder = nn.Linear(23, 29)

    def forward(self, tokens):
        return self.decoder(self.lstm2(self.lstm1(self.embedding(tokens))[0])[0])


class Frozen(Language):
    def forward(self, tokens):
        """Adds what the tracer takes for a constant: the length that it saw."""
        return super().forward(tokens) + torch.full((), float(tokens.shape[1])).numpy().item()


class Last(Language):
    def forward(self, tokens):
        return super().forward(tokens)[:, -1]


class Segmenter(nn.Module):
    """(N, 3, 12, 10) ─ conv 3×3, stride 2 (13) ─ BN ─ ReLU ─ conv 1×1 (7) ─ interpolate (12, 10)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 13, 3, 2, 1)
        self.norm = nn.BatchNorm2d(13)
        self.head = nn.Conv2d(13, 7, 1)

    def forward(self, x):
        maps = self.head(torch.relu(self.norm(self.conv(x))))
        return nn.functional.interpolate(maps, size=x.shape[-2:], mode="bilinear", align_corners=False)


def tokens(batch, length, seed=0):
    return torch.randint(29, (batch, length), generator=torch.Generator().manual_seed(seed))


def images(batch, seed=0):
    return torch.randn(batch, 3, 12, 10, generator=torch.Generator().manual_seed(seed))


def made(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval()


def dims(value):
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


BATCHES = [tokens(1, 17), tokens(3, 5), tokens(7, 17)]


@pytest.fixture(scope="module", params=[18, 20, 23])
def language(request, tmp_path_factory):
    """The network and its file, at the least, the usual and the greatest operator set of a recipe."""
    model = made(Language)
    path = tmp_path_factory.mktemp("language") / "model.onnx"
    return model, export_onnx(model, path, BATCHES, opset=request.param)


def test_batch_and_time_of_tokens_are_free(language):
    model, exported = language
    proto = onnx.load_model(exported.path)
    assert proto.opset_import[0].version == exported.opset
    assert (proto.graph.input[0].name, proto.graph.output[0].name) == ("tokens", "logits")
    assert proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT64
    assert dims(proto.graph.input[0]) == ["batch", "time"]
    assert dims(proto.graph.output[0]) == ["batch", "time", 29]
    network = OnnxNetwork(exported.path, threads=1)
    for batch in (1, 2, 11):
        for length in (1, 6, 40):
            given = tokens(batch, length, seed=batch)
            with torch.inference_mode():
                np.testing.assert_allclose(network.logits(given), model(given).numpy(), rtol=1e-4, atol=1e-6)


def test_parity_of_tokens_is_measured_on_all_batches(language):
    _, exported = language
    assert exported.parity.batches == (1, 3, 7)
    assert exported.parity.max_rel_error < 1e-5


def test_a_file_of_tokens_is_measured_at_its_length_without_further_options(language):
    _, exported = language
    notes = {entry.key: entry.value for entry in onnx.load_model(exported.path).metadata_props}
    assert json.loads(notes["compressor.input_shape"]) == [17]
    measured = measure_latency(exported.path, provider="cpu", batch=3, warmup=1, runs=2, threads=1)
    assert measured.inputs[0].shape == (3, 17)


def test_a_probe_of_tokens_is_the_shipped_graph_at_the_length_of_the_shipped_file(language, tmp_path):
    model, exported = language
    export_probe(model, tmp_path / "probe.onnx", BATCHES[0].expand(2, -1), opset=exported.opset)
    probe, shipped = (onnx.load_model(path) for path in (tmp_path / "probe.onnx", exported.path))
    assert [node.op_type for node in probe.graph.node] == [node.op_type for node in shipped.graph.node]
    conditions = Conditions("cpu", 2, 1, 0)
    pairs = measure_pairs(exported.path, tmp_path / "probe.onnx", conditions, lambda so_far: True, looks=(2,))
    assert [spec.shape for (spec,) in pairs.inputs] == [(2, 17), (2, 17)]


def test_a_length_that_the_file_has_fixed_is_found_by_parity(tmp_path):
    with pytest.raises(ExportError, match="parity: "):
        export_onnx(made(Frozen), tmp_path / "model.onnx", BATCHES)
    assert not list(tmp_path.iterdir())


def test_a_network_of_tokens_without_time_in_its_output_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"logits has dynamic axes .*; exactly batch and time, axes 0 and 1, should"):
        export_onnx(made(Last), tmp_path / "model.onnx", BATCHES)


def test_a_map_of_logits_has_the_size_of_the_image_at_any_batch(tmp_path):
    model = made(Segmenter)
    exported = export_onnx(model, tmp_path / "model.onnx", [images(1), images(5)])
    proto = onnx.load_model(exported.path)
    assert dims(proto.graph.input[0]) == ["batch", 3, 12, 10]
    assert dims(proto.graph.output[0])[1:] == [7, 12, 10]
    network = OnnxNetwork(exported.path, threads=1)
    for batch in (1, 2, 11):
        with torch.inference_mode():
            expected = model(images(batch, seed=batch)).numpy()
        np.testing.assert_allclose(network.logits(images(batch, seed=batch)), expected, rtol=1e-4, atol=1e-5)
