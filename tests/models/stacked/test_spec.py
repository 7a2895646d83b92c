"""Units share out channels without loss, and draws depend on their seed alone."""

import pytest

from compressor.errors import ModelError
from compressor.models.stacked.spec import BasicUnit, Kind, Stack, drawn, grouped, most_units, spread

KINDS = (BasicUnit(2, 2, 2), BasicUnit(2, 4, 2), BasicUnit(2, 6, 2))


@pytest.mark.parametrize(("inputs", "hidden", "outputs", "count"), [(8, 16, 8, 4), (8, 19, 16, 4), (6, 3, 9, 3)])
def test_spread_units_use_every_channel(inputs, hidden, outputs, count):
    stack = Stack("second", spread(inputs, hidden, outputs, count))
    assert (stack.inputs, stack.hidden, stack.outputs, stack.count) == (inputs, hidden, outputs, count)
    nodes = [unit.hidden for _, unit in stack.kinds]
    assert max(nodes) - min(nodes) <= 1


@pytest.mark.parametrize(("inputs", "hidden", "outputs", "count"), [(9, 16, 8, 4), (8, 16, 9, 4), (8, 3, 8, 4)])
def test_channels_that_cannot_be_shared_out_are_refused(inputs, hidden, outputs, count):
    with pytest.raises(ModelError, match="cannot share"):
        spread(inputs, hidden, outputs, count)


def test_equal_units_have_the_parameters_of_equation_5():
    stack = Stack("second", (Kind(7, BasicUnit(2, 4, 3)),))
    first, second = stack.products
    assert (first, second) == (7 * 2 * 4, 7 * 4 * 3)
    # Dense layers with the same nodes have u times as many for each unit (equation 6).
    assert stack.inputs * stack.hidden + stack.hidden * stack.outputs == 7 * (first + second)


@pytest.mark.parametrize(
    ("inputs", "outputs", "nodes", "units"),
    [(64, 64, 2, 32), (64, 256, 2, 32), (7, 7, 2, 1), (12, 18, 3, 3), (24, 24, 16, 2), (8, 12, 16, 2)],
)
def test_there_are_as_many_units_as_share_both_sides_evenly(inputs, outputs, nodes, units):
    assert most_units(inputs, outputs, nodes) == units
    assert inputs % units == outputs % units == 0


def test_a_draw_is_the_same_for_a_seed_and_another_for_another():
    one, same, other = (drawn(KINDS, 40, seed) for seed in ("1 a", "1 a", "2 a"))
    assert one == same != other
    assert sum(kind.many for kind in one) == 20
    assert len({kind.unit for kind in one}) == len(one) > 1


def test_units_are_grouped_by_kind():
    assert grouped([KINDS[0], KINDS[1], KINDS[0]]) == (Kind(2, KINDS[0]), Kind(1, KINDS[1]))


def test_a_stack_survives_json_and_refuses_other_forms():
    stack = Stack("conv2", (Kind(3, KINDS[0]), Kind(1, KINDS[2])))
    assert Stack.from_json(stack.to_json()) == stack
    for bad in (
        [],
        {"second": "a"},
        {"second": "a", "units": [[1, 2, 3]]},
        {"second": "a", "units": [[0, 2, 3, 4]]},
        {"second": "a", "units": []},
        {"second": 3, "units": [[1, 2, 3, 4]]},
        {"second": "a", "units": [[True, 2, 3, 4]]},
    ):
        with pytest.raises(ModelError):
            Stack.from_json(bad)
