"""The language model held to the counts that are printed of it, and its hidden units to the widths that name them."""

import copy

import pytest
import torch
from torch import nn

from compressor.costs import params_macs
from compressor.dependency import dependency_graph, remove_channels_, resize_
from compressor.errors import ModelError
from compressor.models import build, build_meta, check_task, example_input, graph_of, reference_architecture
from compressor.models.architecture import Architecture

SMALL = Architecture("lstm", 29, (5,), {"lstm1": 13, "lstm2": 11}, {"embedding": 7, "hidden": 17, "dropout": 0.0})


def tokens(count, length, classes=29):
    return torch.randint(classes, (count, length), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("widths", "published"), [((1500, 1500), "66.0"), ((373, 315), "21.8"), ((310, 275), "20.6")]
)  # "Growing Efficient Deep Networks", Table 8
def test_the_papers_sizes(widths, published):
    reference = reference_architecture("lstm", {}, 10_000, (35,))
    assert dict(reference.widths) == {"lstm1": 1500, "lstm2": 1500}
    one, two = widths
    architecture = reference.with_widths({"lstm1": one, "lstm2": two})
    counted = 15_000_000 + 4 * one * (1500 + one + 2) + 4 * two * (one + two + 2) + (two + 1) * 10_000
    assert params_macs.params(architecture) == counted
    assert f"{int(counted / 1e5) / 10}" == published  # rounded down, as 20.65 has become 20.6


@pytest.mark.parametrize("length", [1, 2, 17])
def test_multiply_adds_are_those_of_a_sequence(length):
    architecture = Architecture("lstm", 29, (length,), SMALL.widths, SMALL.options)
    assert params_macs.macs(architecture) == length * (4 * 13 * (7 + 13) + 4 * 11 * (13 + 11) + 11 * 29)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_width_is_its_units_rows_in_all_gates_and_their_readers(length):
    graph = graph_of(Architecture("lstm", 29, (length,), SMALL.widths, SMALL.options))
    assert graph.widths == dict(SMALL.widths)
    assert set(graph.steps.values()) == {1}
    assert set(graph.fixed) == {"embedding", "decoder"}
    reads = {name: {(read.tensor, read.dim, len(read.index)) for read in graph.readers(name)} for name in SMALL.widths}
    assert reads == {
        "lstm1": {("lstm1.weight_hh_l0", 1, 13), ("lstm2.weight_ih_l0", 1, 13)},
        "lstm2": {("lstm2.weight_hh_l0", 1, 11), ("decoder.weight", 1, 11)},
    }
    for name, width in SMALL.widths.items():
        rows = {made.tensor: made for made in graph.producers(name)}
        assert rows.keys() >= {f"{name}.weight_ih_l0", f"{name}.weight_hh_l0"}
        assert all(made.dim == 0 and made.slice.tolist() == [*range(width)] * 4 for made in rows.values())
        for kind in ("bias_ih_l0", "bias_hh_l0"):
            assert graph.owners[f"{name}.{kind}", 0].slice.tolist() == [*range(width)] * 4


def test_removing_silent_units_changes_nothing():
    model, graph = build(SMALL).eval(), graph_of(SMALL)
    gone = {"lstm1": [0, 5, 12], "lstm2": [3, 4]}
    with torch.no_grad():
        for name, slice_ in ((name, slice_) for name, slices in gone.items() for slice_ in slices):
            for read in graph.readers(name):
                model.get_parameter(read.tensor)[:, read.index[read.slice == slice_]] = 0
    smaller = copy.deepcopy(model)
    optimizer = torch.optim.SGD(smaller.parameters(), 0.1, momentum=0.9)
    smaller(tokens(2, 5)).square().sum().backward()
    optimizer.step()
    smaller.load_state_dict(model.state_dict())
    after = remove_channels_(smaller, graph, gone, optimizer)
    assert after.widths == {"lstm1": 10, "lstm2": 9}
    assert (smaller.lstm2.input_size, smaller.lstm2.hidden_size, smaller.decoder.in_features) == (10, 9, 9)
    assert smaller.lstm1.weight_ih_l0.shape == (40, 7)
    assert torch.allclose(smaller(tokens(3, 8)), model(tokens(3, 8)), atol=1e-6)
    assert optimizer.state[smaller.lstm1.weight_hh_l0]["momentum_buffer"].shape == (40, 10)
    rebuilt = build(SMALL.with_widths(after.widths)).eval()
    rebuilt.load_state_dict(smaller.state_dict())
    assert torch.equal(rebuilt(tokens(3, 8)), smaller(tokens(3, 8)))


def test_new_units_that_nothing_reads_change_nothing():
    model, graph = build(SMALL).eval(), graph_of(SMALL)
    before = model(tokens(3, 8))
    resize_(model, graph, {"lstm1": 19, "lstm2": 23})
    assert (model.lstm1.hidden_size, model.lstm2.hidden_size) == (19, 23)
    assert torch.allclose(model(tokens(3, 8)), before, atol=1e-6)


def test_a_place_sees_no_later_token():
    model = build(SMALL).eval()
    first, other = tokens(2, 9), tokens(2, 9)
    other[:, 6:] = (other[:, 6:] + 1) % 29
    left, right = model(first), model(other)
    assert left.shape == (2, 9, 29)
    assert torch.equal(left[:, :6], right[:, :6])
    assert not torch.allclose(left[:, 6:], right[:, 6:])


def test_it_learns_to_count():
    model = build(Architecture("lstm", 29, (8,), {"lstm1": 23, "lstm2": 29}, SMALL.options))
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    starts = torch.arange(29)
    texts = (starts[:, None] + torch.arange(9)) % 29
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(texts[:, :-1]).flatten(0, 1), texts[:, 1:].flatten())
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


def test_dropout_is_between_the_layers_and_only_in_training():
    model = build(Architecture("lstm", 29, (5,), SMALL.widths, {**SMALL.options, "dropout": 0.5}))
    text = tokens(2, 5)
    assert not torch.equal(model.train()(text), model(text))
    assert torch.equal(model.eval()(text), model(text))
    assert reference_architecture("lstm", {}, 29, (5,)).options["dropout"] == 0.65


def test_weights_begin_as_in_the_paper():
    for size, published in ((1500, 0.04), (650, 0.05), (200, 0.1)):
        options = {"embedding": size, "hidden": size}
        model = build(reference_architecture("lstm", options, 50, (5,)))
        for path, parameter in model.named_parameters():
            assert parameter.abs().max().item() == pytest.approx(published, rel=0.2), path


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("embedding", 0, "0 is not a whole number, 1 or more"),
        ("hidden", 2.5, "2.5 is not a whole number, 1 or more"),
        ("dropout", 1, "1 is not a share from 0 to below 1"),
        ("dropout", "half", "'half' is not a share from 0 to below 1"),
    ],
)
def test_options_that_are_not_allowed(option, value, message):
    with pytest.raises(ModelError, match=rf"^model.options.{option}: {message}"):
        reference_architecture("lstm", {option: value}, 29, (5,))


def test_tokens_are_not_images():
    assert example_input(SMALL).dtype == torch.int64
    assert example_input(SMALL, 3).shape == (3, 5)
    with pytest.raises(ModelError, match=r"lstm needs sequences of tokens, these inputs are 3×32×32"):
        reference_architecture("lstm", {}, 10, (3, 32, 32))
    with pytest.raises(ModelError, match=r"resnet20 needs images, these inputs are sequences of 35 tokens"):
        reference_architecture("resnet20", {}, 10, (35,))


def test_its_task_is_language():
    check_task(SMALL, "language")
    for task in ("classification", "segmentation"):
        with pytest.raises(ModelError, match=rf"lstm gives \(2, 5, 29\) for .*\(2, 5\), but the data's task is {task}"):
            check_task(SMALL, task)
    image = reference_architecture("resnet20", {}, 10, (3, 32, 32))
    check_task(image, "classification")
    with pytest.raises(ModelError, match=r"which needs logits of shape \(2, 10, 32, 32\)"):
        check_task(image, "segmentation")


class Reader(nn.Module):
    """Tokens ─ embedding (7) ─ recurrent layers (13) ─ linear (29)."""

    def __init__(self, layer, **options):
        super().__init__()
        self.embedding = nn.Embedding(29, 7)
        self.rnn = layer(7, 13, batch_first=True, **options)
        out = options.get("proj_size") or 13
        self.decoder = nn.Linear(2 * out if options.get("bidirectional") else out, 29)

    def forward(self, x):
        return self.decoder(self.rnn(self.embedding(x))[0])


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("layer", "options"),
    [(nn.LSTM, {}), (nn.GRU, {}), (nn.RNN, {}), (nn.GRU, {"num_layers": 2}), (nn.LSTM, {"bidirectional": True}),
     (nn.LSTM, {"proj_size": 5})],
)  # fmt: skip
def test_recurrent_layers_of_other_networks_are_resized_too(layer, options):
    model = Reader(layer, **options).eval()
    graph = dependency_graph(model, tokens(2, 5))
    assert graph.widths == {"embedding": 7, "rnn": 13} | ({"rnn.weight_hr_l0": 5} if "proj_size" in options else {})
    before = model(tokens(3, 8))
    resize_(model, graph, {"rnn": 17, "embedding": 11})
    assert (model.rnn.input_size, model.rnn.hidden_size) == (11, 17)
    assert torch.allclose(model(tokens(3, 8)), before, atol=1e-6)
    assert {path: p.shape for path, p in model.named_parameters() if path.startswith("rnn")} == {
        f"rnn.{path}": p.shape for path, p in layer(11, 17, batch_first=True, **options).named_parameters()
    }


def test_the_network_without_weights_has_the_same_shapes():
    shapes = [{path: p.shape for path, p in make(SMALL).named_parameters()} for make in (build, build_meta)]
    assert shapes[0] == shapes[1]
