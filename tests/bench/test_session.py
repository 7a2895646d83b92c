import gc
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from compressor.bench import BenchError, ProviderError, open_session, session
from compressor.bench.machine import physical_cores, usable_cores
from compressor.bench.providers import PROVIDERS, providers
from compressor.bench.session import intra_op_threads, reason, timed_session


def cuda_works(path):
    try:
        open_session(path, provider="cuda")
    except ProviderError:
        return False
    return True


def test_cpu_session_computes_the_model(save_linear):
    opened, provider = open_session(save_linear(), provider="cpu")
    (y,) = opened.run(None, {"x": np.full((2, 13), 0.5, np.float32)})
    assert provider == "cpu"
    assert opened.get_providers() == ["CPUExecutionProvider"]
    np.testing.assert_allclose(y, np.full((2, 7), 13 * 0.5))


def test_auto_takes_cuda_only_where_it_works(save_linear):
    path = save_linear()
    opened, provider = open_session(path)
    assert provider == ("cuda" if cuda_works(path) else "cpu")
    assert opened.get_providers()[0] == f"{provider.upper()}ExecutionProvider"


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_gpu_provider_without_gpu_is_an_error_and_quiet(save_linear, capfd, provider):
    path = save_linear()
    if cuda_works(path):
        pytest.skip("a CUDA session works here")
    with pytest.raises(ProviderError) as caught:
        open_session(path, provider=provider)
    assert caught.value.exit_code == 3
    message = str(caught.value)
    assert repr(provider) in message
    assert "ONNX Runtime" in message
    assert "\n" not in message
    assert capfd.readouterr() == ("", "")


def test_unknown_provider_names_the_valid_ones(save_linear):
    with pytest.raises(BenchError, match="'gpu' is not one of auto, cpu, cuda, tensorrt, openvino, coreml") as caught:
        open_session(save_linear(), provider="gpu")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("provider", PROVIDERS)
def test_missing_file_and_folder_are_bad_input(tmp_path, provider):
    for path in (tmp_path / "absent.onnx", tmp_path):
        with pytest.raises(BenchError, match="is not a file") as caught:
            open_session(path, provider=provider)
        assert str(path) in str(caught.value)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", [b"", b"not a protobuf"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_file_that_is_no_model_is_bad_input_on_every_provider(tmp_path, provider, content):
    path = tmp_path / "fake.onnx"
    path.write_bytes(content)
    with pytest.raises(BenchError, match=r"fake\.onnx is not a model") as caught:
        open_session(path, provider=provider)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("threads", [0, -1])
def test_thread_count_below_one_is_refused(save_linear, threads):
    with pytest.raises(BenchError, match=f"threads={threads} must be 1 or more"):
        open_session(save_linear(), threads=threads)


def test_given_threads_are_set_and_reported(save_linear):
    opened, _ = open_session(save_linear(), provider="cpu", threads=3)
    assert opened.get_session_options().intra_op_num_threads == 3
    assert opened.get_session_options().inter_op_num_threads == 1
    assert intra_op_threads(opened) == 3


def test_default_threads_are_reported_as_a_count(save_linear):
    opened, _ = open_session(save_linear(), provider="cpu")
    assert intra_op_threads(opened) == min(physical_cores(), usable_cores()) >= 1


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize("threads", [None, 1, 2])
def test_reported_threads_are_those_that_exist(save_linear, threads):
    path = save_linear()
    gc.collect()  # a session left over from another test must not end in between
    before = len(list(Path("/proc/self/task").iterdir()))
    opened, _ = open_session(path, provider="cpu", threads=threads)
    made = len(list(Path("/proc/self/task").iterdir())) - before
    assert made == intra_op_threads(opened) - 1  # the calling thread is the one more


def test_nodes_are_counted_by_provider(save_linear):
    opened = timed_session(save_linear(), provider="cpu")
    if not hasattr(opened.session, "get_provider_graph_assignment_info"):
        pytest.skip("this ONNX Runtime cannot tell")
    assert opened.nodes == {"cpu": 2}
    assert opened.cpu_ops == {}  # they are where they should be
    assert opened.create_ms > 0


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_session_that_fell_back_is_an_error_even_where_nodes_are_not_told(save_linear, monkeypatch, provider):
    fake = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    built = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: built)
    monkeypatch.setattr(session, "_create", lambda *arguments: (fake, 1.0))
    with pytest.raises(ProviderError, match=f"'{provider}' was asked for .* fell back to CPUExecutionProvider"):
        open_session(save_linear(), provider=provider)


@pytest.mark.parametrize("on_cuda", [0, 3])
def test_cuda_session_with_every_node_on_the_cpu_is_an_error(save_linear, monkeypatch, on_cuda):
    def part(name, nodes):
        return SimpleNamespace(
            ep_name=f"{name}ExecutionProvider", get_nodes=lambda: [SimpleNamespace(op_type="Shape")] * nodes
        )

    parts = [part("CPU", 2), part("CUDA", on_cuda)] if on_cuda else [part("CPU", 2)]
    fake = SimpleNamespace(
        get_providers=lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"],
        get_provider_graph_assignment_info=lambda: parts,
    )
    monkeypatch.setattr(session.ort, "get_available_providers", fake.get_providers)
    monkeypatch.setattr(session, "_create", lambda *arguments: (fake, 1.0))
    if on_cuda:
        opened = timed_session(save_linear(), provider="cuda")
        assert (opened.nodes, opened.cpu_ops) == ({"cpu": 2, "cuda": 3}, {"Shape": 2})
    else:
        with pytest.raises(ProviderError, match="placed all 2 nodes of the model on the CPU"):
            open_session(save_linear(), provider="cuda")


def test_tensorrt_session_that_leaves_every_node_to_cuda_is_an_error(save_linear, monkeypatch):
    fake = SimpleNamespace(
        get_providers=lambda: ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
        get_provider_graph_assignment_info=lambda: [
            SimpleNamespace(ep_name="CUDAExecutionProvider", get_nodes=lambda: [SimpleNamespace(op_type="MatMul")] * 4)
        ],
    )
    monkeypatch.setattr(session.ort, "get_available_providers", fake.get_providers)
    monkeypatch.setattr(session, "_create", lambda *arguments: (fake, 1.0))
    with pytest.raises(ProviderError, match=r"'tensorrt' was asked for .* placed all 4 nodes of the model on cuda"):
        open_session(save_linear(), provider="tensorrt")


@pytest.fixture
def gpu_chains(monkeypatch):
    """Stand in for a GPU build: note the providers of every session, and fail those that ask for a GPU."""
    asked = []
    real = session.ort.InferenceSession

    def create(file, options, providers, **others):
        asked.append(providers)
        if providers[0][0] != "CPUExecutionProvider":
            raise RuntimeError(
                "[ONNXRuntimeError] : 1 : FAIL : This session cannot use the graph capture feature as requested by "
                "the user as all compute graph nodes have not been partitioned to the CUDAExecutionProvider"
            )
        return real(file, options, providers=providers, **others)

    built = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: built)
    monkeypatch.setattr(session.ort, "InferenceSession", create)
    monkeypatch.setattr(session, "_preload", lambda: None)
    return asked


@pytest.mark.parametrize(
    ("provider", "chain"),
    [
        ("cuda", [("CUDAExecutionProvider", {"enable_cuda_graph": "1"}), ("CPUExecutionProvider", {})]),
        ("auto", [("CUDAExecutionProvider", {"enable_cuda_graph": "1"}), ("CPUExecutionProvider", {})]),
        (
            "tensorrt",
            [
                ("TensorrtExecutionProvider", {"trt_cuda_graph_enable": "True"}),
                ("CUDAExecutionProvider", {"enable_cuda_graph": "1"}),
                ("CPUExecutionProvider", {}),
            ],
        ),
    ],
)
def test_cuda_graph_is_asked_of_the_gpu_and_its_failure_told(save_linear, gpu_chains, provider, chain):
    path = save_linear()
    with pytest.raises(ProviderError, match="cannot be replayed as a CUDA graph") as caught:
        timed_session(path, provider=provider, cuda_graph=True)
    # The session after the first tells whether the model itself is bad; none is measured in its place.
    first, graph = chain[0]
    own = {} if provider == "auto" else providers()[provider].options(path, None)
    chain = [(first, {**graph, **own}), *chain[1:]]
    assert gpu_chains == [chain, [("CPUExecutionProvider", {})]]
    assert caught.value.exit_code == 3
    assert str(path) in str(caught.value)
    assert "have not been partitioned to the CUDAExecutionProvider" in str(caught.value)


def test_without_cuda_graph_providers_get_no_options(save_linear, gpu_chains):
    assert timed_session(save_linear(), provider="auto").provider == "cpu"
    assert gpu_chains[0] == [("CUDAExecutionProvider", {}), ("CPUExecutionProvider", {})]


def test_cuda_graph_on_the_cpu_is_bad_input(save_linear):
    with pytest.raises(BenchError, match="cuda_graph needs provider cuda or tensorrt, not 'cpu'") as caught:
        timed_session(save_linear(), provider="cpu", cuda_graph=True)
    assert caught.value.exit_code == 2


def test_profile_is_written_where_it_was_asked_for(save_linear, tmp_path):
    opened = timed_session(save_linear(), provider="cpu", profile=str(tmp_path / "mine"))
    written = Path(opened.session.end_profiling())
    assert written.parent == tmp_path
    assert written.name.startswith("mine")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_preloading_takes_the_libraries_of_the_installed_wheels():
    wheels = [path for path in sys.path if (Path(path) / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9").is_file()]
    if not wheels or not session.ort.cuda_version:
        pytest.skip("no cuDNN wheel, or an ONNX Runtime without CUDA")
    session._preload()
    assert f"{wheels[0]}/nvidia/cudnn/lib/libcudnn.so.9" in Path("/proc/self/maps").read_text()


def test_provider_that_the_build_lacks_names_those_it_has(save_linear, monkeypatch):
    monkeypatch.setattr(session.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match=r"'cuda' is not in this build .* has CPUExecutionProvider"):
        open_session(save_linear(), provider="cuda")
    assert open_session(save_linear(), provider="auto")[1] == "cpu"


def test_spinning_is_stopped_on_request(save_linear):
    def setting(stop):
        options = open_session(save_linear(), provider="cpu", stop_spinning=stop)[0].get_session_options()
        try:
            return options.get_session_config_entry("session.force_spinning_stop")
        except Exception:  # ONNX Runtime's way to say that the entry is not set
            return None

    assert setting(True) == "1"
    assert setting(False) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load failed.\nmore", "INVALID_PROTOBUF : Load failed"),
        ("/src/a/state.cc:729 void f(A&, const B&) Please install it.", "Please install it"),
        ("plain", "plain"),
        ("", "RuntimeError"),
    ],
)
def test_reason_is_one_clean_line(text, told):
    assert reason(RuntimeError(text)) == told


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_cuda_session_runs_its_nodes_on_cuda(save_linear):
    opened = timed_session(save_linear(), provider="cuda")
    assert opened.provider == "cuda"
    assert opened.session.get_providers()[0] == "CUDAExecutionProvider"
    assert set(opened.nodes) <= {"cuda"}
    (y,) = opened.session.run(None, {"x": np.full((2, 13), 0.5, np.float32)})
    np.testing.assert_allclose(y, np.full((2, 7), 13 * 0.5), rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_cuda_session_can_capture_a_graph(save_linear):
    opened = timed_session(save_linear(), provider="auto", cuda_graph=True)
    assert opened.provider == "cuda"
    assert opened.session.get_provider_options()["CUDAExecutionProvider"]["enable_cuda_graph"] == "1"


def test_default_threads_are_no_more_than_the_cores_that_may_be_used(save_linear, monkeypatch):
    monkeypatch.setattr(session, "usable_cores", lambda: 1)
    monkeypatch.setattr(session, "physical_cores", lambda: 4)
    opened, _ = open_session(save_linear(), provider="cpu")
    assert intra_op_threads(opened) == 1
    monkeypatch.setattr(session, "usable_cores", lambda: 8)
    opened, _ = open_session(save_linear(), provider="cpu")
    assert opened.get_session_options().intra_op_num_threads == 0  # ONNX Runtime's own choice
