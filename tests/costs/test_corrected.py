"""A cost that is read off files: what is found keeps within its limit, however rough the estimate is."""

import pytest

from compressor.costs import params_macs
from compressor.costs.budget import Budget
from compressor.costs.corrected import Corrected
from compressor.errors import BudgetError
from compressor.models import reference_architecture
from compressor.recipe import UniformConfig
from compressor.search import Problem, search
from compressor.search.calibration import calibrated


@pytest.fixture(scope="module")
def mlp():
    return reference_architecture("mlp", {}, 10, (1, 8, 8))


def rough(architecture):
    """A file of 4.5 bytes a parameter with steps of 40 bytes, and an odd term."""
    widths = list(architecture.widths.values())
    return int(4.5 * params_macs.params(architecture)) // 40 * 40 + 1000 + 37 * (sum(widths) % 7)


def solve(mlp, limit, measure):
    """Uniform scaling within a file size: the result, and the networks that were measured."""
    measured = []

    def counting(architecture):
        measured.append(architecture)
        return measure(architecture)

    size = Corrected(counting, lambda architecture: 4 * params_macs.params(architecture), 16)
    problem = Problem(mlp, Budget({"onnx_bytes": limit}), {**params_macs.COSTS, "onnx_bytes": size}, None)
    return calibrated(search, problem, UniformConfig()), measured


@pytest.mark.parametrize("limit", [5_000, 12_345, 99_999, 400_000, 2_000_000])
def test_the_result_is_within_the_limit_by_its_true_size(mlp, limit):
    found, measured = solve(mlp, limit, rough)
    assert rough(found.architecture) <= limit
    assert found.architecture in measured
    assert len(measured) == len(set(map(repr, measured))) <= 12
    assert limit - rough(found.architecture) < 2 * found.one_channel["onnx_bytes"] + 37 * 6 + 40


@pytest.mark.parametrize("limit", [0.9, 0.5, 0.2])
@pytest.mark.parametrize(
    "true",
    [
        lambda params: 8 * params,  # another slope than the estimate's
        lambda params: max(20_000, 12 * params - 30_000),  # nothing changes up to a point, and much beyond it
        lambda params: 40_000 * (1 + params // 7_000),  # in steps
    ],
    ids=["slope", "bend", "steps"],
)
def test_an_estimate_of_another_slope_leaves_no_more_unused_than_it_must(mlp, true, limit):
    """The network found is not much smaller than the largest uniform one."""

    def measure(architecture):
        return true(params_macs.params(architecture))

    allowed = int(limit * measure(mlp))
    found, measured = solve(mlp, allowed, measure)
    size = params_macs.params(found.architecture)
    assert measure(found.architecture) <= allowed
    assert len(measured) <= 20
    largest = max(params for params in range(0, params_macs.params(mlp), 100) if true(params) <= allowed)
    assert size > 0.8 * largest


def test_a_true_estimate_is_found_at_once(mlp):
    found, measured = solve(mlp, 50_000, lambda architecture: 4 * params_macs.params(architecture) + 1234)
    assert len(measured) <= 3
    assert 0 <= 50_000 - 4 * params_macs.params(found.architecture) - 1234 < found.one_channel["onnx_bytes"]


def test_a_size_that_no_network_has_is_refused(mlp):
    least = rough(mlp.with_widths(dict.fromkeys(mlp.widths, 1)))
    with pytest.raises(BudgetError, match=rf"onnx_bytes: {least - 1:,} cannot be met: .* still costs {least:,}$"):
        solve(mlp, least - 1, rough)
    assert rough(solve(mlp, least, rough)[0].architecture) == least
