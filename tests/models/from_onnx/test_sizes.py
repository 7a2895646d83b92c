"""Literal sizes that follow: batches and widths."""

import math

import pytest

from compressor.models.from_onnx.sizes import equal_parts, reshape_plan, segments
from compressor.models.from_onnx.values import Dim


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ((2, 4, 7, 7), (2, 2, 2, 7, 7), [([0], [0]), ([1], [1, 2]), ([2], [3]), ([3], [4])]),
        ((2, 58, 1, 1), (2, 58), [([0], [0]), ([1, 2, 3], [1])]),
        ((2, 14, 14, 5), (2, 2, 7, 2, 7, 5), [([0], [0]), ([1], [1, 2]), ([2], [3, 4]), ([3], [5])]),
        ((1, 6), (6,), [([0, 1], [0])]),
        ((0, 3), (0,), None),
        ((2, 3), (7,), None),
    ],
)
def test_runs_of_axes_hold_the_same_elements(before, after, expected):
    assert segments(before, after) == expected


@pytest.mark.parametrize(
    ("shape", "wanted", "other", "expected"),
    [
        ((1, 512, 1, 1), [1, 512], (3, 500, 1, 1), [3, 500]),  # a batch of one, and a width
        ((1, 116, 7, 7), [1, 2, 58, 7, 7], (4, 100, 7, 7), [4, 2, 50, 7, 7]),  # a channel shuffle
        ((1, 58, 2, 7, 7), [1, 116, 7, 7], (4, 50, 2, 7, 7), [4, 100, 7, 7]),  # and its end
        ((2, 49, 96), [98, 96], (5, 49, 90), [245, 90]),  # a batch within an axis
        ((98, 96), [2, 49, 96], (245, 90), [5, 49, 90]),
        ((2, 32, 4, 4), [0, 8, -1], (3, 40, 4, 4), [3, 8, 80]),  # group normalisation
        ((1, 9, 64), [1, 9, 4, 16], (2, 9, 32), [2, 9, 4, 8]),  # heads of an attention
    ],
)
def test_literals_follow_batch_and_widths(shape, wanted, other, expected):
    larger = (2 * shape[0], *shape[1:])
    plan = reshape_plan(shape, larger, wanted, zeros=False, batch=shape[0])
    sizes = plan.sizes(other, wanted)
    if -1 in sizes:
        sizes[sizes.index(-1)] = math.prod(other) // -math.prod(sizes)
    assert sizes == expected


def test_what_the_graph_computes_is_taken():
    wanted = [Dim(2), -1]
    plan = reshape_plan((2, 8, 3, 3), (4, 8, 3, 3), wanted, zeros=False, batch=2)
    assert plan.sizes((7, 5, 3, 3), [7, -1])[0] == 7


def test_sizes_of_shapes_stay_known_as_such():
    size = Dim(6)
    for found in (size + 1, 1 + size, size * 2, 2 * size, size // 4, 7 // size, size - 1, 7 - size, size % 4, -size):
        assert isinstance(found, Dim)
    assert (1 + size, 7 - size, 13 // size, -size) == (7, 1, 2, -6)


def test_equal_parts():
    assert equal_parts([(0, 4), (4, 8)], 8) == {(0, 4): (0, 2), (4, 8): (1, 2)}
    assert equal_parts([(0, 3), (3, 8)], 8) == {}
    assert equal_parts([(0, 4)], 8) == {}


@pytest.mark.parametrize(
    ("shape", "batch_axis", "batch", "wanted", "other", "expected"),
    [
        ((8, 1, 32), 1, 1, [8, 32], (8, 3, 32), [24, 32]),  # attention whose batch is the second axis
        ((8, 2, 32), 1, 2, [16, 32], (8, 3, 32), [24, 32]),
        ((8, 32), 0, 1, [8, 1, 32], (24, 32), [8, 3, 32]),
        ((16, 32), 0, 2, [8, 2, 32], (24, 32), [8, 3, 32]),
        ((8, 4, 8), 1, 1, [8, 32], (8, 12, 8), [24, 32]),  # (T, N * heads, d)
    ],
)
def test_a_batch_that_is_not_the_first_axis(shape, batch_axis, batch, wanted, other, expected):
    larger = tuple(2 * size if axis == batch_axis else size for axis, size in enumerate(shape))
    sizes = reshape_plan(shape, larger, wanted, zeros=False, batch=batch).sizes(other, wanted)
    if -1 in sizes:
        sizes[sizes.index(-1)] = math.prod(other) // -math.prod(sizes)
    assert sizes == expected
