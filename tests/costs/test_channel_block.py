import json

import pytest

from compressor.bench import BenchError, Conditions
from compressor.costs import channel_block as module
from compressor.costs.channel_block import block_of, channel_block

CONDITIONS = Conditions("cpu", batch=1, threads=1)
WIDTHS = [*range(33, 65), 128]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path))
    return tmp_path / "latency" / "blocks.json"


def padded(block, unaligned=1.0):
    """The time of a kernel that fills its blocks, and is slower where a width is no multiple of 4."""
    return {w: (-(-w // block) * block) ** 2 * (1.0 if w % 4 == 0 else unaligned) for w in WIDTHS}


@pytest.mark.parametrize("block", [4, 8, 16, 32])
@pytest.mark.parametrize("unaligned", [1.0, 1.3])
def test_the_block_of_a_padding_kernel_is_found(block, unaligned):
    assert block_of(padded(block, unaligned)) == block


def test_where_every_channel_counts_there_is_no_block():
    assert block_of({width: width**2 for width in WIDTHS}) == 1


def test_the_block_bears_noise():
    noise = [1 + 0.03 * (-1) ** (w * w // 3) for w in WIDTHS]
    assert block_of({w: t * n for (w, t), n in zip(padded(8).items(), noise, strict=True)}) == 8


def test_where_width_makes_no_difference_the_usual_block_is_taken():
    assert block_of({width: 5 + width / 1000 for width in WIDTHS}) == module.USUAL


def test_it_is_measured_once(cache, monkeypatch):
    block = channel_block(CONDITIONS)
    assert block in (1, 2, 4, 8, 16, 32)
    assert list(json.loads(cache.read_text()).values()) == [block]
    monkeypatch.setattr(module, "_measure", lambda conditions: pytest.fail("measured again"))
    assert channel_block(CONDITIONS) == block


def test_conditions_are_kept_beside_each_other(cache, monkeypatch):
    for threads, block in ((1, 8), (2, 16)):
        monkeypatch.setattr(module, "_measure", lambda conditions, block=block: padded(block))
        assert channel_block(Conditions("cpu", batch=1, threads=threads)) == block
    monkeypatch.setattr(module, "_measure", lambda conditions: pytest.fail("measured again"))
    assert [channel_block(Conditions("cpu", batch=1, threads=threads)) for threads in (1, 2)] == [8, 16]


@pytest.mark.parametrize("damaged", ["", "[]", "{", "null"])
def test_a_damaged_cache_is_written_anew(cache, monkeypatch, damaged):
    cache.parent.mkdir()
    cache.write_text(damaged)
    monkeypatch.setattr(module, "_measure", lambda conditions: padded(16))
    assert channel_block(CONDITIONS) == 16
    assert list(json.loads(cache.read_text()).values()) == [16]


def test_a_cache_that_cannot_be_written_does_no_harm(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COMPRESSOR_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(module, "_measure", lambda conditions: padded(4))
    assert channel_block(CONDITIONS) == 4


def test_a_provider_that_is_not_here_has_the_usual_block(cache, monkeypatch):
    def fail(conditions):
        raise BenchError("no such provider")

    monkeypatch.setattr(module, "_measure", fail)
    assert channel_block(CONDITIONS) == module.USUAL
    assert not cache.exists()
