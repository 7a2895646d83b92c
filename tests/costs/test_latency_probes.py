import pytest

from compressor.costs import latency_probes
from compressor.costs.latency_probes import draw, probed_model
from compressor.costs.params_macs import loads, macs
from compressor.errors import ExportError
from compressor.files import read_json
from compressor.models import reference_architecture, steps

VGG = reference_architecture("vgg11_bn", {}, 10, (3, 32, 32), 0.25)
PROBES = 12 + 2 * len(VGG.widths)


class Machine:
    """Measures what follows from layers; a measurement takes `seconds` by a clock of its own."""

    block = 8

    def __init__(self, seconds=0.0, monkeypatch=None, of=None):
        self.asked, self.now, self.seconds = [], 0.0, seconds
        self.of = of or (lambda network: sum(3 * load.macs + 100 * load.values for load in loads(network, 8)))
        if monkeypatch is not None:
            monkeypatch.setattr(latency_probes.time, "monotonic", lambda: self.now)

    def probe(self, architecture):
        self.asked.append(architecture)
        self.now += self.seconds
        return self.of(architecture) / self.of(VGG)


def test_probes_scatter_around_common_scales_in_whole_steps():
    grouped = reference_architecture("torchvision:resnext50_32x4d", {}, 10, (3, 64, 64))
    for reference in (VGG, grouped):
        networks = draw(reference, 0.25, 30)
        assert networks == draw(reference, 0.25, 30)
        assert len({network.to_json() for network in networks}) == 30
        assert networks[0] == reference
        own = steps(reference)
        for network in networks[1:]:
            for name, width in network.widths.items():
                assert width % own.get(name, 1) == 0
                assert width % 4 == 0 or reference.widths[name] < 16
        shares = sorted(macs(network) / macs(reference) for network in networks)
        assert shares[0] < 0.15
        assert shares[-1] > 0.7


def test_every_other_probe_has_whole_blocks_where_groups_are_wide():
    networks = draw(VGG, 0.25, 30, 16)
    whole = [all(width % 16 == 0 for name, width in n.widths.items() if VGG.widths[name] >= 32) for n in networks]
    assert 14 <= sum(whole) <= 20
    assert all(width <= 1.5 * VGG.widths[name] for n in networks for name, width in n.widths.items())


def test_what_was_measured_is_kept_for_a_search_that_goes_on(tmp_path):
    first = Machine()
    model = probed_model(first, VGG, 0.5, 1.0, tmp_path)
    assert len(first.asked) == PROBES == model.to_json()["probes"]
    again = Machine()
    same = probed_model(again, VGG, 0.5, 1.0, tmp_path)
    assert not again.asked
    assert same(VGG) == model(VGG)
    (kept,) = tmp_path.iterdir()
    known = read_json(kept)
    known["ratios"] = known["ratios"][:5]
    kept.write_text(str(known).replace("'", '"'))
    rest = Machine()
    probed_model(rest, VGG, 0.5, 1.0, tmp_path)
    assert rest.asked == first.asked[5:]


@pytest.mark.parametrize(("milliseconds", "seconds"), [(1.0, 60), (50.0, 60), (100.0, 120)])
def test_probing_ends_when_its_time_is_over(tmp_path, monkeypatch, milliseconds, seconds):
    machine = Machine(7.0, monkeypatch)
    probed_model(machine, VGG, 0.5, milliseconds, tmp_path)
    assert seconds - 7 <= machine.now < seconds  # another would not have been done in time


def test_a_network_that_cannot_be_measured_is_left_out(tmp_path):
    machine = Machine()
    whole = machine.of

    def of(network):
        if len(machine.asked) == 3:
            raise ExportError("it cannot be exported")
        return whole(network)

    machine.of = of
    assert probed_model(machine, VGG, 0.5, 1.0, tmp_path).to_json()["probes"] == PROBES - 1


def test_a_model_that_is_no_better_than_the_multiply_adds_is_not_used(tmp_path):
    assert probed_model(Machine(of=macs), VGG, 0.5, 1.0, tmp_path) is None


def test_layers_that_are_not_known_one_by_one_are_not_probed(tmp_path, monkeypatch):
    monkeypatch.setattr(latency_probes, "loads", lambda architecture, block=1: None)
    machine = Machine()
    assert probed_model(machine, VGG, 0.5, 1.0, tmp_path) is None
    assert not machine.asked
