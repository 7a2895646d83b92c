import pytest
import torch

from compressor.errors import RunError
from compressor.training.checkpoint import Snapshot, load_snapshot, named, save_snapshot


def test_a_snapshot_reads_back_bit_for_bit(tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    weight = torch.randn(13, 23, 3)
    tensors = {"turned": weight.transpose(0, 1), "half": weight.bfloat16(), "step": torch.tensor(7), "none": weight[:0]}
    values = {"epoch": 3, "history": [{"loss": 0.1, "name": "größe"}], "best": None}
    save_snapshot(path, Snapshot(tensors, values))
    found = load_snapshot(path)
    assert found is not None
    assert found.values == values
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype
        assert torch.equal(found.tensors[name], tensor)
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_parameters_are_saved_as_plain_values(tmp_path):
    weight = torch.nn.Parameter(torch.randn(3, 5).to(memory_format=torch.contiguous_format))
    save_snapshot(tmp_path / "a", Snapshot({"w": weight}, {}))
    found = load_snapshot(tmp_path / "a")
    assert found is not None
    assert not found.tensors["w"].requires_grad
    assert torch.equal(found.tensors["w"], weight)


def test_parts_do_not_mix():
    tensors = named("model", {"a": torch.ones(1)}) | named("model2", {"a": torch.zeros(1), "model/b": torch.ones(2)})
    snapshot = Snapshot(tensors, {})
    assert set(snapshot.part("model")) == {"a"}
    assert snapshot.part("model")["a"] == 1
    assert set(snapshot.part("model2")) == {"a", "model/b"}
    assert snapshot.part("mod") == {}


def test_no_file_is_no_snapshot(tmp_path):
    assert load_snapshot(tmp_path / "none") is None


def test_a_damaged_file_says_what_to_do(tmp_path):
    path = tmp_path / "a"
    save_snapshot(path, Snapshot({"w": torch.ones(100)}, {}))
    whole = path.read_bytes()
    for content in (b"", b"no tensors", whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"damaged checkpoint .*; delete it to begin this stage anew"):
            load_snapshot(path)
