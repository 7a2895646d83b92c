"""Time of NeuralScale's pruning phase: physical (ours), masked by scales (the paper's way), and torch-pruning's pruner.

    python experiments/pruning_speed.py --data .data/cifar10 --width 0.25
    python experiments/pruning_speed.py --whole ...    pre-training is timed as well: one whole iteration of the descent
    python experiments/pruning_speed.py --network resnet20 | mobilenetv2 | preact_resnet18 | ...

All three start from the same weights and see the same batches; they take turns after every pruning event, so slow
minutes of the machine hit all. Ratios are of CPU time, which other processes disturb least; wall time stands beside it.
The masked network keeps its size: a scale after every batch-norm of searched channels is multiplied in, channels that
go together sharing one (the authors gate a residual stream once after each sum, which is less work), its gradient is
squared and summed, pruning zeroes scales. Ours removes through torch-pruning's graph, but ranks
the channels itself; the peer runs its iterative global pruner with GroupTaylorImportance, which looks at the gradients
of one batch an event, and as many events for as many channels; its optimizer is made anew after each.
In a whole iteration each trains from the same weights, the masked network with its scales, which take their gradients
there too. What is fitted of both is compared by the widths that the fits give at a quarter of the parameters.
The numbers go to experiments/pruning_speed.json.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from record import write_result
from torch import Tensor, nn

from compressor.costs.params_macs import macs, params
from compressor.costs.solver import of_widths
from compressor.data import Batches, load_data
from compressor.dependency import ChannelRemover
from compressor.models import (
    build,
    example_input,
    follows,
    graph_of,
    prunable,
    reference_architecture,
    supports_channels_last,
)
from compressor.models.architecture import Architecture
from compressor.recipe import DataConfig
from compressor.search.methods.neuralscale import fit_power_law, widths_for
from compressor.search.taylor_pruner import PruneSettings, TaylorPruner

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=".data/cifar10")
    parser.add_argument("--network", default="vgg11_bn")
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--pretrain", type=float, default=3, help="epochs before pruning (the paper: 10)")
    parser.add_argument("--json", type=Path, default=HERE / "pruning_speed.json")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--every", type=int, default=20, help="steps between two pruning events (the paper: 50)")
    parser.add_argument("--channels", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--whole", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    data = load_data(DataConfig(name="imagefolder", path=arguments.data), seed=0)
    architecture = prunable(
        reference_architecture(arguments.network, {}, data.classes, data.input_shape, arguments.width)
    )
    torch.manual_seed(0)
    last = supports_channels_last(architecture, on_cpu=True, narrower=True)  # as a search asks
    memory_format = torch.channels_last if last else torch.contiguous_format
    start = build(architecture).to(memory_format=memory_format)
    batches = Batches(
        data.train, arguments.batch, seed=0, mean=data.mean, std=data.std, augment=("crop", "flip"), channels_last=last
    )
    if not arguments.whole:
        pretrain(start, batches, arguments.pretrain)
    settings = PruneSettings(arguments.every, arguments.channels, 0.05)
    physical = Physical(copy.deepcopy(start), architecture, settings)
    masked = Masked(copy.deepcopy(start), architecture, settings)
    peer = TorchPruning(copy.deepcopy(start), architecture, settings, memory_format)
    sides = {"physical": physical, "masked": masked, "torch_pruning": peer}
    pretraining = pretrain_in_turns(sides, batches, arguments.pretrain) if arguments.whole else []
    rows: list[dict] = []
    for feed in blocks(batches, arguments.every):
        present = architecture.with_widths(dict(zip(architecture.widths, physical.widths, strict=True)))
        theirs = peer.macs
        rows.append(
            in_turns(sides, len(rows), feed, "step")
            | {
                "widths": physical.widths,
                "masked_widths": masked.widths,
                "macs_share": macs(present) / macs(architecture),
                "torch_pruning_macs_share": theirs / macs(architecture),
            }
        )
        print(len(rows), *(f"{key} {rows[-1][key]:.3f}" for key in (*sides, "macs_share")), flush=True)
        if physical.done or masked.done:
            break
    settings_used = {name: value for name, value in vars(arguments).items() if name != "json"}
    settings_used["channels_last"] = last
    steps = len(rows) * arguments.every
    found = summarise(rows, steps) | {"settings": settings_used, "rows": rows}
    if arguments.whole:
        found |= whole(pretraining, rows) | {"widths_at_a_quarter": at_a_quarter(architecture, rows)}
    write_result(arguments.json, found)


def in_turns(sides: dict, turn: int, feed: list[tuple[Tensor, Tensor]], step: str) -> dict:
    """CPU and wall seconds of every side for the same batches, beginning with another side each turn."""
    names, seconds = list(sides), {}
    for name in names[turn % len(names) :] + names[: turn % len(names)]:
        began, began_cpu = time.perf_counter(), time.process_time()
        for x, y in feed:
            getattr(sides[name], step)(x, y)
        seconds[name] = time.process_time() - began_cpu
        seconds[f"{name}_wall"] = time.perf_counter() - began
    return seconds


def pretrain_in_turns(sides: dict, batches: Batches, epochs: float) -> list[dict]:
    """Pre-training of every side on the same batches, ten at a time; then with the learning rate of pruning."""
    for side in sides.values():
        side.optimizer = optimizer(side.model, 0.1)
    rows: list[dict] = []
    steps = round(epochs * len(batches))
    for feed in blocks(batches, 10):
        rows.append(in_turns(sides, len(rows), feed, "train_step"))
        print("pre-training", *(f"{name} {rows[-1][name]:.3f}" for name in sides), flush=True)
        if 10 * len(rows) >= steps:
            break
    for side in sides.values():
        side.begin()
    return rows


def whole(pretraining: list[dict], rows: list[dict]) -> dict[str, object]:
    """Seconds of pre-training and pruning together, and of the masked network's what ours and the peer's take."""
    sides = ("physical", "masked", "torch_pruning")
    total = {name: sum(row[name] for row in (*pretraining, *rows)) for name in sides}
    return {
        "pretraining_seconds": {name: sum(row[name] for row in pretraining) for name in sides},
        "whole_seconds": total,
        "whole_ratio": total["physical"] / total["masked"],
        "whole_ratio_torch_pruning": total["torch_pruning"] / total["masked"],
    }


def at_a_quarter(architecture: Architecture, rows: list[dict]) -> dict[str, list[int]]:
    """Widths that the power laws fitted to each trajectory give at a quarter of the parameters."""
    found, names = {}, list(architecture.widths)
    cost = of_widths(architecture, lambda one: float(params(one)))
    for name, key in (("physical", "widths"), ("masked", "masked_widths")):
        kept = [
            row[key] for row in rows if all(a < b for a, b in zip(row[key], architecture.widths.values(), strict=True))
        ]
        kept = [one for one in kept if min(one) > 0]
        sizes = [params(architecture.with_widths(dict(zip(names, one, strict=True)))) for one in kept]
        fit = fit_power_law(sizes, kept)
        found[name] = widths_for(*fit, cost, 0.25 * params(architecture)).tolist()
    return found


def pretrain(model: nn.Module, batches: Batches, epochs: float) -> None:
    """As the search does before it prunes: what pruning removes first depends on it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5, weight_decay=5e-4)
    steps = round(epochs * len(batches))
    for step in range(steps):
        x, y = next(batches.epoch(1000 + step // len(batches), step % len(batches)))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()


def blocks(batches: Batches, size: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Batches of endless epochs, `size` at a time."""
    block, epoch = [], 0
    while True:
        for pair in batches.epoch(epoch):
            block.append(pair)
            if len(block) == size:
                yield block
                block = []
        epoch += 1


def summarise(rows: list[dict], steps: int) -> dict[str, object]:
    sides = ("physical", "masked", "torch_pruning")
    total = {key: sum(row[key] for row in rows) for side in sides for key in (side, f"{side}_wall")}
    return {
        "seconds": total,
        "steps_per_second": {side: steps / total[side] for side in sides},
        "ratio": total["physical"] / total["masked"],
        "ratio_wall": total["physical_wall"] / total["masked_wall"],
        "ratio_torch_pruning": total["torch_pruning"] / total["masked"],
        "events": len(rows),
        "events_with_the_same_widths": sum(row["widths"] == row["masked_widths"] for row in rows),
        "mean_macs_share": sum(row["macs_share"] for row in rows) / len(rows),
        "mean_macs_share_torch_pruning": sum(row["torch_pruning_macs_share"] for row in rows) / len(rows),
    }


class Physical:
    """The product's pruner."""

    def __init__(self, model: nn.Module, architecture: Architecture, settings: PruneSettings) -> None:
        self.model = model.train()
        self.optimizer = optimizer(model)
        graph, groups, following = graph_of(architecture), list(architecture.widths), follows(architecture)
        losing = [name for name in (*groups, *following) if graph.groups[name].exact]
        remover = ChannelRemover(self.model, graph, example_input(architecture), losing)
        self.pruner = TaylorPruner(graph, groups, following, settings, remover)
        self.groups = groups
        self.done = False
        self.begin()

    @property
    def widths(self) -> list[int]:
        return [self.pruner.widths[name] for name in self.groups]

    def train_step(self, x: Tensor, y: Tensor) -> None:
        train_step(self, x, y)

    def begin(self) -> None:
        self.optimizer = optimizer(self.model)
        self.pruner.start(self.model, self.optimizer, 1)

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(self.model(x), y).backward()
        self.pruner.after_backward()
        self.optimizer.step()
        self.done = self.pruner.after_step() or self.done


class Masked:
    """The paper's way: scales after the batch-norms of a network that keeps its size."""

    def __init__(self, model: nn.Module, architecture: Architecture, settings: PruneSettings) -> None:
        self.model, self.settings = model.train(), settings
        graph, parameters = graph_of(architecture), dict(model.named_parameters())
        self.scales = [nn.Parameter(torch.ones(architecture.widths[name])) for name in architecture.widths]
        of_group = dict(zip(architecture.widths, self.scales, strict=True))
        self.makes: list[tuple[nn.Parameter, nn.Parameter]] = []  # (parameter, scale of the channels that it makes)
        for (name, dim), owners in graph.owners.items():
            group = graph.order[owners.group[0]] if (owners.group == owners.group[0]).all() else None
            scale = of_group.get(group) if group is not None and owners.group[0] >= 0 else None
            if dim == 0 and name in parameters and scale is not None and len(scale) == parameters[name].shape[0]:
                self.makes.append((parameters[name], scale))
        scale_of = {id(parameter): scale for parameter, scale in self.makes}
        self._mask([module for module in model.modules() if isinstance(module, nn.BatchNorm2d)], scale_of)
        example = example_input(architecture)
        leaking = {id(scale) for scale in self.scales if self._leaks(scale, example)}
        if leaking:  # as the last sum of PreAct-ResNet, which no batch-norm follows: what is summed is masked too
            of_leaking = {key: scale for key, scale in scale_of.items() if id(scale) in leaking}
            self._mask([module for module in model.modules() if isinstance(module, nn.Conv2d)], of_leaking)
        if any(self._leaks(scale, example) for scale in self.scales):
            raise SystemExit("channels of this network are read around its batch-norms, and cannot be masked there")
        self.optimizer = optimizer(model)
        self.criteria = [torch.zeros_like(scale) for scale in self.scales]
        self.steps, self.done = 0, False

    def _mask(self, modules: list[Any], scale_of: dict[int, nn.Parameter]) -> None:
        """Multiply what modules give by the scales of their channels."""
        for module in modules:
            if (found := scale_of.get(id(module.weight))) is not None:
                module.register_forward_hook(lambda module, inputs, output, scale=found: output * scale[:, None, None])

    def _leaks(self, scale: nn.Parameter, example: Tensor) -> bool:
        """Whether a channel is still read although its scale is 0."""
        self.model.eval()
        made = [parameter for parameter, own in self.makes if own is scale and parameter.dim() == 4]
        with torch.no_grad():
            scale[0] = 0
        grads = torch.autograd.grad(self.model(torch.randn_like(example)).square().sum(), made)
        with torch.no_grad():
            scale[0] = 1
        self.model.train()
        return any(bool(grad[0].any()) for grad in grads)

    @property
    def widths(self) -> list[int]:
        return [int((scale.detach() > 0).sum()) for scale in self.scales]

    def train_step(self, x: Tensor, y: Tensor) -> None:
        for scale in self.scales:
            scale.grad = None
        train_step(self, x, y)

    def begin(self) -> None:
        self.optimizer = optimizer(self.model)

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        for scale in self.scales:
            scale.grad = None
        nn.functional.cross_entropy(self.model(x), y).backward()
        for total, scale in zip(self.criteria, self.scales, strict=True):
            total += scale.grad.square()
        self.optimizer.step()
        self.steps += 1
        if self.steps % self.settings.every == 0:
            self.prune()

    @torch.no_grad()
    def prune(self) -> None:
        alive = torch.cat([scale.detach() for scale in self.scales]) > 0
        criteria = torch.cat(self.criteria).masked_fill(~alive, torch.inf)
        worst = criteria.argsort(stable=True)[: self.settings.channels]
        keep = torch.ones_like(criteria).index_fill_(0, worst, 0).split([len(scale) for scale in self.scales])
        for scale, kept in zip(self.scales, keep, strict=True):
            scale *= kept
        for parameter, scale in self.makes:
            buffer = self.optimizer.state[parameter]["momentum_buffer"]
            buffer *= (scale > 0).view(-1, *[1] * (buffer.dim() - 1))
        for total in self.criteria:
            total.zero_()
        self.done = any(width == 0 for width in self.widths)


class TorchPruning:
    """torch-pruning's own iterative pruner."""

    def __init__(
        self, model: nn.Module, architecture: Architecture, settings: PruneSettings, memory_format: torch.memory_format
    ) -> None:
        import torch_pruning as tp

        self.model, self.settings, self.example = model, settings, example_input(architecture)
        self.memory_format = memory_format
        channels = sum(architecture.widths.values())
        self.pruner = tp.pruner.BasePruner(
            model,
            example_input(architecture),
            importance=tp.importance.GroupTaylorImportance(),
            global_pruning=True,
            pruning_ratio=1 - settings.floor,
            iterative_steps=round(channels * (1 - settings.floor) / settings.channels),
            ignored_layers=[module for module in model.modules() if isinstance(module, nn.Linear)],
        )
        self.model.train()
        self.optimizer = optimizer(model)
        self.steps = 0

    @property
    def macs(self) -> int:
        """Multiply-adds of one image."""
        found: list[int] = []

        def count(module: Any, inputs: Any, output: Tensor) -> None:
            positions = output.numel() // output.shape[0] // output.shape[1]
            found.append(module.weight.numel() * positions)

        layers = [module for module in self.model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        hooks = [layer.register_forward_hook(count) for layer in layers]
        self.model.eval()
        with torch.no_grad():
            self.model(self.example)
        self.model.train()
        for hook in hooks:
            hook.remove()
        return sum(found)

    def train_step(self, x: Tensor, y: Tensor) -> None:
        train_step(self, x, y)

    def begin(self) -> None:
        self.optimizer = optimizer(self.model)

    def step(self, x: Tensor, y: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(self.model(x), y).backward()
        self.optimizer.step()
        self.steps += 1
        if self.steps % self.settings.every == 0:
            self.pruner.step()
            self.model.to(memory_format=self.memory_format)  # its slices are in plain order, which may be slower
            self.optimizer = optimizer(self.model)


def train_step(side: Any, x: Tensor, y: Tensor) -> None:
    side.optimizer.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(side.model(x), y).backward()
    side.optimizer.step()


def optimizer(model: nn.Module, lr: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.5, weight_decay=5e-4)


if __name__ == "__main__":
    main()
