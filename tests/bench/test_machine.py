import json
import os
import platform
import re
import subprocess

import onnxruntime
import pytest

from compressor.bench import machine, machine_fingerprint


def test_fingerprint_names_machine_and_software():
    facts = machine_fingerprint()
    assert facts["python"] == platform.python_version()
    assert facts["onnxruntime"] == onnxruntime.__version__
    assert facts["logical_cores"] == os.cpu_count()
    assert facts["system"].startswith(platform.system())
    assert facts["cpu"]
    assert json.loads(json.dumps(facts)) == facts


def test_core_counts_are_in_order():
    facts = machine_fingerprint()
    assert 1 <= facts["physical_cores"] <= facts["logical_cores"]
    assert 1 <= facts["usable_cores"] <= facts["logical_cores"]


def test_id_is_stable_and_short():
    first, again = machine_fingerprint(), machine_fingerprint()
    assert first == again
    assert re.fullmatch(r"[0-9a-f]{16}", first["id"])


@pytest.mark.parametrize(
    ("name", "value", "moves"),
    [
        ("_cpu", "Other CPU", True),
        ("_isa", "avx9", True),
        ("usable_cores", 977, True),
        ("_memory_gib", 3, False),
    ],
)
def test_id_moves_with_what_moves_a_latency(monkeypatch, name, value, moves):
    before = machine_fingerprint()["id"]
    monkeypatch.setattr(machine, name, lambda: value)
    assert (machine_fingerprint()["id"] != before) is moves


def test_gpus_and_driver_come_from_nvidia_smi(monkeypatch):
    told = "NVIDIA H100 80GB HBM3, 580.65.06\nNVIDIA T4, 580.65.06"
    monkeypatch.setattr(machine, "_output", lambda *command: told if command[0] == "nvidia-smi" else "")
    facts = machine_fingerprint()
    assert facts["gpu"] == "NVIDIA H100 80GB HBM3; NVIDIA T4"
    assert facts["gpu_driver"] == "580.65.06"


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("nvidia-smi"),
        subprocess.TimeoutExpired("x", 10),
        subprocess.CalledProcessError(9, "x"),
    ],
)
def test_absent_hanging_or_failing_programs_leave_none(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(machine.subprocess, "run", fail)
    facts = machine_fingerprint()
    assert (facts["gpu"], facts["gpu_driver"]) == ("none", "none")


def test_fingerprint_survives_a_system_that_tells_nothing(monkeypatch):
    monkeypatch.setattr(machine, "_text", lambda path: "")
    monkeypatch.setattr(machine, "_output", lambda *command: "")
    facts = machine_fingerprint()
    assert facts["physical_cores"] == facts["logical_cores"]
    assert facts["isa"] == ""
    assert facts["cpu"]


def test_cpu_name_carries_its_numbers(monkeypatch):
    block = "processor\t: 0\nmodel name\t: AMD EPYC\ncpu family\t: 25\nmodel\t\t: 17\nflags\t\t: fpu avx2 sse\n"
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine, "_text", lambda path: f"{block}\nprocessor\t: 1\nmodel name\t: Other\n")
    facts = machine_fingerprint()
    assert facts["cpu"] == "AMD EPYC (cpu family 25, model 17)"
    assert facts["isa"] == "avx2"


def test_arm_cpu_is_told_by_its_part_number(monkeypatch):
    block = "processor\t: 0\nFeatures\t: fp asimd asimddp sve\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n"
    monkeypatch.setattr(machine.sys, "platform", "linux")
    monkeypatch.setattr(machine, "_text", lambda path: block)
    facts = machine_fingerprint()
    assert "cpu implementer 0x41, cpu part 0xd40" in facts["cpu"]
    assert facts["isa"] == "asimd asimddp sve"
