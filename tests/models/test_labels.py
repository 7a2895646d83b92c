"""Images without classes get those of a trained network, and a run on them is judged by agreement with it."""

import json

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from compressor.cli import main
from compressor.data import TensorSplit, load_data
from compressor.data.dataset import complete
from compressor.errors import CompressorError
from compressor.exporters import export_onnx
from compressor.models.labels import AGREEMENT, labelled_by
from compressor.pipeline.runner import run
from compressor.recipe import parse_recipe
from compressor.training.tasks import task_of


class Brightness(nn.Module):
    """Three classes of images by their brightness, from -1 to 1, with layers that can be pruned."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 3)
        with torch.no_grad():
            self.body[0].weight.fill_(1 / 9)
            self.body[0].bias.zero_()
            self.head.weight.copy_(torch.tensor([[-1.0], [0.0], [1.0]]).expand(3, 8))
            self.head.bias.copy_(torch.tensor([2.0, 0.5, -2.0]))

    def forward(self, images):
        return self.head(self.body(images).mean((2, 3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixty grey images in folders that say nothing, and a file that is none."""
    place = tmp_path_factory.mktemp("photos")
    for number in range(60):
        (place / f"day{number % 3}").mkdir(exist_ok=True)
        Image.new("L", (8, 8), number * 4).save(place / f"day{number % 3}" / f"{number}.png")
    (place / "notes.txt").write_text("nothing")
    return place


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("theirs") / "theirs.onnx"
    export_onnx(Brightness().eval(), path, [torch.rand(1, 1, 8, 8), torch.rand(3, 1, 8, 8)])
    return path


def recipe(folder, file, **more):
    return {
        "model": {"onnx": str(file)},
        "data": {"name": "imagefolder", "path": str(folder), "labels": False},
        "budget": {"params": "0.6x"},
        "search": {"method": "uniform"},
        "train": {"epochs": 1, "batch_size": 16},
        "finetune": {"epochs": 8, "lr": 0.05},
        "bench": {"provider": "cpu", "batch": 1, "warmup": 0, "runs": 2, "threads": 1},
        "threads": 1,
        **more,
    }


def test_the_labels_are_what_the_network_says():
    splits = [TensorSplit(torch.randint(0, 255, (9, 1, 8, 8), dtype=torch.uint8), torch.zeros(9).long())] * 3
    data = complete("made", tuple(splits), ("unlabelled",), 0)
    network = Brightness().eval()
    labelled = labelled_by(network, data, ("a", "b", "c"))
    with torch.no_grad():
        expected = network(data.normalise(splits[0].pixels)).argmax(1)
    assert labelled.test.labels.tolist() == expected.tolist()
    assert labelled.class_names == ("a", "b", "c")
    assert task_of(labelled).metric == AGREEMENT
    assert splits[0].labels.sum() == 0  # the given data set is left as it is


def test_images_in_any_folders_are_divided(folder):
    section = parse_recipe(recipe(folder, "x.onnx")).data
    data = load_data(section, seed=0)
    assert len(data.test) == 6
    assert len(data.train) + len(data.validation) == 54
    assert any("1 file" in remark for remark in data.remarks)
    again = load_data(section, seed=0)
    assert torch.equal(again.test.samples(torch.arange(6))[0], data.test.samples(torch.arange(6))[0])


def test_the_given_network_teaches_without_being_asked(folder, file):
    assert parse_recipe(recipe(folder, file)).train.distill is not None
    assert parse_recipe(recipe(folder, file, train={"distill": None})).train.distill is None


def test_from_a_file_and_a_folder_of_images_to_a_smaller_file(folder, file, tmp_path):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe(folder, file)))
    result = CliRunner().invoke(main, ["run", str(path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["metric"]["name"] == AGREEMENT
    assert report["baseline"]["reference"]["metric"]["onnx"] == 1.0  # the original agrees with itself
    assert report["metric"]["onnx"] > 0.5
    assert report["budget"]["met"]
    assert "agreement" in (tmp_path / "out" / "report.html").read_text()


def test_with_classes_the_agreement_stands_beside_the_accuracy(file, tmp_path):
    for number in range(60):
        place = tmp_path / "sorted" / ("test" if number % 5 == 0 else "train") / str(number % 3)
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number * 4).save(place / f"{number}.png")
    raw = recipe(tmp_path / "sorted", file)
    raw["data"] = raw["data"] | {"labels": True}
    found = run(parse_recipe(raw), tmp_path / "out")
    assert found["metric"]["name"] == "accuracy"
    assert any("class that the original file gives for" in remark for remark in found["remarks"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "lenet5"}, "no trained network that comes with its classes"),
        ({"data": {"name": "digits", "labels": False}}, "data.labels: false is for an imagefolder"),
    ],
)
def test_what_cannot_be_is_refused(folder, file, tmp_path, change, said):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe(folder, file) | change))
    result = CliRunner().invoke(main, ["run", str(path), "-o", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert said in " ".join(result.output.split())


def test_too_few_images(tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    with pytest.raises(CompressorError, match="holds 1 images"):
        load_data(parse_recipe(recipe(tmp_path, "x.onnx")).data, seed=0)


def test_a_run_goes_on_behind_its_search(folder, file, tmp_path):
    wanted = parse_recipe(recipe(folder, file, baselines=[]))
    run(wanted, tmp_path / "out", until="search")
    assert run(wanted, tmp_path / "out", resume=True)["budget"]["met"]
