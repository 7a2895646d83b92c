"""Small networks, one structure each: resized to any width they run and train, and removal is masking."""

import copy
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from compressor.costs.params_macs import count_params, params_at
from compressor.dependency import dependency_graph, remove_channels_, resize_

IMAGES = torch.zeros(2, 3, 8, 8)


class Net(nn.Module):
    """Layers by name, and a function of them and the images."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.function(self, x)


def conv(into, out, kernel=1, **options):
    return nn.Conv2d(into, out, kernel, padding=kernel // 2, **options)


def pooled(x):
    return x.mean((2, 3))


def grouped():
    layers = {"a": conv(3, 12), "g": conv(12, 18, 3, groups=3), "b": conv(18, 7), "fc": nn.Linear(7, 5)}
    return Net(lambda n, x: n.fc(pooled(n.b(F.relu(n.g(F.relu(n.a(x))))))), **layers)


def multiplied_depthwise():
    layers = {"a": conv(3, 6), "d": conv(6, 12, 3, groups=6), "b": conv(12, 7), "fc": nn.Linear(7, 5)}
    return Net(lambda n, x: n.fc(pooled(n.b(F.relu(n.d(F.relu(n.a(x))))))), **layers)


def chunked():
    def forward(n, x):
        left, right = n.a(x).chunk(2, 1)
        return n.fc(pooled(F.relu(n.b(left * torch.sigmoid(right)))))

    return Net(forward, a=conv(3, 10), b=conv(5, 7), fc=nn.Linear(7, 5))


def two_slices():
    """Cuts that follow the width, of as few slices as there can be."""

    def forward(n, x):
        x = n.a(x)
        left, right = x.chunk(2, 1)
        return n.fc(pooled(n.b(torch.cat([left, -x[:, x.shape[1] // 2 :]], 1) + torch.cat([right, left], 1))))

    return Net(forward, a=conv(3, 4), b=conv(4, 7), fc=nn.Linear(7, 5))


def gated_linear():
    return Net(lambda n, x: n.fc(pooled(n.b(F.glu(n.a(x), 1)))), a=conv(3, 10), b=conv(5, 7), fc=nn.Linear(7, 5))


def pixel_shuffled():
    def forward(n, x):
        return n.fc(pooled(F.relu(n.b(F.pixel_shuffle(n.a(x), 2)))))

    return Net(forward, a=conv(3, 20), b=conv(5, 7), fc=nn.Linear(7, 5))


def unflattened():
    def forward(n, x):
        x = n.enter(x.flatten(1)).reshape(len(x), -1, 4, 4)
        return n.fc(pooled(F.relu(n.b(x))))

    return Net(forward, enter=nn.Linear(192, 6 * 16), b=conv(6, 7), fc=nn.Linear(7, 5))


def transposed():
    layers = {"a": conv(3, 6), "up": nn.ConvTranspose2d(6, 9, 2, 2), "b": conv(9, 7), "fc": nn.Linear(7, 5)}
    return Net(lambda n, x: n.fc(pooled(n.b(F.relu(n.up(F.relu(n.a(x))))))), **layers)


def transposed_depthwise():
    up = nn.ConvTranspose2d(6, 6, 2, 2, groups=6)
    return Net(lambda n, x: n.fc(pooled(F.relu(n.up(n.a(x))))), a=conv(3, 6), up=up, fc=nn.Linear(6, 5))


def squeeze_excite():
    def forward(n, x):
        x = F.relu(n.bn(n.a(x)))
        gate = torch.sigmoid(n.up(F.relu(n.down(x.mean((2, 3), keepdim=True)))))
        return n.fc(pooled(x * gate))

    return Net(forward, a=conv(3, 11), bn=nn.BatchNorm2d(11), down=conv(11, 3), up=conv(3, 11), fc=nn.Linear(11, 5))


def channel_attention():
    """ECA: a 1-d convolution along the channels."""

    def forward(n, x):
        x = F.relu(n.a(x))
        gate = torch.sigmoid(n.along(pooled(x)[:, None]))[:, 0, :, None, None]
        return n.fc(pooled(x * gate))

    return Net(forward, a=conv(3, 11), along=nn.Conv1d(1, 1, 3, padding=1, bias=False), fc=nn.Linear(11, 5))


def layer_normed():
    def forward(n, x):
        x = n.norm(n.a(x).permute(0, 2, 3, 1))
        return n.fc((x + n.scale * n.out(F.gelu(n.inner(x)))).mean((1, 2)))

    net = Net(
        forward, a=conv(3, 9), norm=nn.LayerNorm(9), inner=nn.Linear(9, 23), out=nn.Linear(23, 9), fc=nn.Linear(9, 5)
    )
    net.scale = nn.Parameter(torch.full((9,), 0.5))
    return net


def group_normed():
    norm = nn.GroupNorm(4, 12)
    return Net(lambda n, x: n.fc(pooled(F.relu(n.norm(n.a(x))))), a=conv(3, 12), norm=norm, fc=nn.Linear(12, 5))


def dense_concat():
    def forward(n, x):
        x = F.relu(n.a(x))
        x = torch.cat([x, F.relu(n.b(n.bn1(x)))], 1)
        return n.fc(torch.cat([x, F.relu(n.c(n.bn2(x)))], 1).flatten(1))

    layers = {"a": conv(3, 5), "bn1": nn.BatchNorm2d(5), "b": conv(5, 4), "bn2": nn.BatchNorm2d(9), "c": conv(9, 3)}
    return Net(forward, **layers, fc=nn.Linear(12 * 64, 5))


def same_concat():
    def forward(n, x):
        x = F.relu(n.a(x))
        return n.fc(pooled(F.relu(n.b(torch.cat([x, x.flip(2)], 1)))))

    return Net(forward, a=conv(3, 5), b=conv(10, 7), fc=nn.Linear(7, 5))


def standardised():
    """Weights computed from weights, as in networks without batch-norm."""

    def forward(n, x):
        weight = n.a.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / (weight.std((1, 2, 3), keepdim=True) + 1)
        return n.fc(pooled(F.relu(n.b(F.relu(F.conv2d(x, weight, n.a.bias, padding=1))))))

    return Net(forward, a=conv(3, 6, 3), b=conv(6, 7), fc=nn.Linear(7, 5))


def summed_weights():
    """One weight made of two parameters."""

    def forward(n, x):
        return n.fc(pooled(F.relu(F.conv2d(F.relu(n.a(x)), n.b.weight + n.c.weight, n.b.bias))))

    return Net(forward, a=conv(3, 6), b=conv(6, 7), c=conv(6, 7, bias=False), fc=nn.Linear(7, 5))


def transposed_use():
    """A bare parameter used both ways round."""

    def forward(n, x):
        return n.fc(F.relu(F.linear(F.relu(F.linear(x.mean((2, 3)), n.w)), n.w.t())))

    net = Net(forward, fc=nn.Linear(3, 5))
    net.w = nn.Parameter(torch.randn(9, 3))
    return net


def volumes():
    def forward(n, x):
        return n.fc(F.relu(n.b(F.relu(n.bn(n.a(x[:, :, None].expand(-1, -1, 4, -1, -1)))))).mean((2, 3, 4)))

    return Net(forward, a=nn.Conv3d(3, 6, 3, padding=1), bn=nn.BatchNorm3d(6), b=nn.Conv3d(6, 7, 1), fc=nn.Linear(7, 5))


EXACT = [
    *(grouped, multiplied_depthwise, chunked, two_slices, gated_linear, pixel_shuffled, unflattened, transposed),
    *(transposed_depthwise, squeeze_excite, layer_normed, group_normed, dense_concat, same_concat, volumes),
    summed_weights,
]
ALL = [*EXACT, channel_attention, standardised]


def widths_of(graph, share):
    return {name: max(1, int(group.slices * share())) * group.step for name, group in graph.groups.items()}


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_every_layer_but_the_last_is_free_and_any_width_runs_and_trains(make):
    torch.manual_seed(0)
    model, draw = make(), random.Random(0)
    graph = dependency_graph(model, IMAGES)
    assert set(graph.fixed) == {"fc"}
    for share in (lambda: 0.5, lambda: 1.5, *[lambda: draw.uniform(0.1, 2.5)] * 5):
        widths, network = widths_of(graph, share), copy.deepcopy(model)
        after = resize_(network, graph, widths)
        assert after.widths == widths
        assert count_params(network) == params_at(model, graph, widths)
        output = network(torch.randn(3, 3, 8, 8))
        assert output.shape == (3, 5)
        output.sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)
def test_a_graph_at_other_widths_is_the_graph_of_the_resized_network(make):
    model, draw = make(), random.Random(1)
    graph = dependency_graph(model, IMAGES)
    widths = widths_of(graph, lambda: draw.uniform(0.6, 1.8))
    after = resize_(copy.deepcopy(model), graph, widths)
    assert after.widths == graph.at(widths).widths
    assert after.owners == graph.at(widths).owners


@pytest.mark.parametrize("make", EXACT, ids=lambda make: make.__name__)
def test_removing_units_is_zeroing_them_where_they_are_read(make):
    torch.manual_seed(0)
    model, draw = make().double().eval(), random.Random(2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, 0.3)
    graph = dependency_graph(model, IMAGES)
    removed = {
        name: draw.sample(range(group.slices), draw.randint(1, max(1, group.slices // 2)))
        for name, group in graph.groups.items()
        if group.slices > 1 and not (make in (group_normed, layer_normed) and name == "a")  # normed over channels
    }
    silent = copy.deepcopy(model)
    for name, slices in removed.items():
        for read in graph.readers(name):
            gone = [int(index) for index, slice_ in zip(read.index, read.slice, strict=True) if slice_ in slices]
            silent.get_parameter(read.tensor).data.index_fill_(read.dim, torch.tensor(gone), 0.0)
    if make is squeeze_excite:  # the squeezed mean is read as well as the gated map: both readers are zeroed above
        assert len(graph.readers("a")) == 2
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    expected = silent(x)
    remove_channels_(model, graph, removed)
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


def test_steps_are_what_the_parts_need():
    assert {name: group.step for name, group in dependency_graph(grouped(), IMAGES).groups.items()} == {
        "a": 3,
        "g": 3,
        "b": 1,
    }
    assert dependency_graph(chunked(), IMAGES).steps == {"a": 2, "b": 1}
    assert dependency_graph(group_normed(), IMAGES).steps == {"a": 4}
    assert dependency_graph(unflattened(), IMAGES).steps == {"enter": 16, "b": 1}


def shuffled(x, groups=2):
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def shuffle_net(blocks):
    """Half of the channels pass a block by, then all are shuffled, as in ShuffleNet V2."""

    def forward(n, x):
        x = torch.cat([n.left(x), n.right(x)], 1)
        for index in range(blocks):
            passed, x = shuffled(x).chunk(2, 1)
            x = torch.cat([passed, F.relu(getattr(n, f"block{index}")(x))], 1)
        return n.fc(pooled(x))

    layers = {f"block{index}": conv(12, 12) for index in range(blocks)}
    return Net(forward, left=conv(3, 12), right=conv(3, 12), **layers, fc=nn.Linear(24, 5))


def test_shuffled_channels_change_their_number_and_are_not_called_exact():
    model = shuffle_net(3)
    graph = dependency_graph(model, IMAGES)
    # No shuffle follows the last block, so its channels are its own affair.
    assert {name: group.exact for name, group in graph.groups.items()} == {"left": False, "block2": True}
    for width in (1, 5, 11, 20):
        network = copy.deepcopy(model)
        resize_(network, graph, {"left": width, "block2": 7})
        assert network(torch.randn(2, 3, 8, 8)).shape == (2, 5)
        assert network.block1.weight.shape == (width, width, 1, 1)


def literal_slice():
    return Net(lambda n, x: n.fc(pooled(n.b(n.a(x)[:, :3]))), a=conv(3, 8), b=conv(3, 7), fc=nn.Linear(7, 5))


def literal_split():
    def forward(n, x):
        left, right = n.a(x).split([3, 5], 1)
        return n.fc(pooled(n.b(left) + n.c(right)))

    return Net(forward, a=conv(3, 8), b=conv(3, 7), c=conv(5, 7), fc=nn.Linear(7, 5))


def every_second():
    return Net(lambda n, x: n.fc(pooled(n.b(n.a(x)[:, ::2]))), a=conv(3, 10), b=conv(5, 7), fc=nn.Linear(7, 5))


def picked():
    def forward(n, x):
        x = n.a(x)
        return n.fc(pooled(F.relu(n.b(x * torch.sigmoid(x[:, 2:3])) + x[:, 0].unsqueeze(1))))

    return Net(forward, a=conv(3, 8), b=conv(8, 7), fc=nn.Linear(7, 5))


def copied_in():
    def forward(n, x):
        y = x.new_zeros(len(x), 8, 8, 8)
        y[:, 2:8] = n.a(x)
        return n.fc(pooled(n.b(y)))

    return Net(forward, a=conv(3, 6), b=conv(8, 7), fc=nn.Linear(7, 5))


def spectral():
    return Net(
        lambda n, x: n.fc(pooled(n.b(torch.fft.fft(n.a(x), dim=1).real[:, :4]))),
        a=conv(3, 8),
        b=conv(4, 7),
        fc=nn.Linear(7, 5),
    )


def permuted():
    def forward(n, x):
        return n.fc(pooled(F.relu(n.b(n.a(x).index_select(1, torch.arange(7, -1, -1, device=x.device))))))

    return Net(forward, a=conv(3, 8), b=conv(8, 7), fc=nn.Linear(7, 5))


def sorted_channels():
    return Net(lambda n, x: n.fc(pooled(n.b(n.a(x).sort(1)[0]))), a=conv(3, 8), b=conv(8, 7), fc=nn.Linear(7, 5))


def flipped_sum():
    def forward(n, x):
        x = F.relu(n.a(x))
        return n.fc(pooled(F.relu(n.b(x + x.flip(1)))))

    return Net(forward, a=conv(3, 8), b=conv(8, 7), fc=nn.Linear(7, 5))


def transposed_grouped():
    def forward(n, x):
        return n.fc(pooled(n.b(F.relu(n.up(F.relu(n.a(x)))))))

    up = nn.ConvTranspose2d(8, 8, 2, 2, groups=4)
    return Net(forward, a=conv(3, 8), up=up, b=conv(8, 7), fc=nn.Linear(7, 5))


def scaled_in_place():
    """Runs at any width, but then scales another share of the channels."""

    def forward(n, x):
        x = n.a(x)
        x[:, :4].mul_(3)
        return n.fc(pooled(n.b(x)))

    return Net(forward, a=conv(3, 12), b=conv(12, 7), fc=nn.Linear(7, 5))


def literal_halves():
    """Runs at any width too."""

    def forward(n, x):
        x = n.a(x)
        return n.fc(pooled(n.b(torch.cat([F.relu(x[:, :4]), -x[:, 4:]], 1))))

    return Net(forward, a=conv(3, 8), b=conv(8, 7), fc=nn.Linear(7, 5))


def literal_pairs():
    """One slice less would leave a whole number of pairs again."""

    def forward(n, x):
        x = n.a(x)
        x[:, :2].mul_(3)
        return n.fc(pooled(n.b(x)))

    return Net(forward, a=conv(3, 12), b=conv(12, 7), fc=nn.Linear(7, 5))


INSISTING = [literal_slice, literal_split, every_second, picked, copied_in, spectral, permuted, sorted_channels]
INSISTING += [flipped_sum, transposed_grouped, scaled_in_place, literal_halves, literal_pairs]


@pytest.mark.parametrize("make", INSISTING, ids=lambda make: make.__name__)
def test_what_the_networks_own_code_insists_on_is_fixed_with_a_reason_and_the_rest_is_free(make):
    model = make()
    graph = dependency_graph(model, IMAGES)
    assert set(graph.groups) == {"b"}
    assert all(graph.fixed[name].startswith(f"{name}: ") for name in graph.fixed)
    resize_(model, graph, {"b": 3})
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 5)


def test_a_network_that_looks_at_values_is_planned_on_real_tensors():
    def forward(n, x):
        x = F.relu(n.a(x))
        return n.fc(pooled(x if float(x.sum()) > -1 else -x))

    graph = dependency_graph(Net(forward, a=conv(3, 6), fc=nn.Linear(6, 5)), IMAGES)
    assert graph.widths == {"a": 6}


def test_auxiliary_heads_in_training_are_resized_with_the_rest():
    def forward(n, x):
        x = F.relu(n.a(x))
        logits = n.fc(pooled(x))
        return (logits, n.aux(pooled(x))) if n.training else logits

    model = Net(forward, a=conv(3, 6), aux=nn.Linear(6, 5), fc=nn.Linear(6, 5))
    resize_(model, dependency_graph(model, IMAGES), {"a": 9})
    assert [tuple(output.shape) for output in model.train()(torch.randn(2, 3, 8, 8))] == [(2, 5), (2, 5)]


def test_all_parameters_of_a_computed_weight_read_what_it_reads():
    graph = dependency_graph(summed_weights(), IMAGES)
    assert {read.tensor for read in graph.readers("a")} == {"b.weight", "c.weight"}
    assert {made.tensor for made in graph.producers("b")} == {"b.weight", "c.weight"}


def test_two_groups_of_one_parameter_have_names_of_their_own():
    graph = dependency_graph(transposed_use(), IMAGES)
    assert len({*graph.groups, *graph.fixed}) == 3


def test_queries_and_keys_are_known_to_be_summed_over():
    def forward(n, x):
        q, k, v = n.qkv(x.flatten(2).transpose(1, 2)).chunk(3, -1)
        return n.fc(F.relu(n.out(torch.softmax(q @ k.transpose(1, 2), -1) @ v)).mean(1))

    model = Net(forward, qkv=nn.Linear(3, 12), out=nn.Linear(4, 6), fc=nn.Linear(6, 5))
    groups = dependency_graph(model, IMAGES).groups
    assert {name: (group.step, group.summed) for name, group in groups.items()} == {"qkv": (3, True), "out": (1, False)}


@pytest.mark.parametrize(("groups", "following"), [(4, 6), (4, 3), (2, 4)])
def test_widths_between_two_grouped_convolutions_suit_both(groups, following):
    layers = {"a": conv(3, 12), "g": conv(12, 12, 3, groups=groups), "h": conv(12, 24, 3, groups=following)}
    model = Net(lambda n, x: n.fc(pooled(n.h(F.relu(n.g(n.a(x)))))), **layers, fc=nn.Linear(24, 5))
    graph = dependency_graph(model, IMAGES)
    for count in (1, 2, 3):
        network = copy.deepcopy(model)
        resize_(network, graph, {name: count * group.step for name, group in graph.groups.items()})
        assert network(torch.randn(2, 3, 8, 8)).shape == (2, 5)
    layers = {"a": conv(3, 12), "g": conv(12, 4, 3, groups=4), "fc": nn.Linear(4, 5)}
    assert dependency_graph(Net(lambda n, x: n.fc(pooled(n.g(n.a(x)))), **layers), IMAGES).steps["g"] == 4


def test_modules_that_compute_their_weights_by_code_are_fixed_or_resized_but_never_crash():
    first = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 6, 3))
    model = nn.Sequential(first, nn.ReLU(), nn.Conv2d(6, 7, 1), nn.Flatten(), nn.Linear(252, 5))
    graph = dependency_graph(model, IMAGES)
    resize_(model, graph, {name: 2 * group.step for name, group in graph.groups.items()})
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 5)


def test_instance_norms_follow():
    norm = nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
    model = Net(lambda n, x: n.fc(pooled(F.relu(n.norm(n.a(x))))), a=conv(3, 6), norm=norm, fc=nn.Linear(6, 5))
    graph = dependency_graph(model, IMAGES)
    resize_(model, graph, {"a": 9})
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 5)
