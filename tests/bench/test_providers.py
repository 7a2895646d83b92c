"""Providers by name, and the options that they get for a file."""

from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.bench import session
from compressor.bench.providers import PROVIDERS, providers
from compressor.cli.options import PROVIDER_HELP
from compressor.recipe.values import Provider


def saved(path, value, **how):
    weight = numpy_helper.from_array(np.full((8, 8), value, np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    onnx.save_model(model, path, **how)
    return path


def test_recipes_may_name_all_of_them():
    assert get_args(Provider) == PROVIDERS == ("auto", *providers())
    assert f"{', '.join(PROVIDERS)}." in PROVIDER_HELP


def test_each_has_a_name_of_its_own_and_falls_back_to_the_cpu_last():
    chains = [one.chain for one in providers().values()]
    assert len({chain[0] for chain in chains}) == len(chains)
    assert all(chain[-1] == "CPUExecutionProvider" for chain in chains)


def test_an_engine_is_only_taken_for_the_weights_it_has(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "cache"))
    options = providers()["tensorrt"].options
    one, two, same = (saved(tmp_path / f"{name}.onnx", value) for name, value in (("a", 1), ("b", 2), ("c", 1)))
    folders = [options(path, None)["trt_engine_cache_path"] for path in (one, two, same)]
    assert folders[0] == folders[2] != folders[1]
    assert all(folder.startswith(str(tmp_path / "cache")) and Path(folder).is_dir() for folder in folders)
    apart = saved(tmp_path / "apart.onnx", 1, save_as_external_data=True, size_threshold=0)
    assert "trt_engine_cache_enable" not in options(apart, None)  # its weights may change, and the file would not
    monkeypatch.setenv("COMPRESSOR_CACHE", str(one))  # no folder
    assert options(two, None) == {}


def test_options_are_those_of_the_provider_that_was_asked_for(tmp_path):
    path = saved(tmp_path / "a.onnx", 1)
    known = providers()
    assert session._chain(known["openvino"], path, 3, False)[0] == (
        "OpenVINOExecutionProvider",
        {"num_of_threads": "3"},
    )
    assert session._chain(known["openvino"], path, None, False)[0][1] == {}
    names = [name for name, _ in session._chain(known["tensorrt"], path, None, True)]
    assert names == list(known["tensorrt"].chain)
    own = dict(session._chain(known["tensorrt"], path, None, True))
    assert own["TensorrtExecutionProvider"]["trt_cuda_graph_enable"] == "True"
    assert own["CUDAExecutionProvider"] == {"enable_cuda_graph": "1"}
    assert own["CPUExecutionProvider"] == {}


@pytest.mark.parametrize("name", ["openvino", "coreml"])
def test_one_that_is_not_in_this_build_says_what_to_install(tmp_path, name):
    import onnxruntime

    if providers()[name].chain[0] in onnxruntime.get_available_providers():
        pytest.skip(f"this build of ONNX Runtime has {name}")
    with pytest.raises(session.ProviderError, match=rf"provider '{name}' is not in this build .*; install onnxruntime"):
        session.open_session(saved(tmp_path / "a.onnx", 1), provider=name)


@pytest.mark.parametrize("name", [name for name, one in providers().items() if not one.cuda_graph])
def test_only_some_replay_a_graph(tmp_path, name):
    with pytest.raises(session.BenchError, match="cuda_graph needs provider cuda or tensorrt, not"):
        session.timed_session(saved(tmp_path / "a.onnx", 1), provider=name, cuda_graph=True)


def test_openvino_computes_the_same(tmp_path):
    """Where onnxruntime-openvino is installed."""
    import onnxruntime

    if "OpenVINOExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has no OpenVINO")
    path = saved(tmp_path / "a.onnx", 0.5)
    found, provider = session.open_session(path, provider="openvino", threads=1)
    assert provider == "openvino"
    assert np.allclose(found.run(None, {"x": np.ones((1, 8), np.float32)})[0], 4.0)
