import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.bench import Conditions, measure_memory, memory

CPU = Conditions("cpu", 5, 1)


def save_wide(path, mebibytes):
    """x (N, 256) ──Add a constant of so many MiB──▶ y, which no fold or fusion takes away."""
    rows = mebibytes * 2**20 // (256 * 4)
    weight = numpy_helper.from_array(np.ones((rows, 1, 256), np.float32), "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 256])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "wide", [x], [y], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not report it")
def test_growth_holds_weights_and_activations(tmp_path):
    path = save_wide(tmp_path / "wide.onnx", 32)
    small, large = measure_memory(path, Conditions("cpu", 1, 1)), measure_memory(path, Conditions("cpu", 3, 1))
    assert (small.problem, small.device_bytes, small.killed) == (None, None, False)
    assert 64 * 2**20 <= small.host_bytes < 300 * 2**20  # weights and an output of their size
    assert large.host_bytes - small.host_bytes >= 50 * 2**20  # two more such outputs


def test_shapes_reach_the_process(save_linear):
    path = save_linear(shape=["N", "time", 13])
    assert "has no fixed size (time)" in measure_memory(path, CPU).problem
    assert measure_memory(path, Conditions("cpu", 5, 1, shapes={"x": ("N", 7, 13)})).problem is None


def test_bad_input_is_told_as_a_sentence(tmp_path):
    missing = measure_memory(tmp_path / "missing.onnx", CPU)
    assert missing.problem == f"{tmp_path / 'missing.onnx'} is not a file"
    assert (missing.host_bytes, missing.device_bytes, missing.killed, missing.refused) == (None, None, False, 2)


def test_a_folder_named_like_the_package_is_not_run(save_linear, tmp_path, monkeypatch):
    (tmp_path / "compressor").mkdir()
    (tmp_path / "compressor" / "__init__.py").write_text("raise RuntimeError('not mine')")
    monkeypatch.chdir(tmp_path)
    assert measure_memory(save_linear(), CPU).problem is None


def child_that(monkeypatch, code, stdout="", stderr=""):
    done = subprocess.CompletedProcess([], code, stdout, stderr)
    monkeypatch.setattr(memory, "_child", lambda asked, timeout: done)


@pytest.mark.parametrize(
    ("code", "stderr", "told", "killed"),
    [
        (-9, "", "was ended by signal 9: memory ran out, most likely", True),
        (-11, "", "was ended by signal 11", False),
        (
            1,
            "Traceback ...\n  File ...\nImportError: no numpy\n",
            "ended with exit code 1: ImportError: no numpy",
            False,
        ),
        (1, "", "ended with exit code 1: it says nothing", False),
        (0, "", "ended with exit code 0: it says nothing", False),
    ],
)
def test_a_process_without_an_answer_is_one_sentence(monkeypatch, code, stderr, told, killed):
    child_that(monkeypatch, code, "", stderr)
    found = measure_memory("m.onnx", CPU)
    assert found == memory.Memory(None, None, f"the process that measures memory {told}", killed)


@pytest.mark.parametrize("stdout", ["no JSON", "[1, 2]", '{"other": 3}', "null"])
def test_an_answer_that_is_none_is_told_too(monkeypatch, stdout):
    child_that(monkeypatch, 0, stdout)
    assert "exit code 0" in measure_memory("m.onnx", CPU).problem


def test_the_answer_is_the_last_line(monkeypatch):
    child_that(monkeypatch, 0, 'chatter\n{"host_bytes": 7}\n')
    assert measure_memory("m.onnx", CPU) == memory.Memory(7)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (subprocess.TimeoutExpired("python", 3), "the process that measures memory took more than 3 s"),
        (FileNotFoundError(2, "No such file", "python"), "No such file"),
    ],
)
def test_a_process_that_hangs_or_cannot_start_is_told(monkeypatch, error, told):
    def fail(asked, timeout):
        raise error

    monkeypatch.setattr(memory, "_child", fail)
    found = measure_memory("m.onnx", CPU, timeout=3)
    assert told in found.problem
    assert found.host_bytes is None


def test_a_record_is_json():
    written = memory.Memory(5, problem="why").to_json()
    assert written == {"host_bytes": 5, "device_bytes": None, "problem": "why", "killed": False, "refused": None}
    assert json.loads(json.dumps(written)) == written


def test_the_process_loads_neither_torch_nor_the_rest_of_compressor(save_linear, tmp_path):
    asked = {"path": str(save_linear()), "conditions": memory._plain(CPU), "runs": 1}
    code = """
import sys
from compressor.bench import memory
memory._main(sys.argv[1])
others = [name for name in sys.modules if name.startswith("compressor.") and not name.startswith("compressor.bench")]
assert "torch" not in sys.modules and not others, others
"""
    command = [sys.executable, "-c", code, json.dumps(asked)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["problem"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_set_and_peak_are_in_order():
    assert 2**20 < memory._resident_bytes() <= memory._peak_bytes()


def test_a_system_that_tells_nothing_gives_none(save_linear, monkeypatch):
    monkeypatch.setattr(memory, "_PROC", Path("/nowhere"))
    monkeypatch.setattr(memory, "_PEAK_RESET", Path("/nowhere/clear"))
    monkeypatch.setattr(memory, "_highest", lambda: None)
    assert memory._measure(str(save_linear()), memory._plain(CPU), 1) == memory.Memory(None, None)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not report it")
def test_the_highest_set_stands_in_for_status(monkeypatch):
    monkeypatch.setattr(memory, "_PROC", Path("/nowhere"))
    assert memory._resident_bytes() == memory._peak_bytes() > 2**20


@pytest.mark.parametrize(
    ("told", "used"), [("3\n", 3 * 2**20), ("3\n4\n", 7 * 2**20), ("", None), ("[N/A]\n", None), ("3\n[N/A]", None)]
)
def test_device_memory_is_what_nvidia_smi_says(monkeypatch, told, used):
    monkeypatch.setattr(memory.subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, 0, told, ""))
    assert memory._device_bytes() == used


@pytest.mark.parametrize("error", [FileNotFoundError("nvidia-smi"), subprocess.CalledProcessError(9, "nvidia-smi")])
def test_device_memory_without_nvidia_smi_is_not_known(monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(memory.subprocess, "run", fail)
    assert memory._device_bytes() is None


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_memory_of_the_gpu_is_measured(save_linear):
    found = measure_memory(save_linear(), Conditions("cuda", 5))
    assert found.problem is None
    assert found.device_bytes > 2**20  # CUDA's own context is hundreds of MiB
