import copy

import pytest
import torch
from torch import nn

from compressor.dependency import dependency_graph, resize_
from compressor.models.initialise import reinitialise_


def test_fresh_weights_keep_the_scheme_of_the_reference():
    torch.manual_seed(1)
    reference = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.Conv2d(64, 128, 3), nn.Conv2d(128, 128, 3))
    nn.init.kaiming_normal_(reference[0].weight, mode="fan_out")
    nn.init.normal_(reference[3].weight, 0, 0.01)
    nn.init.constant_(reference[1].weight, 0.5)
    wide = copy.deepcopy(reference)
    graph = dependency_graph(wide, torch.zeros(2, 3, 16, 16))
    resize_(wide, graph, {"0": 31, "2": 53})
    reinitialise_(wide, reference)
    fan_out, fan_in, fixed = (float(wide[index].weight.detach().std()) for index in (0, 2, 3))
    assert fan_out == pytest.approx((2 / (31 * 9)) ** 0.5, rel=0.1)  # Kaiming
    assert fan_in == pytest.approx((1 / 3 / (31 * 9)) ** 0.5, rel=0.1)  # torch's default
    assert fixed == pytest.approx(0.01, rel=0.1)
    assert bool((wide[1].weight == 0.5).all())


def test_a_grown_network_keeps_its_weights_and_draws_the_new_ones():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 13, 3), nn.BatchNorm2d(13), nn.ReLU(), nn.Conv2d(13, 23, 1), nn.Flatten(), nn.Linear(23 * 4, 10)
    )
    net(torch.randn(8, 3, 4, 4))  # running statistics of its own
    graph = dependency_graph(net, torch.zeros(2, 3, 4, 4))
    wide = copy.deepcopy(net)
    resize_(wide, graph, {"0": 31, "3": 5}, fill=float("nan"))
    reinitialise_(wide, net, new_only=True)
    assert torch.equal(wide[0].weight[:13], net[0].weight)
    assert torch.equal(wide[3].weight[:, :13], net[3].weight[:5])
    assert torch.equal(wide[1].running_mean[:13], net[1].running_mean)
    assert torch.equal(wide[1].running_var[13:], torch.ones(18))
    assert float(wide[0].weight[13:].detach().std()) == pytest.approx(float(net[0].weight.detach().std()), rel=0.2)
    assert all(bool(value.isfinite().all()) for value in wide.state_dict().values())
    assert wide(torch.randn(2, 3, 4, 4)).shape == (2, 10)
