"""Segmentation networks give logits of every pixel, at any widths, and are told from classifiers."""

import pytest
import torch
from torch import nn
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

from compressor.costs import params_macs
from compressor.errors import ModelError
from compressor.models import build, build_meta, check_task, graph_of, reference_architecture
from compressor.models.deeplab import deeplabv3_small, segmenter_of

SMALL = "compressor.models.deeplab:deeplabv3_small"
PRIMES = [n for n in range(5, 400) if all(n % d for d in range(2, n))]


def images(count, side, other=None):
    return torch.randn(count, 3, side, other or side, generator=torch.Generator().manual_seed(0))


def small(**options):
    return reference_architecture(SMALL, options, 7, (3, 24, 24))


def test_the_small_network_at_odd_widths():
    reference = small()
    odd = reference.with_widths(dict(zip(reference.widths, PRIMES, strict=False)))
    model = build(odd)
    shapes = {path: parameter.shape for path, parameter in model.named_parameters()}
    for group, width in odd.widths.items():
        assert shapes[f"{group}.weight"][0] == width
    assert model.backbone.blocks[2].conv2.dilation == (2, 2)
    branches = [odd.widths[group] for group in odd.widths if ".convs." in group]
    assert len(branches) == 5, "each branch of the pyramid has a width of its own"
    assert model.classifier[0].project[0].in_channels == sum(branches)
    assert graph_of(odd).widths == dict(odd.widths)
    assert params_macs.params(odd) == params_macs.count_params(model)
    for height, width in ((24, 24), (17, 30)):
        assert model.eval()(images(2, height, width)).shape == (2, 7, height, width)


def test_the_small_network_learns_where_the_light_is():
    model = build(small()).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    shown = images(8, 24)
    shown[:, :, :, 12:] += 3
    targets = torch.zeros(8, 24, 24, dtype=torch.int64)
    targets[:, :, 12:] = 6
    for _ in range(25):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(shown), targets)
        loss.backward()
        optimizer.step()
    assert (model(shown).argmax(1) == targets).float().mean() > 0.9


def test_other_channels():
    assert deeplabv3_small(5, channels=1)(torch.zeros(2, 1, 16, 16)).shape == (2, 5, 16, 16)


def test_torchvisions_network_computes_what_torchvision_does():
    torch.manual_seed(0)
    theirs = deeplabv3_mobilenet_v3_large(weights_backbone=None, num_classes=5, aux_loss=True)
    ours = segmenter_of(theirs)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    shown = images(2, 33)
    with torch.no_grad():
        expected, given = theirs.eval()(shown), ours.eval()(shown)
        assert torch.equal(given, expected["out"])
        main, auxiliary = ours.train()(shown)
    assert main.shape == auxiliary.shape == expected["aux"].shape


def test_lraspp():
    architecture = reference_architecture("torchvision:lraspp_mobilenet_v3_large", {}, 5, (3, 33, 33), 0.5)
    assert build(architecture).eval()(images(2, 33)).shape == (2, 5, 33, 33)


@pytest.fixture(scope="module")
def resnet101():
    return reference_architecture("torchvision:deeplabv3_resnet101", {}, 21, (3, 33, 33))


def test_deeplabv3_resnet101_at_half_its_widths(resnet101):
    assert f"{params_macs.params(resnet101) / 1e6:.1f}" == "58.6"  # the paper's table 7 says 58.0
    half = resnet101.with_widths({group: width // 2 for group, width in resnet101.widths.items()})
    assert {half.widths["backbone.conv1"], half.widths["backbone.layer4.2.conv1"]} == {32, 256}
    assert [half.widths[f"classifier.0.convs.{index}.0"] for index in range(4)] == [128] * 4
    assert params_macs.params(half) == params_macs.count_params(build_meta(half))
    check_task(half, "segmentation")
    model = build(half).train()
    logits = model(images(2, 33))
    assert logits.shape == (2, 21, 33, 33)
    logits.square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_nothing_is_downloaded(monkeypatch):
    asked = []

    def note(*args, **kwargs):
        asked.append(args)
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", note)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", note)
    assert reference_architecture("torchvision:fcn_resnet50", {}, 3, (3, 17, 17)).widths
    assert not asked


def test_its_task_is_segmentation():
    check_task(small(), "segmentation")
    for task in ("classification", "language"):
        with pytest.raises(ModelError, match=rf"deeplabv3_small gives \(2, 7, 24, 24\) .* the data's task is {task}"):
            check_task(small(), task)


def test_an_unknown_name_is_told_the_segmentation_networks_too():
    with pytest.raises(ModelError, match=r"did you mean deeplabv3_resnet101\?"):
        reference_architecture("torchvision:deeplabv3_resnet11", {}, 5, (3, 33, 33))
