import pytest

from compressor.pipeline.speed import speed_remark

UNSCALED = {"conv1": 16, "conv2": 32, "fc": 40}


def test_nothing_is_said_of_a_faster_result_or_of_the_network_itself():
    assert speed_remark(1.0, 2.0, {"conv1": 17, "conv2": 31, "fc": 10}, UNSCALED, 8) is None
    assert speed_remark(2.0, 2.0, UNSCALED, UNSCALED, 8) is None


@pytest.mark.parametrize(
    ("widths", "named", "unnamed"),
    [
        (
            {"conv1": 17, "conv2": 24, "fc": 8},
            ["no multiple of that: conv1 17", "larger than before: conv1 16 to 17"],
            [],
        ),
        ({"conv1": 8, "conv2": 31, "fc": 5}, ["no multiple of that: conv2 31"], ["larger", "fc"]),
        ({"conv1": 24, "conv2": 8, "fc": 8}, ["larger than before: conv1 16 to 24"], ["multiple"]),
        ({"conv1": 8, "conv2": 8, "fc": 8}, ["does not depend on the widths"], ["multiple", "larger"]),
    ],
)
def test_the_widths_that_make_a_result_slow_are_named(widths, named, unnamed):
    text = speed_remark(8.8, 8.2, widths, UNSCALED, 8)
    assert "not faster than the unscaled network: 8.8 against 8.2 ms" in text
    assert all(part in text for part in named)
    assert not any(part in text for part in unnamed)


def test_of_many_widths_a_few_are_named():
    many = {f"conv{place}": 17 for place in range(20)}
    assert "and 14 more" in speed_remark(2.0, 1.0, many, dict.fromkeys(many, 32), 8)
