"""`compressor inspect`, on files of ours and of others."""

import json

import onnx
import pytest
import torch
from click.testing import CliRunner
from small import small_recipe
from torch import nn

from compressor.cli.inspection import inspect_file, inspection_lines
from compressor.cli.root import main
from compressor.errors import ModelError
from compressor.exporters import export_onnx
from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    out = tmp_path_factory.mktemp("inspect") / "run"
    recipe = parse_recipe(small_recipe(export={"preprocess": "uint8", "softmax": True}, device=None))
    report = run(recipe, out)
    return out / "model.onnx", report


def test_a_shipped_file_tells_its_whole_story(shipped):
    path, report = shipped
    told = inspect_file(path)
    assert told["inputs"] == [{"name": "images", "dtype": "uint8", "shape": ["batch", 8, 8, 1]}]
    assert told["outputs"][0]["shape"] == ["batch", 10]
    assert told["metadata"]["classes"] == [str(digit) for digit in range(10)]
    assert told["metadata"]["budget"]["params"] == report["budget"]["limits"]["params"]
    assert told["metadata"]["accuracy"]["onnx"] == report["accuracy"]["onnx"]
    assert told["metadata"]["output"] == "probabilities"
    text = "\n".join(inspection_lines(told))
    for expected in ("uint8 NHWC, 8 x 8", "gives: probabilities", "classes: 10", "params at most", "359 test samples"):
        assert expected in text


def test_as_json(shipped):
    result = CliRunner().invoke(main, ["inspect", str(shipped[0]), "--json"])
    assert result.exit_code == 0
    assert json.loads(result.output) == json.loads(json.dumps(inspect_file(shipped[0])))


def test_a_file_of_someone_else(tmp_path):
    path = tmp_path / "theirs.onnx"
    export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), path, [torch.rand(2, 1, 2, 2)])
    told = inspect_file(path)
    assert told["weights"] == 10
    assert told["precision"] == "fp32"
    assert inspection_lines(told)[-1] == "no story: it was not made by compressor"


@pytest.mark.parametrize("content", [None, b"", b"not onnx", "cut"])
def test_what_is_no_model_is_told_in_one_sentence(shipped, tmp_path, content):
    path = tmp_path / "bad.onnx"
    if content == "cut":
        content = shipped[0].read_bytes()[:-200]
    if content is not None:
        path.write_bytes(content)
    result = CliRunner().invoke(main, ["inspect", str(path)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {path}: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "key", ["input", "output", "classes", "budget", "metric", "accuracy", "architecture", "versions"]
)
@pytest.mark.parametrize(
    "value", ["5", "[]", "{}", '"x"', '[1, {"a": 2}]', '{"onnx": "x", "size": 3}', "NaN", "no JSON"]
)
def test_a_story_that_anyone_may_have_written_is_shown_or_said_to_be_unreadable(shipped, tmp_path, key, value):
    model = onnx.load(shipped[0])
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, known | {f"compressor.{key}": value})
    onnx.save(model, tmp_path / "other.onnx")
    lines = inspection_lines(inspect_file(tmp_path / "other.onnx"))
    said = [line for line in lines if line.startswith("its story cannot be read: ")]
    assert said or any(line.startswith("gives: ") for line in lines)
    assert all(key in line for line in said)


def test_an_unknown_type_and_a_name_of_several_lines_are_shown(tmp_path):
    x = onnx.helper.make_tensor_value_info("x\n\x1b[2Jok", 999, ["batch", 4])
    node = onnx.helper.make_node("Relu", [x.name], ["y"])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 4])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", [x], [y])), tmp_path / "odd.onnx")
    lines = inspection_lines(inspect_file(tmp_path / "odd.onnx"))
    assert r"input: x\n\x1b[2Jok unknown (batch, 4)" in lines
    assert all(line.isprintable() for line in lines)


def test_a_file_larger_than_any_model_is_not_read(tmp_path):
    path = tmp_path / "sparse.onnx"
    with path.open("wb") as file:
        file.truncate(3 * 2**30)
    with pytest.raises(ModelError, match="it has 3,221,225,472 bytes, at most"):
        inspect_file(path)


def test_metadata_of_ours_that_is_damaged_is_shown_as_it_is(shipped, tmp_path):
    proto = onnx.load(shipped[0])
    onnx.helper.set_model_props(proto, {"compressor.budget": "{", "note": "x"})
    onnx.save(proto, tmp_path / "odd.onnx")
    assert inspect_file(tmp_path / "odd.onnx")["metadata"] == {"budget": "{", "note": "x"}
