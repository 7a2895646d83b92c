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


def test_a_run_without_a_race_shows_none():
    assert race_line({}) == ""
    assert str(race_section({"trace": {}})) == ""


def test_one_candidate_is_no_race():
    race = RECORD["trace"]["race"] | {"rounds": [], "networks": {"uniform": {}}, "chosen": "uniform", "refused": {}}
    assert race_line({"trace": {"race": race}}) == "uniform was the only candidate"
    assert "uniform, the result" in str(race_section({"trace": {"race": race}}))
