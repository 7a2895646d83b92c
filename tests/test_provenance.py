import json
from importlib.metadata import version

import torch

import compressor
from compressor import provenance
from compressor.bench import machine_fingerprint


def test_versions_are_the_installed_ones():
    found = provenance.versions()
    assert found["compressor"] == compressor.__version__ == version("onnx-compressor")
    for package in ("torch", "torchvision", "onnx", "onnxscript", "numpy", "scipy"):
        assert found[package] == version(package)
    assert any(name.startswith("onnxruntime") for name in found)


def test_a_package_that_is_not_there_is_said_to_be_none(monkeypatch):
    monkeypatch.setattr(provenance, "_PACKAGES", ("a-package-that-is-absent",))
    assert provenance.versions()["a-package-that-is-absent"] == "none"


def test_the_machine_is_the_benchs_and_what_torch_trains_on():
    found = provenance.machine(torch.device("cpu"))
    assert found["torch_device"] == "cpu"
    assert found["torch_threads"] == torch.get_num_threads()
    assert found.items() >= machine_fingerprint().items()
    assert json.loads(json.dumps(found)) == found
