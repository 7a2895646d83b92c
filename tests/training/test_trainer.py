import math

import pytest
import torch
from torch import nn

from compressor.errors import TrainingError, UnavailableError
from compressor.training.checkpoint import Snapshot, load_snapshot
from compressor.training.schedules import schedule
from compressor.training.trainer import Settings, Trainer, pick_device


def network():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 13, 3, padding=1),
        nn.BatchNorm2d(13),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(13 * 16, 10),
    )


def settings(epochs=3, **changes):
    values = {"epochs": epochs, "batch_size": 32, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
    return Settings(**values | {"lr_at": schedule("onecycle", 0.2, epochs or 3)} | changes)


@pytest.fixture
def trainer(digits):
    return Trainer(digits(), torch.device("cpu"), augment=("crop",), checkpoint_seconds=0)


class KilledError(Exception):
    """Stands for the end of a process."""


class Watcher:
    """An observer that counts steps and may kill or stop training."""

    def __init__(self, kill_at=None, stop_at=None):
        self.steps, self.kill_at, self.stop_at = 0, kill_at, stop_at

    def start(self, model, optimizer, steps_per_epoch):
        self.model = model

    def after_backward(self):
        assert all(parameter.grad is not None for parameter in self.model.parameters())

    def after_step(self):
        self.steps += 1
        if self.steps == self.kill_at:
            raise KilledError
        return self.steps == self.stop_at

    def state(self):
        return Snapshot({"seen": torch.tensor([self.steps])}, {"steps": self.steps})

    def restore(self, snapshot):
        self.steps = snapshot.values["steps"]
        assert int(snapshot.tensors["seen"]) == self.steps


def test_training_learns_and_records_every_epoch(trainer):
    model = trainer.prepare(network())
    history = trainer.fit(model, settings(8), seed=1)
    assert [record.epoch for record in history] == list(range(1, 9))
    assert history[-1].loss < 0.6 * history[0].loss
    measured = trainer.evaluate(model, trainer.data.test)
    assert measured.accuracy > 0.5
    assert measured.samples == len(trainer.data.test)
    assert history[-1].validation_accuracy == trainer.evaluate(model, trainer.data.validation).accuracy


@pytest.mark.parametrize("kill_at", [3, 7, 8, 20])
@pytest.mark.parametrize("channels_last", [False, True])
def test_killed_and_resumed_training_gives_the_weights_of_an_uninterrupted_one(
    digits, tmp_path, kill_at, channels_last
):
    trainer = Trainer(
        digits(), torch.device("cpu"), augment=("crop",), channels_last=channels_last, checkpoint_seconds=0
    )
    whole = trainer.prepare(network())
    expected = trainer.fit(whole, settings(), seed=5, observer=Watcher())
    path = tmp_path / "train.safetensors"
    with pytest.raises(KilledError):
        trainer.fit(trainer.prepare(network()), settings(), seed=5, observer=Watcher(kill_at), checkpoint=path)
    resumed = trainer.prepare(network())
    watcher = Watcher()
    history = trainer.fit(resumed, settings(), seed=5, observer=watcher, checkpoint=path)
    assert watcher.steps == 3 * 7  # 224 training images in batches of 32
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    assert [record.loss for record in history] == pytest.approx([record.loss for record in expected], rel=1e-12)
    assert [record.validation_accuracy for record in history] == [r.validation_accuracy for r in expected]


WAYS = {
    "adamw": {"optimizer": "adamw", "lr_at": lambda step, per_epoch: 0.003},
    "average": {"average": 0.9},
    "best of averages": {"average": 0.5, "keep": "best"},
    "parts": {"accumulate": 3},
    "clipped": {"clip": 0.5},
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_train_learns_and_resumes_to_the_same_weights(digits, tmp_path, way):
    trainer = Trainer(digits(), torch.device("cpu"), checkpoint_seconds=0)
    whole, path = trainer.prepare(network()), tmp_path / "train.safetensors"
    expected = trainer.fit(whole, settings(4, **WAYS[way]), seed=5)
    assert trainer.evaluate(whole, trainer.data.test).accuracy > 0.25
    with pytest.raises(KilledError):
        trainer.fit(network(), settings(4, **WAYS[way]), seed=5, observer=Watcher(10), checkpoint=path)
    resumed = trainer.prepare(network())
    history = trainer.fit(resumed, settings(4, **WAYS[way]), seed=5, observer=Watcher(), checkpoint=path)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())
    assert [record.validation_accuracy for record in history] == [r.validation_accuracy for r in expected]
    plain = trainer.prepare(network())
    trainer.fit(plain, settings(4), seed=5)
    assert not all(torch.equal(value, plain.state_dict()[name]) for name, value in whole.state_dict().items())


def test_what_is_evaluated_and_kept_is_the_average_of_the_weights(trainer):
    def mean_of(model, count, decay):
        weights, average = [], None

        class Seen(Watcher):
            def after_step(self):
                weights.append(model[0].weight.detach().clone())
                return False

        trainer.fit(model, settings(1, average=decay), seed=5, observer=Seen())
        for weight in weights:
            average = weight if average is None else decay * average + (1 - decay) * weight
        assert len(weights) == count
        return average

    model = trainer.prepare(network())
    torch.testing.assert_close(mean_of(model, 7, 0.8), model[0].weight.detach())


def test_a_batch_in_parts_has_the_gradients_of_the_batch(digits):
    """Where nothing in the network looks at the batch as a whole."""
    trainer = Trainer(digits(), torch.device("cpu"))
    found = []
    for parts in (1, 3, 100):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))
        model(torch.zeros(2, *trainer.data.input_shape))
        trainer.fit(model, settings(1, accumulate=parts), seed=5)
        found.append(model[1].weight.detach())
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[2], found[0], rtol=1e-4, atol=1e-6)


def test_gradients_are_not_longer_than_the_clip(trainer):
    lengths = []

    class Seen(Watcher):
        def after_backward(self):
            lengths.append(float(torch.cat([p.grad.flatten() for p in self.model.parameters()]).norm()))

    trainer.fit(trainer.prepare(network()), settings(1, clip=0.01), seed=5, observer=Seen())
    assert max(lengths) <= 0.01 * 1.0001
    assert len(lengths) == 7


def test_finished_training_is_not_repeated(trainer, tmp_path):
    path = tmp_path / "train.safetensors"
    first = trainer.prepare(network())
    trainer.fit(first, settings(), seed=5, checkpoint=path)
    watcher = Watcher()
    again = trainer.prepare(network())
    load = load_snapshot(path)
    load.values["observer"] = {"steps": 0}
    history = trainer.fit(again, settings(), seed=5, checkpoint=path)
    assert len(history) == 3
    assert watcher.steps == 0
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in again.state_dict().items())


def test_an_observer_can_stop_training_and_it_stays_stopped(trainer, tmp_path):
    path = tmp_path / "train.safetensors"
    watcher = Watcher(stop_at=10)
    trainer.fit(trainer.prepare(network()), settings(None), seed=5, observer=watcher, checkpoint=path)
    assert watcher.steps == 10
    again = Watcher()
    trainer.fit(trainer.prepare(network()), settings(None), seed=5, observer=again, checkpoint=path)
    assert again.steps == 10


def test_the_best_weights_are_those_of_the_best_validation_epoch(trainer):
    model = trainer.prepare(network())
    # a learning rate that ruins the network towards the end
    history = trainer.fit(
        model,
        settings(6, keep="best", lr_at=lambda step, per_epoch: 0.1 if step < 4 * per_epoch else 30.0),
        seed=1,
    )
    best = max(record.validation_accuracy for record in history)
    assert trainer.evaluate(model, trainer.data.validation).accuracy == best
    assert best > history[-1].validation_accuracy


def test_a_loss_that_is_no_number_stops_with_step_and_learning_rate(trainer):
    told = r"train: the loss is nan at step \d+ \(epoch \d+\) with learning rate 1e\+0?9"
    with pytest.raises(TrainingError, match=told):
        trainer.fit(trainer.prepare(network()), settings(40, lr_at=lambda step, per_epoch: 1e9), seed=1)


class TwoHeads(nn.Module):
    """Logits, and in training those of an auxiliary head behind them."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.main, self.aux, self.unused = nn.Linear(16, 10), nn.Linear(16, 10), None

    def forward(self, x):
        x = self.body(x)
        return (self.main(x), self.unused, self.aux(x)) if self.training else self.main(x)


def test_an_auxiliary_head_counts_three_tenths(trainer):
    model = TwoHeads()
    nn.init.zeros_(model.aux.weight)
    nn.init.zeros_(model.aux.bias)
    before = model.aux.weight.clone()
    plain = nn.Sequential(model.body, nn.Linear(16, 10))
    plain[1].load_state_dict(model.main.state_dict())
    still = settings(1, lr_at=lambda step, per_epoch: 0.0, evaluate=False)
    (both,) = trainer.fit(model, still, seed=0)
    (alone,) = trainer.fit(plain, still, seed=0)
    assert both.loss == pytest.approx(alone.loss + 0.3 * math.log(10), rel=1e-5)  # an untrained head knows nothing
    trainer.fit(model, settings(1), seed=0)
    assert not torch.equal(model.aux.weight, before)
    assert trainer.evaluate(model, trainer.data.test).samples == len(trainer.data.test)


def test_the_seed_decides(trainer):
    def weights(seed):
        model = trainer.prepare(network())
        trainer.fit(model, settings(1), seed=seed)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_the_paper_schedule_steps_at_a_third_two_thirds_and_five_sixths():
    rate = schedule("paper", 0.1, 300)
    per_epoch = 10
    expected = {0: 0.1, 99: 0.1, 100: 0.01, 199: 0.01, 200: 0.001, 249: 0.001, 250: 1e-4, 299: 1e-4}
    assert {epoch: rate(epoch * per_epoch, per_epoch) for epoch in expected} == pytest.approx(expected)


def test_onecycle_rises_once_and_falls_to_zero():
    rates = [schedule("onecycle", 0.4, 10)(step, 7) for step in range(70)]
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert max(rates) == pytest.approx(0.4, rel=0.01)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert all(math.isfinite(rate) for rate in rates)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_without_a_gpu_is_told():
    with pytest.raises(UnavailableError, match="cuda was asked for") as caught:
        pick_device("cuda")
    assert caught.value.exit_code == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_training_runs_in_bf16_on_a_gpu(digits):
    device = torch.device("cuda")
    data = digits()
    from types import SimpleNamespace

    from compressor.data import load_data

    config = SimpleNamespace(
        name="digits", path=None, download=False, image_size=8, channels=None, validation=0.125, limit=256, memory_gib=1
    )
    trainer = Trainer(load_data(config, seed=0, device=device), device, bf16=True, channels_last=True)
    model = trainer.prepare(network())
    history = trainer.fit(model, settings(8), seed=1)
    assert next(model.parameters()).is_cuda
    assert next(model.parameters()).dtype == torch.float32
    assert history[-1].loss < 0.6 * history[0].loss
    assert len(data.test) == len(trainer.data.test)
