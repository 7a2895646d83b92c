"""The tests that the onnx package ships for its operators: what is not refused is right."""

import runpy
from pathlib import Path

import pytest

HARNESS = runpy.run_path(str(Path(__file__).parents[3] / "experiments" / "onnx_operators.py"))
# Torch's antialiased resizing is another one, and it has no unsigned integers of 16 bits: the comparison with ONNX
# Runtime, which follows every conversion of a file, refuses them.
CAUGHT_LATER = {
    "test_bitwise_not_3d",
    "test_resize_downsample_sizes_linear_antialias",
    "test_resize_downsample_sizes_cubic_antialias",
}


@pytest.fixture(scope="module")
def outcomes():
    return {case.name: HARNESS["outcome"](case) for case in HARNESS["cases"]()}


def test_nothing_is_computed_wrongly(outcomes):
    assert {name for name, said in outcomes.items() if said.startswith("differs")} <= CAUGHT_LATER


def test_most_operators_are_known(outcomes):
    assert sum(said == "passed" for said in outcomes.values()) > 1200


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("test_loop11", "run graphs of their own"),
        ("test_quantizelinear", "the file is quantised"),
        ("test_nonzero_example", "depends on the values"),
        ("test_bernoulli", "drawn at random"),
        ("test_lstm_with_peepholes", "peepholes"),
        ("test_ai_onnx_ml_binarizer", "of the domain ai.onnx.ml"),
    ],
)
def test_what_is_refused_says_why(outcomes, name, said):
    assert outcomes[name].startswith("refused: ")
    assert said in outcomes[name]
