"""Batch-norms over the samples of two processes, which are threads here."""

import threading

import pytest
import torch
from torch import nn

from compressor.training.sync_batch_norm import synchronized


class Sums:
    """Adds up what so many threads hand in at the same time."""

    def __init__(self, count):
        self.barrier = threading.Barrier(count, timeout=60)
        self.given = {}

    def __call__(self, x):
        self.given[threading.get_ident()] = x.clone()
        self.barrier.wait()
        total = sum(self.given[name] for name in sorted(self.given))
        self.barrier.wait()
        return x.copy_(total)


def network(shape):
    torch.manual_seed(1)
    first = nn.Linear(7, 5) if len(shape) == 2 else nn.Conv2d(7, 5, 1)
    norm = nn.BatchNorm1d(5) if len(shape) == 2 else nn.BatchNorm2d(5, momentum=0.3)
    nn.init.normal_(norm.weight)
    return nn.Sequential(first, norm, nn.Tanh(), type(norm)(5, affine=False, track_running_stats=False)).double()


@pytest.mark.parametrize("shape", [(9, 7), (9, 7, 4, 3)])
@pytest.mark.parametrize("first", [4, 7])
def test_parts_of_a_batch_are_normalised_as_the_batch(shape, first):
    x = torch.randn(*shape, dtype=torch.float64)
    whole = network(shape)
    whole(x).pow(3).mean().backward()
    parts = [network(shape) for _ in range(2)]

    def work(model, own):
        (model(own).pow(3).mean() * (len(own) / len(x))).backward()

    with synchronized(Sums(2)):
        threads = [
            threading.Thread(target=work, args=arguments)
            for arguments in zip(parts, (x[:first], x[first:]), strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for name, parameter in whole.named_parameters():
        found = sum(dict(part.named_parameters())[name].grad for part in parts)
        assert torch.allclose(found, parameter.grad, rtol=1e-9, atol=1e-12), name
    for name, statistic in whole.named_buffers():
        assert all(torch.allclose(dict(part.named_buffers())[name], statistic) for part in parts), name


def test_in_evaluation_and_afterwards_batch_norms_are_as_ever():
    model, x = network((2, 7)), torch.randn(6, 7, dtype=torch.float64)
    expected = model(x)

    def refused(x):
        raise AssertionError

    with synchronized(refused):
        first = model[:3].eval()(x)
    assert torch.equal(model.train()(x), expected)
    assert torch.isfinite(first).all()


def test_half_precision_stays_half():
    norm, x = nn.BatchNorm2d(3).to(torch.bfloat16), torch.randn(4, 3, 2, 2).to(torch.bfloat16)
    with synchronized(lambda x: x):
        found = norm(x)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), nn.functional.batch_norm(x.float(), None, None, training=True), atol=0.05)
