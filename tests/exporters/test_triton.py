"""Model repositories of Triton: files, versions, and a configuration that says what the file takes."""

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from small import small_recipe

from compressor.bench import open_session
from compressor.cli.root import main
from compressor.errors import ExportError
from compressor.exporters.triton import write_triton
from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe

HOW = {"provider": "cpu", "threads": None, "batch": 16, "classes": ("cat", "large dog")}


def made(path, shape=("N", 3, 8, 8), out=("N", 2), kind=TensorProto.FLOAT, name="images"):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], ["logits"])],
        "g",
        [value(name, kind, shape)],
        [value("logits", kind, out)],
    )
    onnx.save_model(helper.make_model(graph), path)
    return path


def text(repository, name="net"):
    return (repository / name / "config.pbtxt").read_text()


def test_a_file_and_what_it_takes(tmp_path):
    source, repository = made(tmp_path / "a.onnx", kind=TensorProto.UINT8), tmp_path / "repository"
    target = write_triton(source, repository, "net", **HOW | {"threads": 2})
    assert target == repository / "net" / "1" / "model.onnx"
    assert target.read_bytes() == source.read_bytes()
    config = text(repository)
    for line in ('name: "net"', "max_batch_size: 16", "data_type: TYPE_UINT8", "dims: [ 3, 8, 8 ]", "dims: [ 2 ]"):
        assert line in config
    for line in ("kind: KIND_CPU", "dynamic_batching {", 'label_filename: "labels.txt"', 'string_value: "2"'):
        assert line in config
    assert (repository / "net" / "labels.txt").read_text() == "cat\nlarge dog\n"


def test_a_fixed_batch_is_one_of_the_axes(tmp_path):
    write_triton(made(tmp_path / "a.onnx", (4, 3, 8, 8), (4, 2)), tmp_path, "net", **HOW)
    config = text(tmp_path)
    assert "max_batch_size: 0" in config
    assert "dims: [ 4, 3, 8, 8 ]" in config
    assert "dynamic_batching" not in config


def test_any_size_and_a_value_without_axes(tmp_path):
    write_triton(made(tmp_path / "a.onnx", ("N", "height", "width", 3), ("N",)), tmp_path, "net", **HOW)
    config = text(tmp_path)
    assert "dims: [ -1, -1, 3 ]" in config
    assert "dims: [ 1 ]\n  reshape {\n    shape: [ ]\n  }" in config
    assert not (tmp_path / "net" / "labels.txt").exists()


@pytest.mark.parametrize(("provider", "found"), [
    ("cuda", "kind: KIND_GPU"),
    ("tensorrt", 'gpu_execution_accelerator {\n      name: "tensorrt"'),
    ("openvino", 'cpu_execution_accelerator {\n      name: "openvino"'),
])  # fmt: skip
def test_where_it_runs(tmp_path, provider, found):
    write_triton(made(tmp_path / "a.onnx"), tmp_path, "net", **HOW | {"provider": provider})
    assert found in text(tmp_path)


def test_versions_follow_each_other_and_share_what_they_take(tmp_path):
    source = made(tmp_path / "a.onnx")
    found = [write_triton(source, tmp_path, "net", **HOW).parent.name for _ in range(3)]
    assert found == ["1", "2", "3"]
    other = made(tmp_path / "b.onnx", ("N", 3, 9, 9))
    with pytest.raises(ExportError, match=r"config\.pbtxt: is the configuration of another model") as caught:
        write_triton(other, tmp_path, "net", **HOW)
    assert "\n" not in str(caught.value)
    assert sorted(one.name for one in (tmp_path / "net").iterdir() if one.is_dir()) == ["1", "2", "3"]


def test_triton_itself_reads_what_is_written(tmp_path):
    """By its own protobuf classes, where tritonclient is installed."""
    config = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    from google.protobuf import text_format

    write_triton(made(tmp_path / "a.onnx", name='odd "name"\\'), tmp_path, "net", **HOW | {"provider": "tensorrt"})
    parsed = text_format.Parse(text(tmp_path), config.ModelConfig())
    assert parsed.input[0].name == 'odd "name"\\'


def test_the_command_takes_a_run_or_a_file(tmp_path):
    run(parse_recipe(small_recipe()), tmp_path / "mine", until="train")
    runner, repository = CliRunner(), tmp_path / "models"
    result = runner.invoke(main, ["export", str(tmp_path / "mine"), "--triton", str(repository)])
    assert result.exit_code == 0, result.output
    assert (repository / "mine" / "1" / "model.onnx").exists()
    assert "max_batch_size: 2" in text(repository, "mine")  # as it is measured
    assert len((repository / "mine" / "labels.txt").read_text().split()) == 10
    again = runner.invoke(main, ["export", str(tmp_path / "mine" / "model.onnx"), "--triton", str(repository)])
    assert again.exit_code == 0, again.output
    assert (repository / "model" / "1" / "model.onnx").exists()


def test_weights_in_other_files_come_along(tmp_path):
    weight = numpy_helper.from_array(np.ones((3, 2), np.float32), "w")
    value = helper.make_tensor_value_info
    ends = value("x", TensorProto.FLOAT, ["N", 3]), value("y", TensorProto.FLOAT, ["N", 2])
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [ends[0]], [ends[1]], [weight])
    proto = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 20)])
    how = {"save_as_external_data": True, "location": "w.data", "size_threshold": 0}
    onnx.save_model(proto, tmp_path / "a.onnx", **how)
    target = write_triton(tmp_path / "a.onnx", tmp_path / "models", "net", **HOW)
    session, _ = open_session(target, provider="cpu")
    assert (session.run(None, {"x": np.ones((1, 3), np.float32)})[0] == 3).all()


def test_runs_whose_names_have_dots_are_different_models(tmp_path):
    run(parse_recipe(small_recipe()), tmp_path / "exp-0.5", until="export")
    CliRunner().invoke(main, ["export", str(tmp_path / "exp-0.5"), "--triton", str(tmp_path / "models")])
    assert [one.name for one in (tmp_path / "models").iterdir()] == ["exp-0.5"]


@pytest.mark.parametrize(("source", "repository", "said"), [
    ("absent.onnx", "models", "absent.onnx"),
    ("no.onnx", "models", "no.onnx"),
    ("fine.onnx", "no.onnx", "is a file; name a folder"),
])  # fmt: skip
def test_what_cannot_be_is_refused_in_a_sentence(tmp_path, source, repository, said):
    (tmp_path / "no.onnx").write_text("no model")
    made(tmp_path / "fine.onnx")
    result = CliRunner().invoke(main, ["export", str(tmp_path / source), "--triton", str(tmp_path / repository)])
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output
