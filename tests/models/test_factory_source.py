"""Networks of one's own, named by a function that makes them."""

import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
import torch

from compressor.costs import params_macs
from compressor.errors import ModelError
from compressor.models import build, channels_last_, check_task, reference_architecture, supports_channels_last


def linear(inputs, outputs):
    return inputs * outputs + outputs


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module into the working directory, which is not on sys.path; give its name."""
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.chdir(tmp_path)

    def write(name, code):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))
        return name

    return write


def test_a_factory_in_the_working_directory(module):
    name = module(
        "my_nets_of_a_test",
        """
        from torch import nn

        def net(num_classes, inner=17):
            return nn.Sequential(nn.Conv2d(1, 13, 3), nn.BatchNorm2d(13), nn.ReLU(), nn.Conv2d(13, inner, 3),
                                 nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inner, num_classes))
        """,
    )
    architecture = reference_architecture(f"{name}:net", {"inner": 19}, 5, (1, 8, 8))
    assert architecture.widths == {"0": 13, "3": 19}
    narrow = architecture.with_widths({"0": 3, "3": 29})
    expected = (9 * 3 + 3) + 2 * 3 + (9 * 3 * 29 + 29) + linear(29, 5)
    assert params_macs.params(narrow) == params_macs.count_params(build(narrow)) == expected
    assert build(narrow)(torch.zeros(2, 1, 8, 8)).shape == (2, 5)


@pytest.mark.parametrize("reset", ["self, std", "self"])
def test_layers_that_cannot_draw_their_weights_are_drawn_as_others_are(module, reset):
    name = module(
        "nets_resetting",
        f"""
        import torch
        from torch import nn


        class Mixed(nn.Linear):
            def __init__(self, *sizes):
                nn.Module.__init__(self)
                self.weight = nn.Parameter(torch.randn(*reversed(sizes)))
                self.bias = nn.Parameter(torch.zeros(sizes[1]))

            def reset_parameters({reset}):
                with torch.no_grad():
                    self.weight.fill_(float("nan"))
                raise RuntimeError("not like this")


        def net(num_classes):
            torch.manual_seed(1)
            return nn.Sequential(nn.Flatten(), Mixed(12, 7), nn.ReLU(), nn.Linear(7, num_classes))
        """,
    )
    architecture = reference_architecture(f"{name}:net", {}, 5, (3, 2, 2))
    one, other = build(architecture, 1), build(architecture, 2)
    assert architecture.widths == {"1": 7}
    assert torch.equal(one[1].weight, build(architecture, 1)[1].weight)
    assert not torch.equal(one[1].weight, other[1].weight)
    assert one[1].weight.isfinite().all()


def test_factories_that_give_no_network(module):
    name = module(
        "my_broken_nets_of_a_test",
        """
        value = 3
        def text(): return "no network"
        def fails(num_classes): raise KeyError(f"no {num_classes}\\nclasses")
        """,
    )
    for reference, message in [
        (f"{name}:text", "gives a str, not a torch.nn.Module"),
        (f"{name}:value", "is a int, not a function or class"),
        (f"{name}:fails", r"cannot be built: KeyError: 'no 5.*classes'"),
        (f"{name}:absent", "cannot import .*has no attribute 'absent'"),
        ("no_such_package.nets:net", "cannot import .*No module named 'no_such_package'"),
        (f"{module('my_wrong_syntax_of_a_test', 'def (')}:net", "cannot import .*SyntaxError"),
        ("torch.nn:ReLU", "cannot be resized: it has no layers with a width"),
        (":net", "cannot import :net"),
    ]:
        with pytest.raises(ModelError, match=message) as caught:
            reference_architecture(reference, {}, 5, (1, 8, 8))
        assert "\n" not in str(caught.value)


def test_widths_that_the_networks_own_code_cannot_bear_are_refused(module):
    name = module(
        "my_sliced_net_of_a_test",
        """
        import torch
        from torch import nn

        class Sliced(nn.Module):
            def __init__(self, num_classes):
                super().__init__()
                self.conv, self.some = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 6, 1)
                self.whole, self.fc = nn.Conv2d(8, 6, 1), nn.Linear(6, num_classes)

            def forward(self, x):
                x = self.conv(x)
                return self.fc(torch.relu(self.some(x[:, -4:]) + self.whole(x)).mean((2, 3)))
        """,
    )
    architecture = reference_architecture(f"{name}:Sliced", {}, 10, (3, 8, 8))
    narrow = architecture.with_widths(dict.fromkeys(architecture.widths, 3))
    if "conv" in architecture.widths:
        with pytest.raises(ModelError, match="does not run at these widths"):
            build(narrow)
    else:
        assert build(narrow)(torch.zeros(2, 3, 8, 8)).shape == (2, 10)


def test_a_network_of_ones_own_is_counted_in_a_process_that_has_not_seen_it():
    """What was looked up before must not matter: a later stage may run in a process of its own."""
    code = (
        "from compressor.models.architecture import Architecture\n"
        "from compressor.models import build_meta\n"
        "own = Architecture('own:network', 4, (1, 8, 8), {'0': 5})\n"
        "print(sum(p.numel() for p in build_meta(own).parameters()))\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        network = "nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(3 * 36, num_classes))"
        lines = f"from torch import nn\n\n\ndef network(num_classes):\n    return {network}\n"
        (Path(folder) / "own.py").write_text(lines)
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(5 * 9 + 5 + 5 * 36 * 4 + 4), done.stderr


LOOKING = """
    import torch
    from torch import nn

    class Looking(nn.Module):
        def __init__(self, num_classes):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 13, 3), nn.BatchNorm2d(13)
            self.fc = nn.Linear(13, num_classes)

        def forward(self, x):
            if x.abs().max().item() > 1e6:
                raise ValueError("out of range")
            return self.fc(self.norm(self.conv(x)).relu().mean((2, 3)))

    class Deep(nn.Module):
        def __init__(self, num_classes):
            super().__init__()
            self.conv, self.volume = nn.Conv2d(1, 13, 3), nn.Conv3d(13, 7, (1, 3, 3))
            self.fc = nn.Linear(7, num_classes)

        def forward(self, x):
            return self.fc(self.volume(self.conv(x).unsqueeze(2)).squeeze(2).relu().mean((2, 3)))
"""


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("Looking", (9 * 5 + 5) + 2 * 5 + linear(5, 4), 36 * 9 * 5 + 5 * 4),
        ("Deep", (9 * 5 + 5) + (5 * 9 * 3 + 3) + linear(3, 4), 36 * 9 * 5 + 16 * 5 * 9 * 3 + 3 * 4),
    ],
)
def test_networks_that_look_at_values_or_have_weights_of_five_dimensions_are_resized(module, name, params, macs):
    own = reference_architecture(f"{module('my_looking_nets_of_a_test', LOOKING)}:{name}", {}, 4, (1, 8, 8))
    check_task(own, "classification")
    narrow = own.with_widths(dict(zip(own.widths, (5, 3), strict=False)))
    assert (params_macs.params(narrow), params_macs.macs(narrow)) == (params, macs)
    network = channels_last_(build(narrow))
    assert network.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 4)
    assert supports_channels_last(own)
