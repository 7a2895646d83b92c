"""Module paths of nodes."""

from onnx import helper

from compressor.models.from_onnx.names import module_paths


def node(kind, name, *inputs):
    return helper.make_node(kind, list(inputs), [f"{name}_out"], name)


def test_scopes_and_weights_give_paths():
    nodes = [
        node("Conv", "/layer1/layer1.0/conv1/Conv", "x", "onnx::Conv_12"),
        node("Relu", "/layer1/layer1.0/relu/Relu", "a"),
        node("Add", "/layer1/layer1.0/Add", "a", "b"),
        node("Conv", "node_conv2d_3", "x", "stem.0.weight"),
        node("Gemm", "Gemm_7", "x", "onnx::Gemm_9"),
        node("Flatten", "", "x"),
    ]
    assert module_paths(nodes, {"stem.0.weight": None, "onnx::Conv_12": None}) == [
        "layer1.0.conv1",
        "layer1.0.relu",
        "layer1.0.add",
        "stem.0",
        "Gemm_7",
        "flatten",
    ]


def test_what_torchs_newer_exporter_notes():
    one = node("MatMul", "node_MatMul_7", "x", "val_3")
    told = one.metadata_props.add()
    told.key, told.value = "pkg.torch.onnx.name_scopes", "['', 'blocks', 'blocks.0', 'blocks.0.fc1', 'linear']"
    assert module_paths([one], {"val_3": None}) == ["blocks.0.fc1"]


def test_no_path_is_taken_twice_nor_the_beginning_of_another():
    names = ["/a/b/Conv", "/a/b/Relu", "/a/Add", "a.b", "a", "forward", "and", "a/b:0", "?"]
    paths = module_paths([node("Relu", name, "x") for name in names], {})
    assert len(set(paths)) == len(paths)
    assert not [1 for one in paths for other in paths if other.startswith(f"{one}.")]
    assert "forward" not in paths
    assert "and" not in paths
