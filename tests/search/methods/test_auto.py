import dataclasses
import json

import pytest
import torch
from pydantic import ValidationError

from compressor.costs import params_macs
from compressor.errors import BudgetError, RecipeError, TrainingError
from compressor.models import build
from compressor.recipe import parse_recipe
from compressor.search import search
from compressor.search.methods.auto import AutoConfig
from compressor.training.schedules import shortened
from compressor.training.trainer import EpochRecord, Settings

LIMITS = {"macs": 60_000}


class Judge:
    """A trainer that gives every network the score of its name in the race."""

    def __init__(self, quick, scores, better="higher"):
        self.quick, self.scores, self.better, self.races = quick, scores, better, []
        self.validation_samples = 1000

    def __getattr__(self, name):
        return getattr(self.quick, name)

    def fit(self, model, settings, *, seed, label="", observer=None, checkpoint=None):
        if not label.startswith("race: "):
            return self.quick.fit(model, settings, seed=seed, label=label, observer=observer, checkpoint=checkpoint)
        name = label.removeprefix("race: ")
        self.races.append((name, settings.epochs))
        score = self.scores[name]
        if score is None:
            raise TrainingError("training diverged")
        return [EpochRecord(settings.epochs, 1.0, 1.0, score, 0.1, 0.0, score)]


@pytest.fixture
def race(tiny, problem, quick_trainer):
    def run(scores, config=None, work=None, better="higher", epoch=100, judge=Judge, **more):
        trainer = judge(quick_trainer(), scores, better)
        final = Settings(epochs=16, batch_size=8, lr_at=lambda step, per_epoch: 0.05, momentum=0.9, weight_decay=0.0)
        trainer.epoch_size = lambda batch_size, model=None: (epoch, batch_size)
        given = dataclasses.replace(problem(tiny, LIMITS, trainer, work, final=final), **more)
        return search(given, config or AutoConfig()), trainer

    return run


def of_method(race, name):
    return race({name: 0.5}, AutoConfig(candidates=(name,)))[0].architecture


@pytest.mark.parametrize("better", ["higher", "lower"])
@pytest.mark.parametrize("best", ["uniform", "neuralscale"])
def test_the_network_that_is_best_on_validation_data_is_the_result(race, best, better):
    good, bad = (0.9, 0.1) if better == "higher" else (0.1, 0.9)
    found, trainer = race({name: good if name == best else bad for name in ("uniform", "neuralscale")}, better=better)
    assert found.architecture == of_method(race, best)
    assert params_macs.macs(found.architecture) <= 60_000
    assert found.trace["race"]["chosen"] == best
    assert trainer.races == [("uniform", 2), ("neuralscale", 2)]  # an eighth of 16 epochs
    json.dumps(found.trace)


def test_the_better_half_goes_on_for_twice_as_long(race):
    scores = {"uniform": 0.3, "neuralscale": 0.5, "random": 0.1, "morphnet": 0.4}
    found, trainer = race(scores, AutoConfig(candidates=tuple(scores)))
    first, second = found.trace["race"]["rounds"]
    assert (first["epochs"], set(first["scores"]), first["alive"]) == (2, set(scores), ["neuralscale", "morphnet"])
    assert (second["epochs"], second["alive"]) == (4, ["neuralscale"])
    assert len(trainer.races) == 6


@pytest.mark.parametrize(("share", "steps", "epochs"), [(0.25, 100, 4), (0.01, 100, 2), (0.125, 7, 8), (1.0, 100, 16)])
def test_a_race_is_long_enough_to_tell_and_no_longer_than_the_training(race, share, steps, epochs):
    scores = {"uniform": 0.3, "neuralscale": 0.5}
    _, trainer = race(scores, AutoConfig(share=share), epoch=steps)
    assert {of for _, of in trainer.races} == {epochs}


def test_who_is_not_clearly_behind_stays_in_and_the_whole_training_decides(race):
    class Late(Judge):
        """The other network is the better one in the end."""

        def fit(self, model, settings, **more):
            self.scores = {"uniform": 0.52, "neuralscale": 0.6 if settings.epochs == 16 else 0.5}
            return super().fit(model, settings, **more)

    found, trainer = race({}, judge=Late)
    first, second = found.trace["race"]["rounds"]
    assert (first["epochs"], first["alive"]) == (2, ["uniform", "neuralscale"])
    assert (second["epochs"], second["alive"]) == (16, ["neuralscale"])
    assert found.trace["race"]["chosen"] == "neuralscale"
    assert len(trainer.races) == 4


def test_one_candidate_needs_no_race(race):
    found, trainer = race({}, AutoConfig(candidates=("uniform",)))
    assert not trainer.races
    assert found.trace["race"]["rounds"] == []


def test_fresh_weights_race_fresh(race, tiny):
    """The final training will not begin with what `taylor` cut either."""
    given = {name: tensor.clone() for name, tensor in build(tiny, 3).state_dict().items()}
    seen = []

    class Watching(Judge):
        def fit(self, model, settings, **more):
            if more["label"].startswith("race: "):
                seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
            return super().fit(model, settings, **more)

    found, _ = race(
        {"uniform": 0.1, "taylor": 0.3},
        AutoConfig(candidates=("uniform", "taylor"), weights="fresh"),
        given=given,
        judge=Watching,
    )
    fresh = build(found.architecture, 0).state_dict()
    assert all(torch.equal(seen[1][name], tensor) for name, tensor in fresh.items())


def test_networks_that_are_not_fine_tuned_race_as_they_are(race, tiny):
    given = {name: tensor.clone() for name, tensor in build(tiny, 3).state_dict().items()}
    none = Settings(epochs=0, batch_size=8, lr_at=lambda step, per_epoch: 0.05, momentum=0.9, weight_decay=0.0)
    found, trainer = race({"uniform": 0.3, "neuralscale": 0.1, "taylor": 0.2}, given=given, finetuning=lambda own: none)
    assert found.trace["race"]["chosen"] == "uniform"
    assert {epochs for _, epochs in trainer.races} == {1}


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_loses(race, score, tmp_path):
    found, _ = race({"uniform": score, "neuralscale": 0.1}, work=tmp_path)
    assert found.trace["race"]["chosen"] == "neuralscale"
    with pytest.raises(TrainingError, match="no validation metric in the race"):
        race({"uniform": score, "neuralscale": score})


def test_kept_weights_race_as_long_as_they_are_fine_tuned(race, tiny):
    given = {name: tensor.clone() for name, tensor in build(tiny).state_dict().items()}
    tuned = Settings(epochs=4, batch_size=8, lr_at=lambda step, per_epoch: 0.01, momentum=0.9, weight_decay=0.0)
    scores = {"uniform": 0.2, "neuralscale": 0.9, "taylor": 0.1}
    found, trainer = race(scores, given=given, finetuning=lambda said: tuned)
    assert [one["epochs"] for one in found.trace["race"]["rounds"]] == [2, 4]
    assert max(epochs for _, epochs in trainer.races) == 4
    assert len(set(trainer.races)) == len(trainer.races)  # none is the same training again


class Silent(Judge):
    """Of functions that tell neither losses nor validation metrics."""

    def fit(self, model, settings, *, seed, label="", observer=None, checkpoint=None):
        history = super().fit(model, settings, seed=seed, label=label, observer=observer, checkpoint=checkpoint)
        return [dataclasses.replace(one, loss=None, validation_metric=None) for one in history]


def test_where_nothing_tells_candidates_apart_the_first_training_ends_it(race):
    with pytest.raises(
        RecipeError, match=r"nothing tells the candidates apart: evaluate\.function has no argument split"
    ):
        race({"uniform": 0.1, "neuralscale": 0.2}, judge=Silent)


def test_what_diverges_loses(race):
    found, _ = race({"uniform": 0.1, "neuralscale": None})
    assert found.trace["race"]["chosen"] == "uniform"
    assert found.trace["race"]["rounds"][0]["scores"] == {"uniform": 0.1, "neuralscale": None}
    with pytest.raises(TrainingError, match="diverged"):
        race({"uniform": None, "neuralscale": None})


def test_a_race_that_was_interrupted_trains_nothing_twice(race, tmp_path):
    scores = {"uniform": 0.3, "neuralscale": 0.5}
    first, _ = race(scores, work=tmp_path)
    again, trainer = race({}, work=tmp_path)
    assert again.architecture == first.architecture
    assert again.trace["race"] == first.trace["race"]
    assert not trainer.races
    assert trainer.steps == 0


def test_a_trained_network_brings_methods_that_keep_weights(race, tiny):
    given = {name: tensor.clone() for name, tensor in build(tiny, 3).state_dict().items()}
    found, _ = race({"uniform": 0.1, "neuralscale": 0.2, "taylor": 0.3}, given=given)
    assert found.trace["race"]["chosen"] == "taylor"
    assert found.weights is not None


def test_an_impossible_budget_is_told(tiny, problem):
    with pytest.raises(BudgetError, match="cannot be met"):
        search(problem(tiny, {"params": 10}), AutoConfig())


def test_a_short_training_has_the_whole_schedule():
    asked = []

    def lr_at(step, per_epoch):
        asked.append(step)
        return 0.1

    whole = Settings(epochs=12, batch_size=8, lr_at=lr_at, momentum=0.9, weight_decay=0.0)
    short = shortened(whole, 3)
    for step in range(3 * 10):
        short.lr_at(step, 10)
    assert short.epochs == 3
    assert asked == list(range(0, 120, 4))
    assert shortened(whole, 12) is whole


@pytest.mark.parametrize("name", ["auto", "tissuenet", "nothing"])
def test_what_cannot_race_is_refused_with_the_recipe(name):
    with pytest.raises(ValidationError, match="is not one of"):
        AutoConfig(candidates=(name,))
    raw = {"model": "mlp", "data": "digits", "budget": {"params": "0.5x"}}
    assert parse_recipe(raw | {"search": {"method": "auto"}}).search.candidates == ()


def test_who_was_trained_in_full_by_its_search_meets_the_best_of_the_others_trained_as_long(race, tmp_path):
    """What `growing` hands over is a result; nothing of it is trained again."""
    for grown, winner in ((0.9, "growing"), (0.1, "neuralscale")):
        found, _ = race(
            {"uniform": 0.2, "neuralscale": 0.5},
            AutoConfig(candidates=("uniform", "neuralscale", "growing")),
            tmp_path / winner,
            judge=lambda quick, scores, better, grown=grown: Growing(quick, scores, better, grown),
        )
        first, last = found.trace["race"]["rounds"]
        assert (first["epochs"], set(first["scores"])) == (2, {"uniform", "neuralscale"})
        assert (last["epochs"], set(last["scores"]), last["alive"]) == (16, {"growing", "neuralscale"}, [winner])
        assert found.trace["race"]["chosen"] == winner
        assert found.weights is not None
        assert params_macs.macs(found.architecture) <= 60_000
        assert found.finished == (winner != "growing")  # that one may be fine-tuned
        build(found.architecture, 0).load_state_dict(dict(found.weights))
        json.dumps(found.trace)


class Growing(Judge):
    """A trainer by whom what grows has one score, and the others have that of their name."""

    def __init__(self, quick, scores, better, grown):
        super().__init__(quick, scores, better)
        self.grown = grown

    def fit(self, model, settings, *, seed, label="", observer=None, checkpoint=None):
        history = super().fit(model, settings, seed=seed, label=label, observer=observer, checkpoint=checkpoint)
        if label == "growing":
            history = [dataclasses.replace(record, validation_metric=self.grown) for record in history]
        return history


def test_weights_that_the_race_trained_in_full_are_the_result(race, tmp_path):
    found, _ = race({"uniform": 0.52, "neuralscale": 0.5}, work=tmp_path)
    assert found.trace["race"]["rounds"][-1]["epochs"] == 16
    assert found.finished
    assert len(found.history) == 1
    assert found.finetuning is None


def test_a_teacher_that_takes_part_in_the_end_trains_again(race, tmp_path):
    found, _ = race({"uniform": 0.52, "neuralscale": 0.5}, work=tmp_path, alone=False)
    assert found.trace["race"]["rounds"][-1]["epochs"] == 16
    assert not found.finished
    assert found.weights is None


def test_what_grew_stays_though_all_others_diverge(race, tmp_path):
    found, _ = race(
        {"uniform": None, "neuralscale": None},
        AutoConfig(candidates=("uniform", "neuralscale", "growing")),
        tmp_path,
        judge=lambda quick, scores, better: Growing(quick, scores, better, 0.3),
    )
    assert found.trace["race"]["chosen"] == "growing"
    assert found.weights is not None


class Saving(Judge):
    """A trainer that leaves a checkpoint of what raced."""

    def fit(self, model, settings, *, seed, label="", observer=None, checkpoint=None):
        if label.startswith("race: ") and checkpoint is not None:
            checkpoint.write_text(label)
        return super().fit(model, settings, seed=seed, label=label, observer=observer, checkpoint=checkpoint)


def test_of_all_trainings_in_the_race_the_checkpoint_of_the_result_stays(race, tmp_path):
    """The search may be repeated before its outcome is written."""
    found, trainer = race({"uniform": 0.52, "neuralscale": 0.5}, work=tmp_path, judge=Saving)
    assert found.trace["race"]["rounds"][-1]["epochs"] == 16
    (left,) = (tmp_path / "auto").glob("auto-*.safetensors")
    assert left.read_text() == "race: uniform"
    assert len(trainer.races) == 5  # the last of them only reads the checkpoint, if there is one


def test_weights_that_a_candidate_cut_are_fine_tuned_as_it_says_though_they_raced(race, tmp_path):
    """`l1` trains a network and cuts it: what fine-tunes that is no training from fresh weights."""
    found, _ = race(
        {"uniform": 0.1, "l1": 0.3}, AutoConfig(candidates=("l1", "uniform"), share=1.0), work=tmp_path, judge=Saving
    )
    assert found.trace["race"]["chosen"] == "l1"
    assert found.trace["race"]["rounds"][-1]["epochs"] == 16
    assert (found.finished, found.trained) == (False, False)
    assert found.finetuning is not None
    assert not list((tmp_path / "auto").glob("auto-*.safetensors"))
