"""Experiment trackers: told of every epoch and of the result; what fails there costs no run."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from small import small_recipe

from compressor.cli import root as cli
from compressor.errors import RecipeError, UnavailableError
from compressor.integrations import trackers
from compressor.integrations.trackers import TRACKERS, Trackers
from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe
from compressor.training.trainer import EpochRecord

RECIPE = small_recipe(train={"epochs": 2, "batch_size": 64}, baselines=["reference"])
EPOCH = EpochRecord(1, 0.5, None, None, 0.1, 2.0)


class Noted:
    """An adapter that notes what it is told."""

    def __init__(self, out, name, parameters):
        self.name, self.parameters, self.told, self.kept, self.closed = name, parameters, [], [], []
        made.append(self)

    def metrics(self, values, step):
        self.told.append((dict(values), step))

    def files(self, paths):
        self.kept += [path.name for path in paths]

    def close(self, finished):
        self.closed.append(finished)


class Failing(Noted):
    def metrics(self, values, step):
        raise OSError("no route to host")


made: list[Noted] = []


@pytest.fixture
def adapters(monkeypatch):
    """Two adapters under the names of trackers that are installed everywhere."""
    made.clear()
    monkeypatch.setattr(trackers, "TRACKERS", {"json": f"{__name__}:Noted", "csv": f"{__name__}:Failing"})
    monkeypatch.setattr(trackers, "import_module", lambda name: __import__("sys").modules[__name__])


@pytest.mark.usefixtures("adapters")
def test_a_metric_that_is_not_the_accuracy_is_told_by_its_name(tmp_path):
    tracker = Trackers(["json"], parse_recipe(RECIPE), tmp_path, print)
    judged = {"accuracy": {"onnx": 0.9, "torch": None}, "metric": {"name": "mIoU", "onnx": 0.5, "torch": 0.6}}
    tracker.end({"params": 1, **judged, "baseline": {"uniform": judged}}, tmp_path)
    ((result, _),) = made[0].told
    assert (result["result/mIoU.onnx"], result["result/mIoU.torch"], result["uniform/mIoU.onnx"]) == (0.5, 0.6, 0.5)


@pytest.mark.usefixtures("adapters", "quick_export", "no_figures")
def test_every_epoch_and_the_result_are_told(tmp_path):
    said = []
    recipe = parse_recipe(RECIPE)
    tracker = Trackers(["json", "csv", "json"], recipe, tmp_path / "out", said.append)
    report = run(recipe, tmp_path / "out", tracker=tracker)
    tracker.close()
    noted, failing = made
    epochs = [(values, step) for values, step in noted.told if step is not None]
    assert [step for _, step in epochs] == [1, 2, 1, 2]
    assert {key.rpartition("/")[2] for values, _ in epochs for key in values} >= {"loss", "lr", "seconds"}
    (result,) = [values for values, step in noted.told if step is None]
    assert result["result/params"] == report["params"]
    assert result["result/accuracy.onnx"] == report["accuracy"]["onnx"]
    assert result["reference/params"] == report["baseline"]["reference"]["params"]
    assert set(noted.kept) == {"model.onnx", "report.html", "report.json", "recipe.yaml"}
    assert noted.closed == [True]
    assert noted.parameters["train.epochs"] == 2
    assert len(said) == 1
    assert said[0] == "csv: nothing more is logged there: OSError: no route to host"
    assert not failing.closed


@pytest.mark.usefixtures("adapters")
def test_a_run_that_is_not_finished_is_closed_so(tmp_path):
    tracker = Trackers(["json"], parse_recipe(RECIPE), tmp_path, print)
    tracker.close()  # before anything was told
    assert not made
    tracker = Trackers(["json"], parse_recipe(RECIPE), tmp_path, print)
    tracker.epoch("training result", EPOCH)
    tracker.close()
    assert made[0].told == [
        ({"training result/loss": 0.5, "training result/lr": 0.1, "training result/seconds": 2.0}, 1)
    ]
    assert made[0].closed == [False]


def test_other_names_and_missing_packages_are_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(RecipeError, match=r"--log: 'tensorbord' is not one of .*did you mean tensorboard"):
        Trackers(["tensorbord"], parse_recipe(RECIPE), tmp_path, print)
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    for name in TRACKERS:
        with pytest.raises(UnavailableError, match=rf"--log {name} needs {name}, .*onnx-compressor\[{name}\]"):
            Trackers([name], parse_recipe(RECIPE), tmp_path, print)


@pytest.fixture
def logged(tmp_path, monkeypatch):
    """Run the small recipe with a tracker from the command line: its output and folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))

    def work(name):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")
        done = CliRunner().invoke(cli.main, ["run", "recipe.yaml", "-o", "out", "--log", name])
        assert done.exit_code == 0, done.output
        assert "nothing more is logged" not in done.output
        return Path("out"), json.loads(Path("out/report.json").read_text())

    return work


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("quick_export", "no_figures")
def test_tensorboard_reads_what_was_logged(logged):
    out, report = logged("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(out / "tensorboard"))
    events.Reload()
    losses = [event.step for event in events.Scalars("training result/loss")]
    assert losses == [1, 2]
    assert events.Scalars("result/params")[0].value == report["params"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("quick_export", "no_figures")
def test_mlflow_has_the_run(logged, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # later versions want it to be asked for
    _, report = logged("mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("compressor")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.metrics["result/params"] == report["params"]
    assert found.data.params["train.epochs"] == "2"
    assert len(client.get_metric_history(found.info.run_id, "training result/loss")) == 2
    assert {file.path for file in client.list_artifacts(found.info.run_id)} >= {"model.onnx", "report.html"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("quick_export", "no_figures")
def test_wandb_offline_keeps_the_run_here(logged, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    out, _ = logged("wandb")
    assert list(out.glob("wandb/offline-run-*/*.wandb"))
    assert json.loads((out / "wandb.json").read_text())["run_id"]
