import inspect

import pytest

from compressor.bench import BenchError, measure_latencies
from compressor.bench.protocol import PROTOCOLS, protocol


def test_the_paper_measures_a_hundred_at_a_time():
    paper = protocol("paper")
    assert (paper.batches, paper.warmup, paper.runs, paper.threads) == ((100,), 20, 80, None)


def test_the_python_api_defaults_to_the_paper():
    defaults = {name: value.default for name, value in inspect.signature(measure_latencies).parameters.items()}
    paper = protocol("paper")
    assert [defaults[name] for name in ("batch", "warmup", "runs", "threads")] == [*paper.batches, 20, 80, None]


def test_serving_is_one_thread_and_small_batches_too():
    assert (protocol("serving").batches, protocol("serving").threads) == ((1, 8, 100), 1)


def test_an_unknown_name_names_the_known_ones():
    with pytest.raises(BenchError, match="preset 'papper' is not one of paper, serving") as caught:
        protocol("papper")
    assert caught.value.exit_code == 2


def test_every_protocol_says_what_it_is_for():
    assert all(one.about and one.batches for one in PROTOCOLS.values())
