"""Training by two processes under torchrun, on the CPU."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from small import small_recipe

from compressor.training.distributed import Team

NETWORK = """
from torch import nn

def network(num_classes=10):
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(72, 32), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(32, num_classes))
"""
RAW = small_recipe(
    data={"name": "digits", "image_size": 8, "limit": 600},
    train={"epochs": 6, "batch_size": 48, "lr": 0.05, "precision": "fp32"},
)
SUPPORT = Path(__file__).parents[1] / "support"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def start(folder, out, *more):
    command = [*TORCHRUN, "-m", "quick_compressor", "run", "recipe.yaml", "-o", out, *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(SUPPORT)}, **pipes)


def finish(process):
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


@pytest.fixture
def trained(start_command, folder):
    def work(where, out, processes, *more):
        """Run the recipe in so many processes, told what torchrun tells them; what each of them printed."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        team = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        logs = [where / f"{out}-{rank}.log" for rank in range(processes)]
        started = [
            start_command(
                ["run", "recipe.yaml", "-o", out, *more],
                log,
                folder=where,
                environment=team | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {},
            )
            for rank, log in enumerate(logs)
        ]
        assert [process.wait() for process in started] == [0] * processes, [log.read_text() for log in logs]
        return [log.read_text() for log in logs]

    return work


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mynet.py").write_text(NETWORK)

    def write(**sections):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RAW | sections))
        return tmp_path

    return write


@pytest.mark.slow
def test_without_batch_norm_two_processes_train_what_one_trains(folder, trained):
    where = folder(model="mynet:network")
    trained(where, "one", 1)
    told = trained(where, "two", 2)
    assert ["report:" in text for text in told] == [True, False]  # process 0 alone is heard
    one, two = (load_file(where / name / "weights.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-2, atol=1e-4), name
    report = json.loads((where / "two" / "report.json").read_text())
    assert report["budget"]["met"]
    assert report["accuracy"]["onnx"] > 0.5


@pytest.mark.slow
def test_with_batch_norm_the_accuracy_is_the_same_within_noise(folder, trained):
    where = folder(model={"name": "vgg11_bn", "width": 0.125}, data=RAW["data"] | {"image_size": 32, "limit": 900})
    for processes, out in ((1, "one"), (2, "two")):
        trained(where, out, processes)
    one, two = (json.loads((where / name / "report.json").read_text()) for name in ("one", "two"))
    assert one["params"] == two["params"]
    assert two["accuracy"]["onnx"] > 0.6
    assert abs(one["accuracy"]["onnx"] - two["accuracy"]["onnx"]) < 0.12  # 359 images, networks of a few epochs


@pytest.mark.slow
def test_a_signal_pauses_all_and_a_resumed_run_ends_as_one_without(folder, trained):
    where = folder(model="mynet:network", train=RAW["train"] | {"epochs": 25}, checkpoint_seconds=0)
    trained(where, "whole", 2)
    process = start(where, "cut")
    checkpoint = where / "cut" / "checkpoints" / "train-result.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    finish(process)
    trained(where, "cut", 2, "--resume")
    whole, cut = (load_file(where / name / "weights.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())


@pytest.mark.parametrize("count", [2, 3, 4, 9, 10])
def test_the_parts_of_a_batch_are_the_batch(count):
    teams = [Team.__new__(Team) for _ in range(2)]
    for rank, team in enumerate(teams):
        team.rank, team.size = rank, 2
    x, y = torch.arange(count), torch.arange(count) * 10
    parts = [team.part(x, y) for team in teams]
    assert sum(share for _, _, share in parts) == pytest.approx(1)
    if count >= 4:
        assert sorted(torch.cat([own for own, _, _ in parts]).tolist()) == x.tolist()
    assert all(torch.equal(labels, own * 10) for own, labels, _ in parts)
    assert all(len(own) >= 2 for own, _, _ in parts)
