"""Training by two processes under torchrun, on the CPU."""

import json
import os
import re
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
FAILING = """
import os
from torch import nn

class Failing(nn.Linear):
    def forward(self, x):
        if self.training and x.shape[0] > 4 and os.environ.get("RANK") == "1":
            raise ValueError("the second process is out of luck")
        return super().forward(x)

def network(num_classes=10):
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), Failing(288, 32), nn.ReLU(), nn.Linear(32, 10))
"""
BAD_DATA = (
    NETWORK
    + """
import os
import torch

class Samples(torch.utils.data.Dataset):
    classes = [str(number) for number in range(10)]

    def __len__(self):
        return 200

    def __getitem__(self, place):
        if place == 77 and os.environ.get("RANK") == "1":
            raise OSError("the disk of the second process")
        return torch.randn(1, 8, 8), place % 10

def data():
    return Samples(), Samples()
"""
)
OWN_FORWARD = (
    NETWORK
    + """
class Doubled(nn.AvgPool2d):
    def __init__(self, size):
        super().__init__(size)
        self.forward = lambda x: 2 * nn.AvgPool2d.forward(self, x)
nn.AvgPool2d = Doubled
"""
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
    def work(where, out, processes, *more, codes=(0,)):
        """Run the recipe in so many processes, told what torchrun tells them; what each of them printed.

        One whose exit code is not among `codes` fails the test; process 0 must have the first of them.
        """
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
        ended = [process.wait() for process in started]
        assert ended[0] == codes[0], [log.read_text() for log in logs]
        assert {*ended} <= {*codes}, [log.read_text() for log in logs]
        return [log.read_text() for log in logs]

    return work


@pytest.fixture
def folder(tmp_path):
    def write(network=NETWORK, **sections):
        (tmp_path / "mynet.py").write_text(network)
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "search",
    [
        {"method": "growing", "settle": 0.5, "steps_per_round": 3},
        {"method": "neuralscale", "iterations": 1, "pretrain_epochs": 2, "prune_every": 4, "prune_channels": 4},
    ],
    ids=["growing", "neuralscale"],
)
def test_what_two_processes_search_together_one_finds_alone(folder, trained, search):
    """Networks change their shape meanwhile; no batch-norm, so that gradients are the same but for rounding."""
    where = folder(model="mynet:network", search=search)
    for processes, out in ((1, "one"), (2, "two")):
        trained(where, out, processes)
    one, two = (json.loads((where / name / "architecture.json").read_text())["widths"] for name in ("one", "two"))
    assert one == two
    assert json.loads((where / "two" / "report.json").read_text())["budget"]["met"]


@pytest.mark.slow
def test_a_process_killed_ends_the_run_with_one_sentence_and_it_goes_on_to_the_same_weights(folder, trained):
    growing = {"method": "growing", "settle": 0.5, "steps_per_round": 3}
    settings = {"checkpoint_seconds": 0, "search": growing, "train": RAW["train"] | {"epochs": 12}}
    where = folder(model={"name": "vgg11_bn", "width": 0.125}, data=RAW["data"] | {"image_size": 32}, **settings)
    trained(where, "whole", 2)
    process = start(where, "cut")
    deadline = time.monotonic() + 120
    while not [*where.glob("cut/checkpoints/search/growing*")] and time.monotonic() < deadline:
        time.sleep(0.05)
    second = [pid for pid in children(process.pid) if b"RANK=1" in environment(pid)]
    assert len(second) == 1
    os.kill(second[0], signal.SIGKILL)
    code, _, told = finish(process)
    assert code != 0
    assert len(re.findall("^error: torchrun: another process of this run has ended.*--resume", told, re.MULTILINE)) == 1
    trained(where, "cut", 2, "--resume")
    whole, cut = (load_file(where / name / "weights.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(tensor, cut[name]) for name, tensor in whole.items())


def children(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def environment(pid):
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


@pytest.mark.slow
def test_what_fails_in_another_process_process_0_tells(folder, trained):
    where = folder(FAILING, model="mynet:network", search={"method": "uniform"})
    told = trained(where, "two", 2, codes=(3, 0))
    assert "error: process 1 of torchrun: ValueError: the second process is out of luck" in told[0]


@pytest.mark.slow
def test_the_last_words_of_a_process_that_ends_are_told(folder, trained):
    """With batch-norms of all samples it cannot go on, since the others wait within their forward passes."""
    settings = RAW["train"] | {"sync_batch_norm": True}
    where = folder(FAILING, model="mynet:network", search={"method": "uniform"}, train=settings)
    told = trained(where, "two", 2, codes=(3, 70))
    assert "error: process 1 of torchrun: ValueError: the second process is out of luck" in told[0]


@pytest.mark.slow
def test_data_that_another_process_cannot_read_end_the_run(folder, trained):
    where = folder(BAD_DATA, model="mynet:network", data="mynet:data", search={"method": "uniform"})
    told = trained(where, "two", 2, codes=(2, 3, 0))
    assert "the disk of the second process" in told[0]


@pytest.mark.slow
def test_a_teacher_whose_maps_are_looked_at_teaches_in_all_processes(folder, trained):
    distill = {"teacher": "reference", "layers": ["0"]}
    where = folder(model="mynet:network", train=RAW["train"] | {"distill": distill}, baselines=["reference"])
    for processes, out in ((1, "one"), (2, "two")):
        trained(where, out, processes)
    one, two = (load_file(where / name / "weights.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(tensor, two[name], rtol=1e-2, atol=1e-4) for name, tensor in one.items())


@pytest.mark.slow
def test_a_wrong_recipe_is_told_once(folder, trained):
    where = folder(model="mynet:network", search={"method": "unifrm"})
    told = trained(where, "two", 2, codes=(2,))
    assert ["error:" in text for text in told] == [True, False]


@pytest.mark.slow
def test_a_network_that_cannot_be_sent_one_process_trains(folder, trained):
    where = folder(OWN_FORWARD, model="mynet:network", search={"method": "uniform"})
    trained(where, "one", 1)
    told = trained(where, "two", 2)
    assert "in one process, since" in told[0]
    one, two = (load_file(where / name / "weights.safetensors") for name in ("one", "two"))
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


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
