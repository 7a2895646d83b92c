import json
from importlib.metadata import version

import torch

import compressor
from compressor.bench import machine_fingerprint
from compressor.pipeline import environment


def test_versions_are_the_installed_ones():
    found = environment.versions()
    assert found["compressor"] == compressor.__version__ == version("onnx-compressor")
    for package in ("torch", "torchvision", "onnx", "onnxscript", "numpy", "scipy"):
        assert found[package] == version(package)
    assert any(name.startswith("onnxruntime") for name in found)


def test_a_package_that_is_not_there_is_said_to_be_none(monkeypatch):
    monkeypatch.setattr(environment, "_PACKAGES", ("a-package-that-is-absent",))
    assert environment.versions()["a-package-that-is-absent"] == "none"


def test_the_machine_is_the_benchs_and_what_torch_trains_on():
    found = environment.machine(torch.device("cpu"))
    assert found["torch_device"] == "cpu"
    assert found["torch_threads"] == torch.get_num_threads()
    assert found.items() >= machine_fingerprint().items()
    assert json.loads(json.dumps(found)) == found
