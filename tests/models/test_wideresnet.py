"""WRN-28-10 held to its published size, its groups and shortcuts to what the family says."""

import pytest
import torch

from compressor.costs import params_macs
from compressor.errors import ModelError
from compressor.models import build, build_meta, graph_of, prunable, reference_architecture

PRIMES = [n for n in range(5, 400) if all(n % d for d in range(2, n))]
SHORTCUTS = ("identity", "conv", "convcut")


def of_primes(**options):
    reference = reference_architecture("wrn28_10", options, 11, (3, 8, 8))
    return reference.with_widths(dict(zip(reference.widths, PRIMES, strict=False)))


def wrn(classes, blocks, stages, stem=16):
    """Convolutions without bias; two batch-norms a block, a 1×1 convolution in the first of a stage, one at the end."""
    total, entering = 27 * stem, stem
    for width in stages:
        for block in range(blocks):
            total += 2 * entering + 9 * entering * width + 2 * width + 9 * width * width
            total += entering * width if block == 0 else 0
            entering = width
    return total + 2 * entering + entering * classes + classes


@pytest.mark.parametrize("shortcut", ["identity", "conv"])
def test_it_has_the_papers_size(shortcut):
    found = params_macs.params(reference_architecture("wrn28_10", {"shortcut": shortcut}, 10, (3, 32, 32)))
    assert found == wrn(10, 4, (160, 320, 640)) == 36_479_194
    assert f"{found / 1e6:.1f}" == "36.5"


@pytest.mark.parametrize("shortcut", ["identity", "convcut"])
def test_the_trace_finds_the_groups_that_the_family_names(shortcut):
    architecture = of_primes(shortcut=shortcut)
    assert graph_of(architecture).widths == dict(architecture.widths)
    assert len(architecture.widths) == {"identity": 1 + 12 + 3, "convcut": 1 + 24}[shortcut]
    model = build_meta(architecture)
    assert all(model.get_submodule(group).out_channels == width for group, width in architecture.widths.items())


@pytest.mark.parametrize(("shortcut", "found"), [("identity", 3), ("conv", 12), ("convcut", 12)])
def test_shortcuts(shortcut, found):
    assert (
        sum(getattr(m, "shortcut", None) is not None for m in build_meta(of_primes(shortcut=shortcut)).modules())
        == found
    )


def test_equal_widths_tie_no_stages():
    reference = reference_architecture("wrn28_10", {}, 10, (3, 8, 8))
    even = reference.with_widths(dict.fromkeys(reference.widths, 7))
    assert graph_of(even).widths == dict(even.widths)


def test_it_is_pruned_with_convolutions_in_all_shortcuts():
    conv = reference_architecture("wrn28_10", {"shortcut": "conv"}, 10, (3, 32, 32), 0.1)
    assert prunable(conv).options["shortcut"] == "convcut"
    assert graph_of(prunable(conv)).widths == dict(conv.widths)


def test_dropout_acts_in_training_alone():
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for share in (0.0, 0.3):
        model = build(of_primes(dropout=share)).train()
        first, again = model(images), model(images)
        assert first.shape == (4, 11)
        assert torch.equal(first, again) == (share == 0)
        model.eval()
        assert torch.equal(model(images), model(images))
    with pytest.raises(ModelError, match=r"model.options.dropout: 1.0 is not a share from 0 to below 1"):
        of_primes(dropout=1.0)


def test_gradients_reach_every_parameter():
    model = build(of_primes()).train()
    model(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
