"""One file, checked, with PyTorch's numbers; and every way in which an export is refused."""

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import compressor
from compressor.errors import ExportError
from compressor.exporters import OnnxNetwork, export_onnx, measure_parity, write_metadata


class Net(nn.Module):
    """(N, 3, 8, 10) ─ conv 3×3 (13) ─ BN ─ ReLU ─ mean ─ dropout ─ linear (7)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 13, 3)
        self.norm = nn.BatchNorm2d(13)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(13, 7)

    def forward(self, x):
        return self.linear(self.drop(torch.relu(self.norm(self.conv(x))).mean((2, 3))))


class Transposed(Net):
    def forward(self, x):
        return super().forward(x).T


class Branching(Net):
    def forward(self, x):
        return super().forward(x) if x.sum().item() > 0 else x.mean((2, 3))


class AnyArguments(Net):
    def forward(self, *args, **named):
        return super().forward(*args, **named)


class Remembering(Net):
    """It keeps what it needs for a shape, and so the exporter sees one shape only; torch logs that at length."""

    def __init__(self):
        super().__init__()
        self.kept = {}

    def forward(self, x):
        return super().forward(x) + self.kept.setdefault(x.shape[0], torch.zeros(x.shape[0], 1))


class NeedsSeveral(Net):
    def forward(self, x):
        assert x.shape[0] > 1, "needs several"
        return super().forward(x)


def images(count, seed=0):
    return torch.randn(count, 3, 8, 10, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
        with torch.no_grad():
            model.train()(images(50))  # running statistics that are not the initial ones
    return model


@pytest.fixture(scope="module")
def exported(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ex port ü")
    return export_onnx(net, folder / "net.onnx", [images(1), images(5)], metadata={"who": "a test", "übung": "×"})


def torch_logits(model, batch):
    with torch.inference_mode():
        return copy.deepcopy(model).eval()(batch).numpy()


def test_one_file_and_nothing_beside_it(exported):
    assert [path.name for path in exported.path.parent.iterdir()] == ["net.onnx"]
    assert exported.onnx_bytes == exported.path.stat().st_size
    parameters = 27 * 13 + 13 + 13 * 7 + 7
    assert exported.onnx_bytes > 4 * parameters
    proto = onnx.load_model(exported.path, load_external_data=False)
    assert not any(tensor.external_data for tensor in proto.graph.initializer)


def test_the_file_is_checked_and_has_the_operator_set_asked_for(exported):
    onnx.checker.check_model(str(exported.path), full_check=True)
    proto = onnx.load_model(exported.path)
    assert {entry.domain: entry.version for entry in proto.opset_import}[""] == exported.opset == 20
    (given,), (gives,) = proto.graph.input, proto.graph.output
    assert (given.name, gives.name) == ("images", "logits")
    shape = [dim.dim_param or dim.dim_value for dim in given.type.tensor_type.shape.dim]
    assert shape == ["batch", 3, 8, 10]


@pytest.mark.parametrize("batch", [1, 3, 100])
def test_any_batch_gives_pytorchs_logits(exported, net, batch):
    found = OnnxNetwork(exported.path, threads=1).logits(images(batch, seed=batch))
    np.testing.assert_allclose(found, torch_logits(net, images(batch, seed=batch)), rtol=1e-4, atol=1e-5)


def test_parity_is_measured_on_the_batches_given(exported):
    assert exported.parity.batches == (1, 5)
    assert 0 <= exported.parity.max_rel_error <= exported.parity.tolerance == 1e-4
    assert exported.parity.to_json()["batches"] == [1, 5]


def test_parity_by_formula(net):
    batches = [images(2, seed=1), images(3, seed=2)]
    model = copy.deepcopy(net).eval()
    shift = iter([0.25, 0.0])
    parity = measure_parity(model, lambda x: torch_logits(net, x) + np.float32(next(shift)), batches, tolerance=10)
    assert parity.max_abs_error == pytest.approx(0.25, rel=1e-5)
    assert parity.max_rel_error == pytest.approx(0.25 / np.abs(torch_logits(net, batches[0])).max(), rel=1e-5)


def test_the_network_is_left_as_it_is(net, tmp_path):
    model = copy.deepcopy(net).train().double()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    export_onnx(model, tmp_path / "a.onnx", [images(2)])
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.linear.weight.dtype == torch.float64


def test_a_network_that_changed_after_the_export_does_not_pass(exported, net):
    changed = copy.deepcopy(net).eval()
    with torch.no_grad():
        changed.linear.bias[3] += 0.01
    logits = OnnxNetwork(exported.path).logits
    assert measure_parity(copy.deepcopy(net).eval(), logits, [images(3)], 1e-4).max_rel_error <= 1e-4
    with pytest.raises(ExportError, match=r"parity: .* differ by .* more than export.tolerance = 0.0001"):
        measure_parity(changed, logits, [images(3)], 1e-4)
    with pytest.raises(ExportError, match="parity"):
        measure_parity(copy.deepcopy(net).train(), logits, [images(3)], 1e-4)


@pytest.mark.parametrize("bad", ["onnx", "torch", "both"])
def test_logits_that_are_no_numbers_do_not_pass(net, bad):
    model = copy.deepcopy(net).eval()
    batches = [images(2), images(3)]

    def logits(x):
        found = torch_logits(net, x)
        if bad != "torch" and len(x) == 2:  # not the last batch: a maximum could forget it
            found[1, 1] = np.nan
        return found

    if bad != "onnx":
        model.linear.bias.data[2] = float("nan")
    with pytest.raises(ExportError, match=r"parity: (ONNX Runtime|PyTorch) gives logits that are not finite"):
        measure_parity(model, logits, batches, tolerance=1e9)


def test_a_different_shape_does_not_pass(net):
    with pytest.raises(
        ExportError, match=r"parity: for a batch of 2 ONNX Runtime gives shape \(2, 6\), PyTorch \(2, 7\)"
    ):
        measure_parity(copy.deepcopy(net).eval(), lambda x: torch_logits(net, x)[:, :6], [images(2)], 1.0)


def test_a_refused_export_leaves_the_old_file(net, tmp_path):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"the old file")
    with pytest.raises(ExportError, match="parity"):
        export_onnx(net, path, [images(3)], tolerance=-1.0)
    assert path.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            Branching,
            "torch.onnx cannot export Branching: GuardOnDataDependentSymNode: .*data-dependent",
        ),
        (Remembering, "images has a batch of 2 and no other"),
        (NeedsSeveral, "parity: PyTorch does not run a batch of 1: AssertionError: needs several"),
        (Transposed, "logits has dynamic axes .1.; exactly the batch"),
    ],
)
def test_a_network_that_cannot_be_exported_is_one_sentence(kind, message, tmp_path, capfd):
    with pytest.raises(ExportError, match=message) as caught:
        export_onnx(kind(), tmp_path / "net.onnx", [images(3), images(1)])
    assert "\n" not in str(caught.value)
    assert "Traceback" not in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_takes_any_arguments_takes_any_batch(tmp_path):
    found = export_onnx(AnyArguments(), tmp_path / "net.onnx", [images(3), images(1)])
    assert found.parity.batches == (3, 1)


def metadata(path):
    return {entry.key: entry.value for entry in onnx.load_model(path).metadata_props}


def test_metadata_is_kept_and_replaced_by_name(net, exported, tmp_path):
    assert metadata(exported.path) == {"who": "a test", "übung": "×"}
    path = tmp_path / "copy.onnx"
    path.write_bytes(exported.path.read_bytes())
    write_metadata(path, {"who": "another", "why": "because"})
    write_metadata(path, {"when": "now"})
    assert metadata(path) == {"who": "another", "übung": "×", "why": "because", "when": "now"}
    np.testing.assert_array_equal(
        OnnxNetwork(path, threads=1).logits(images(3)), OnnxNetwork(exported.path, threads=1).logits(images(3))
    )


def test_no_path_of_this_machine_is_in_the_file(exported):
    content = exported.path.read_bytes()
    for folder in (Path(compressor.__file__).parents[1], Path(torch.__file__).parents[1], Path(__file__).parent):
        assert str(folder).encode() not in content
    assert b".py" not in content
    assert str(exported.path.parent).encode() not in content


def test_public_names_load_on_first_use():
    from compressor import exporters

    for name in exporters.__all__:
        found = getattr(exporters, name)
        assert name.isupper() or found.__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'export_tflite'"):
        _ = exporters.export_tflite
