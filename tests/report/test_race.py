import pytest

from compressor.report.race import race_line, race_section

RECORD = {
    "trace": {
        "race": {
            "rounds": [
                {
                    "epochs": 1,
                    "scores": {"uniform": 0.31, "neuralscale": 0.42, "taylor": None},
                    "alive": ["neuralscale"],
                },
                {"epochs": 2, "scores": {"uniform": 0.5, "neuralscale": 0.6}, "alive": ["neuralscale"]},
            ],
            "chosen": "neuralscale",
            "networks": {"uniform": {"a": 1}, "neuralscale": {"a": 2}, "taylor": {"a": 3}},
            "costs": {name: {"macs": 1000.0} for name in ("uniform", "neuralscale", "taylor")},
            "refused": {"morphnet": "its <channels> are shuffled"},
        }
    }
}


def test_the_race_is_shown_round_by_round():
    page = str(race_section(RECORD))
    for text in ("neuralscale, the result", "42.00 %", "60.00 %", "diverged", "1 epoch", "2 epochs"):
        assert text in page, text
    assert "Cell(" not in page
    assert "morphnet took no part: its &lt;channels&gt; are shuffled" in page


def test_the_terminal_tells_who_won():
    assert race_line(RECORD) == (
        "neuralscale won the race of 3 candidates (2 epochs: uniform 50.00 %, neuralscale 60.00 %)"
    )


@pytest.mark.parametrize(
    ("better", "scores", "said"),
    [
        ("higher", {"a": -0.42, "b": 0.13}, "a loss 0.420, b loss -0.130"),
        ("lower", {"a": 1.23, "b": 1.5}, "a loss 1.230, b loss 1.500"),
    ],
)
def test_losses_are_not_called_by_the_metrics_name(better, scores, said):
    rounds = [{"epochs": 2, "scores": scores, "alive": ["a"]}]
    race = {"rounds": rounds, "chosen": "a", "networks": {"a": {}, "b": {}}, "costs": {"a": {}, "b": {}}}
    record = {"trace": {"race": race}, "metric": {"name": "dice", "better": better}}
    record["training"] = [{"epoch": 1, "loss": 1.0, "validation_metric": None}]
    assert said in race_line(record)
    page = str(race_section(record))
    assert "training loss, 2 epochs" in page
    assert "judged by the training loss" in page
    assert "dice" not in page


def test_a_run_without_a_race_shows_none():
    assert race_line({}) == ""
    assert str(race_section({"trace": {}})) == ""


def test_one_candidate_is_no_race():
    race = RECORD["trace"]["race"] | {"rounds": [], "networks": {"uniform": {}}, "chosen": "uniform", "refused": {}}
    assert race_line({"trace": {"race": race}}) == "uniform was the only candidate"
    assert "uniform, the result" in str(race_section({"trace": {"race": race}}))
