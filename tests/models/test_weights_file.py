"""Trained weights from files: read without running code, under the network's names, whole or refused."""

import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from compressor.errors import ModelError
from compressor.models.weights_file import load_trained_, read_weights


class Net(nn.Module):
    def __init__(self, classes=5):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Linear(3, classes)


def net(seed=0, classes=5):
    torch.manual_seed(seed)
    return Net(classes)


SAVED = {
    "state dict": lambda model: model.state_dict(),
    "checkpoint": lambda model: {"epoch": 3, "model": model.state_dict(), "optimizer": {"state": {}}},
    "lightning": lambda model: {"state_dict": {f"net.{key}": value for key, value in model.state_dict().items()}},
    "data parallel": lambda model: nn.DataParallel(model).state_dict(),
    "averaged": lambda model: AveragedModel(model).state_dict(),
    "compiled": lambda model: {f"_orig_mod.{key}": value for key, value in model.state_dict().items()},
    "part compiled": lambda model: {
        key.replace("conv.", "conv._orig_mod."): value for key, value in model.state_dict().items()
    },
    "both": lambda model: {f"module._orig_mod.{key}": value for key, value in model.state_dict().items()},
    "averages": lambda model: {"epoch": 3, "state_dict_ema": model.state_dict()},
    "few": lambda model: {"state_dict": model.state_dict(), "best_accuracy": torch.tensor(0.9)},
    "averages beside": lambda model: {**model.state_dict(), "ema": net(3).state_dict()},
    "settings beside": lambda model: {**model.state_dict(), "params": {"lr": 0.1}, "model": {}},
    "settings before": lambda model: {"model": {"name": "net"}, "weights": {**model.state_dict(), "net": {"depth": 3}}},
    "nested": lambda model: {"model": {"model": model.state_dict()}},
    "half": lambda model: {
        key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()
    },
}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda value: value.to(torch.int8), "conv.weight is int8, the network's is float32; valid: floating-point"),
        (lambda value: value.to(torch.complex64), "conv.weight is complex64, the network's is float32"),
        (lambda value: value.to_sparse(), "conv.weight is sparse_coo; valid: dense tensors"),
        (lambda value: value.to("meta"), "conv.weight is on the meta device, without values"),
    ],
)
def test_what_holds_no_values_of_weights_is_refused(given, said):
    trained, model = net(1).state_dict(), net(2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=said):
        load_trained_(model, trained | {"conv.weight": given(trained["conv.weight"])}, "net.pt", 5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64])
def test_floating_point_numbers_of_other_kinds_are_converted(kind):
    trained, model = net(1).state_dict(), net(2)
    given = {name: value.to(kind) if value.is_floating_point() else value for name, value in trained.items()}
    load_trained_(model, given, "net.pt", 5)
    assert torch.equal(model.conv.weight, trained["conv.weight"].to(kind).float())


@pytest.mark.parametrize("form", SAVED)
def test_what_training_scripts_save_loads(tmp_path, form):
    trained, path = net(1), tmp_path / "net.pt"
    torch.save(SAVED[form](trained), path)
    fresh = net(2)
    assert load_trained_(fresh, read_weights(path), "net.pt", 5) == []
    tolerance = 1e-3 if form == "half" else 0.0
    for name, value in trained.state_dict().items():
        torch.testing.assert_close(fresh.state_dict()[name], value, rtol=tolerance, atol=tolerance)


def test_safetensors_load(tmp_path):
    trained, path = net(1), tmp_path / "net.safetensors"
    save_file(trained.state_dict(), path)
    fresh = net(2)
    load_trained_(fresh, read_weights(path), "net", 5)
    assert torch.equal(fresh.conv.weight, trained.conv.weight)


def test_a_head_of_other_classes_is_left(tmp_path):
    trained, fresh = net(1, classes=9), net(2)
    own = fresh.fc.weight.detach().clone()
    assert load_trained_(fresh, trained.state_dict(), "net", 5) == ["fc.weight", "fc.bias"]
    assert torch.equal(fresh.fc.weight, own)
    assert torch.equal(fresh.conv.weight, trained.conv.weight)


def changed(**values):
    tensors = net(1).state_dict() | {key.replace("__", "."): value for key, value in values.items()}
    return {key: value for key, value in tensors.items() if value is not None}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (changed(conv__weight=None), "is not of this network: it lacks conv.weight"),
        (
            {f"net.{key}": value for key, value in changed().items()} | {"loss.weight": torch.zeros(2)},
            "is not of this network: it has loss.weight too",
        ),
        (changed(more=torch.zeros(2)), "is not of this network: it has more too"),
        (changed(conv__weight=None, stem__weight=torch.zeros(2)), "lacks conv.weight and has stem.weight too"),
        (
            changed(conv__weight=torch.zeros(4, 1, 3, 3)),
            r"conv.weight is \(4, 1, 3, 3\), the network's is \(3, 1, 3, 3\)",
        ),
        (changed(norm__weight=torch.full((3,), torch.nan)), "norm.weight holds values that are not finite"),
    ],
)
def test_weights_of_another_network_are_refused_in_one_sentence(tensors, message):
    fresh = net(2)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(ModelError, match=message):
        load_trained_(fresh, tensors, "net.pt", 5)
    assert all(torch.equal(value, before[name]) for name, value in fresh.state_dict().items())


def test_files_that_hold_no_weights_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    path = tmp_path / "net.pt"
    for value, message in (
        (net(), "loading that would run code"),
        ({"state_dict": 3}, "holds a mapping with the keys state_dict, not a state dict"),
        ([torch.zeros(2)], "holds a list, not a state dict"),
    ):
        torch.save(value, path)
        with pytest.raises(ModelError, match=message):
            read_weights(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ModelError, match=r"model\.weights: "):
        read_weights(path)
    assert not (tmp_path / "ran").exists()
    for name, content in (("cut.pt", b"PK\3\4"), ("empty.pt", b""), ("cut.safetensors", b"\xff" * 9)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match="cannot be read"):
            read_weights(tmp_path / name)
    with pytest.raises(ModelError, match="file not found"):
        read_weights(tmp_path / "absent.pt")
