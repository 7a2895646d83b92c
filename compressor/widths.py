"""Width groups of a network: which channels must change together, and changing them.

torch-pruning's dependency graph says which layers are coupled (Fang et al. 2023, "DepGraph"). From it a `WidthPlan`
notes, for every input and output side of every layer, which channel of which group each position belongs to. The
plan is made once; removing or adding channels is then direct slicing, and returns the plan of the changed network.

    conv1 (13) ── bn1 ──┬── conv2 (23) ──       conv1 out: a a a …      bn1 out: a a a …
                        └── conv3 (29) ──       conv2 in:  a a a …      conv2 out: b b b …

This is the only module that imports torch_pruning.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from compressor.errors import ModelError, not_one_of

Side = tuple[str, str]  # (module path, "in" or "out")
_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NEW = -1  # in a selection: a channel that the old network does not have


@dataclass(frozen=True)
class WidthGroup:
    """Channels that must be resized together.

    Attributes:
        name: module path of the first producing layer
        channels: present width
        norm: path of the affine batch-norm, with a ReLU behind it, between the group's only producing layer and the
            layers that read it; None if anything else is on the way
    """

    name: str
    channels: int
    norm: str | None


@dataclass(frozen=True)
class WidthPlan:
    """All resizable groups of one network at its present widths.

    Attributes:
        groups: {name: group}
        owners: {(module path, side): one (group name, channel) or None per position}
        fixed: {group name: reason} of what cannot be resized, such as the output layer
    """

    groups: Mapping[str, WidthGroup]
    owners: Mapping[Side, tuple[tuple[str, int] | None, ...]] = field(repr=False)
    fixed: Mapping[str, str] = field(default_factory=dict)

    @property
    def widths(self) -> dict[str, int]:
        """{group name: channels}."""
        return {name: group.channels for name, group in self.groups.items()}


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, _CONVS) and module.groups > 1 and module.groups == module.in_channels


def _refusal(path: str, module: nn.Module) -> str | None:
    """Why this layer cannot be resized, or None if it can."""
    if "weight" not in dict(module.named_parameters(recurse=False)) and not isinstance(module, _NORMS):
        return f"{path}: its weight is computed from other parameters"
    if isinstance(module, _CONVS):
        if module.groups == 1 or (_is_depthwise(module) and module.out_channels == module.in_channels):
            return None
        return f"{path}: a convolution in {module.groups} groups cannot be resized"
    if isinstance(module, (nn.Linear, *_NORMS)):
        return None
    return f"{path}: a layer of type {type(module).__name__} cannot be resized"


def _dependency_groups(model: nn.Module, example: torch.Tensor) -> tuple[Any, list[Any]]:
    import torch_pruning as tp  # heavy, and only planning needs it

    for parameter in model.parameters():
        parameter.requires_grad_(True)  # torch-pruning follows autograd's graph
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        graph = tp.DependencyGraph().build_dependency(model, example_inputs=(example,), verbose=False)
        return graph, list(graph.get_all_groups(ignored_layers=[]))


def _items(group: Any, graph: Any, paths: Mapping[nn.Module, str]) -> Iterator[tuple[str, nn.Module, str, Any]]:
    """Yield (path, module, side, item) of the layers in a torch-pruning group."""
    for item in group:
        module = item.dep.target.module
        if module not in paths:
            continue  # an operation without weights (add, concat, flatten), or a bare parameter: the trial will tell
        outward = graph.is_out_channel_pruning_fn(item.dep.handler)
        yield paths[module], module, "out" if outward or _is_depthwise(module) else "in", item


def _positions(path: str, module: nn.Module, side: str) -> int:
    if isinstance(module, _CONVS):
        return module.out_channels if side == "out" else module.in_channels
    if isinstance(module, nn.Linear):
        return module.out_features if side == "out" else module.in_features
    if isinstance(module, _NORMS):
        return module.num_features
    raise ModelError(f"{path}: a layer of type {type(module).__name__} cannot be resized")


def _norm(outward: Mapping[str, nn.Module], graph: Any) -> str | None:
    """The batch-norm of a group whose channels pass through one producer, that batch-norm, and nothing else."""
    if len(outward) != 2:
        return None
    (_, made), (path, norm) = sorted(outward.items(), key=lambda pair: isinstance(pair[1], _NORMS))
    alone = [node.module for node in graph.module2node[made].outputs] == [norm]
    if not alone or not isinstance(norm, _NORMS) or not norm.affine:
        return None
    # Only behind a positively homogeneous function is the gate's place of no consequence.
    after = [getattr(node.grad_fn, "name", str)() for node in graph.module2node[norm].outputs]
    return path if after and all("ReluBackward" in name for name in after) else None


def plan_widths(model: nn.Module, example: torch.Tensor) -> WidthPlan:
    """Find the width groups of a network.

    Args:
        model: left as it is; a copy on the CPU is traced
        example: one batch of inputs, (N, …), at the real size

    Raises:
        ModelError: it does not run, its layers share parameters, or torch-pruning cannot trace it
    """
    example = example.cpu().float()
    traced = _copy(model)
    _check_runs(traced, example)
    _check_unshared(traced)
    order = {path: index for index, (path, _) in enumerate(traced.named_modules())}
    paths = {module: path for path, module in traced.named_modules()}
    try:
        graph, found = _dependency_groups(traced, example)
    except Exception as error:  # torch-pruning raises whatever its tracing ran into
        raise ModelError(
            f"{type(model).__name__}: torch-pruning cannot trace it: {type(error).__name__}: "
            f"{' '.join(str(error).split())}"
        ) from error
    groups: dict[str, WidthGroup] = {}
    owners: dict[Side, list[tuple[str, int] | None]] = {}
    refused: dict[str, str] = {}
    for entry in found:
        items = list(_items(entry, graph, paths))
        producing = sorted(
            {path: module for path, module, side, _ in items if side == "out" and _produces(module)}.items(),
            key=lambda pair: order[pair[0]],
        )
        if not producing:
            continue  # a depth-wise layer on the images themselves
        name = producing[0][0]
        channels = len(entry[0].idxs)
        outward = {path: module for path, module, side, _ in items if side == "out"}
        groups[name] = WidthGroup(name, channels, _norm(outward, graph))
        for path, module, side, item in items:
            if reason := _refusal(path, module):
                refused[name] = reason
                continue
            slots = owners.setdefault((path, side), [None] * _positions(path, module, side))
            refused |= _claim(slots, path, name, item)
    groups = {name: groups[name] for name in sorted(groups, key=order.__getitem__)}
    plan = WidthPlan(groups, {side: tuple(slots) for side, slots in owners.items()}, refused)
    return _without_fixed(traced, plan, example)


def _claim(slots: list[tuple[str, int] | None], path: str, name: str, item: Any) -> dict[str, str]:
    """Note a group's positions in one side of a layer; {group: reason} of those that cannot be told apart."""
    refused: dict[str, str] = {}
    for position, channel in zip(item.idxs, item.root_idxs, strict=True):
        if position >= len(slots):
            return {name: f"{path}: torch-pruning maps it to a channel {position} that it does not have"}
        other = slots[position]
        if other not in (None, (name, channel)):
            assert other is not None
            refused |= dict.fromkeys((name, other[0]), f"{path}: its channel {position} belongs to two width groups")
        slots[position] = (name, channel)
    return refused


def _copy(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model).cpu().float()
    except Exception as error:  # old hooks, such as nn.utils.weight_norm, forbid it
        reason = " ".join(str(error).split())
        raise ModelError(f"{type(model).__name__}: it cannot be copied: {reason}") from error


def _check_unshared(model: nn.Module) -> None:
    holders: dict[nn.Parameter, str] = {}
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if parameter in holders:
                raise ModelError(
                    f"{type(model).__name__}: {holders[parameter]} and {path} share a parameter, which is not supported"
                )
            holders[parameter] = path


def _check_runs(model: nn.Module, example: torch.Tensor) -> None:
    try:
        with torch.no_grad():
            model.eval()(example)
    except Exception as error:  # whatever the network's own code raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{type(model).__name__} does not run on images of shape {tuple(example.shape[1:])}: {reason}"
        ) from error


def _produces(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, _CONVS) and not _is_depthwise(module))


def _without_fixed(model: nn.Module, plan: WidthPlan, example: torch.Tensor) -> WidthPlan:
    """Take the groups out of the plan that the network does not let change: try each on the meta device."""
    meta = copy.deepcopy(model).to("meta").eval()
    probe = example.to("meta")
    expected = _shapes(meta(probe))
    fixed = dict(plan.fixed)
    for name, group in plan.groups.items():
        if name in fixed:
            continue
        try:
            for select in _trials(group.channels):
                changed = _apply(meta, plan, {name: select})
                if _shapes(meta(probe)) != expected:
                    fixed[name] = f"{name}: its width is the network's output"
                restored = _apply(meta, changed, {name: _back(len(select), group.channels)})
                if restored.owners != plan.owners:
                    meta = copy.deepcopy(model).to("meta").eval()
        except Exception as error:  # the network's own code decides what it raises
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            fixed[name] = f"{name}: the network does not run with another width: {reason}"
            meta = copy.deepcopy(model).to("meta").eval()
    groups = {name: group for name, group in plan.groups.items() if name not in fixed}
    owners = {
        side: tuple(None if slot and slot[0] in fixed else slot for slot in slots)
        for side, slots in plan.owners.items()
    }
    return WidthPlan(groups, owners, fixed)


def _trials(channels: int) -> list[list[int]]:
    """Selections that a group must bear: one channel more and, if it can, one fewer at the front, and half."""
    trials = [[*range(channels), _NEW]]
    return trials if channels == 1 else [*trials, [*range(1, channels)], [*range(channels // 2)]]


def _back(present: int, channels: int) -> list[int]:
    return [channel if channel < present else _NEW for channel in range(channels)]


def _shapes(output: Any) -> list[tuple[int, ...]]:
    if isinstance(output, torch.Tensor):
        return [tuple(output.shape)]
    values: Iterable[Any] = output.values() if isinstance(output, Mapping) else output
    return [shape for value in values if value is not None for shape in _shapes(value)]


def _reindex(
    slots: Sequence[tuple[str, int] | None], select: Mapping[str, Sequence[int]]
) -> tuple[list[int], list[tuple[str, int] | None]]:
    """New positions of one side: the old position or _NEW for each, and who owns it.

    Positions of one group stand in runs of rising channels (one run for a plain layer, one per repetition where
    channels repeat); within a run a channel holds a block of positions (a flattened map holds H·W of them).
    """
    index: list[int] = []
    owners: list[tuple[str, int] | None] = []
    position = 0
    while position < len(slots):
        slot = slots[position]
        if slot is None or slot[0] not in select:
            index.append(position)
            owners.append(slot)
            position += 1
            continue
        name, last = slot[0], -1
        blocks: dict[int, list[int]] = {}
        while position < len(slots) and (s := slots[position]) is not None and s[0] == name and s[1] >= last:
            blocks.setdefault(s[1], []).append(position)
            last = s[1]
            position += 1
        size = len(blocks[last])
        for new, old in enumerate(select[name]):
            # A run may hold a part of the channels (a slice of a layer's output).
            block = [_NEW] * size if old == _NEW else blocks.get(old, [])
            index.extend(block)
            owners.extend([(name, new)] * len(block))
    return index, owners


def _pick(tensor: torch.Tensor, dim: int, index: torch.Tensor) -> torch.Tensor:
    """Rows of a tensor; a new row is zero."""
    picked = tensor.index_select(dim, index.clamp(min=0))
    if bool((index == _NEW).any()):
        shape = [1] * tensor.dim()
        shape[dim] = -1
        picked = picked * (index != _NEW).to(picked.dtype).view(shape)
    # index_select gives plain rows; convolutions are slower when weights and images differ in memory format.
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return picked.contiguous(memory_format=torch.channels_last) if last else picked


class _Slicer:
    """Replaces parameters and buffers by slices of themselves, in a module and in the optimizer."""

    def __init__(self, optimizer: torch.optim.Optimizer | None) -> None:
        self.optimizer = optimizer

    def cut(self, module: nn.Module, name: str, dim: int, index: torch.Tensor) -> None:
        old = getattr(module, name, None)
        if old is None:
            return
        index = index.to("cpu" if old.device.type == "meta" else old.device)
        if old.device.type == "meta":
            shape = [len(index) if axis == dim else size for axis, size in enumerate(old.shape)]
            sliced = torch.empty(shape, dtype=old.dtype, device="meta")
        else:
            sliced = _pick(old.detach(), dim, index)
        if not isinstance(old, nn.Parameter):
            setattr(module, name, sliced)
            return
        new = nn.Parameter(sliced, requires_grad=old.requires_grad)
        setattr(module, name, new)
        if self.optimizer is not None:
            self._follow(old, new, dim, index)

    def _follow(self, old: nn.Parameter, new: nn.Parameter, dim: int, index: torch.Tensor) -> None:
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["params"] = [new if parameter is old else parameter for parameter in group["params"]]
        if state := self.optimizer.state.pop(old, None):
            self.optimizer.state[new] = {
                key: _pick(value, dim, index) if isinstance(value, torch.Tensor) and value.shape == old.shape else value
                for key, value in state.items()
            }


def _cut(slicer: _Slicer, module: nn.Module, side: str, index: torch.Tensor) -> None:
    """Resize one side of one layer."""
    count = len(index)
    if isinstance(module, _NORMS):
        for name in ("weight", "bias", "running_mean", "running_var"):
            slicer.cut(module, name, 0, index)
        module.num_features = count
        return
    if not isinstance(module, (*_CONVS, nn.Linear)):
        raise ModelError(f"a layer of type {type(module).__name__} cannot be resized")
    slicer.cut(module, "weight", 0 if side == "out" else 1, index)
    if side == "out":
        slicer.cut(module, "bias", 0, index)
    if isinstance(module, nn.Linear):
        setattr(module, "out_features" if side == "out" else "in_features", count)
    elif _is_depthwise(module):
        module.out_channels = module.in_channels = module.groups = count
    else:
        setattr(module, "out_channels" if side == "out" else "in_channels", count)


def _apply(
    model: nn.Module,
    plan: WidthPlan,
    select: Mapping[str, Sequence[int]],
    optimizer: torch.optim.Optimizer | None = None,
) -> WidthPlan:
    slicer = _Slicer(optimizer)
    owners = dict(plan.owners)
    for (path, side), slots in plan.owners.items():
        if not any(slot is not None and slot[0] in select for slot in slots):
            continue
        index, new_slots = _reindex(slots, select)
        if not index:
            raise ModelError(f"{path}: no channel would be left to it")
        _cut(slicer, model.get_submodule(path), side, torch.tensor(index, dtype=torch.long))
        owners[path, side] = tuple(new_slots)
    groups = {
        name: replace(group, channels=len(select[name])) if name in select else group
        for name, group in plan.groups.items()
    }
    return WidthPlan(groups, owners, plan.fixed)


def remove_channels_(
    model: nn.Module,
    plan: WidthPlan,
    removed: Mapping[str, Iterable[int]],
    optimizer: torch.optim.Optimizer | None = None,
) -> WidthPlan:
    """Physically remove channels from a network, and their state from its optimizer.

    Args:
        model: changed in place; its parameters become new objects
        plan: of the model as it is now
        removed: {group name: channels to remove}
        optimizer: its parameter lists and per-parameter state follow

    Returns:
        the plan of the smaller network

    Raises:
        ModelError: an unknown group, or a group that would lose its last channel
    """
    select = {}
    for name, channels in removed.items():
        if name not in plan.groups:
            raise ModelError(f"width group {not_one_of(name, plan.groups)}")
        gone = set(channels)
        select[name] = [channel for channel in range(plan.groups[name].channels) if channel not in gone]
        if not select[name]:
            raise ModelError(f"width group {name}: cannot lose its last channel")
    return _apply(model, plan, select, optimizer)


class LayerSizes:
    """How long every side of every layer is, as a linear function of the widths: to count without resizing.

    Args:
        plan: of the network
    """

    def __init__(self, plan: WidthPlan) -> None:
        self.groups = list(plan.groups)
        column = {name: index for index, name in enumerate(self.groups)}
        self._row = {side: index for index, side in enumerate(plan.owners)}
        self._base = np.zeros(len(plan.owners), dtype=np.int64)
        self._slope = np.zeros((len(plan.owners), len(self.groups)), dtype=np.int64)
        for row, slots in enumerate(plan.owners.values()):
            held = Counter(None if slot is None else slot[0] for slot in slots)
            self._base[row] = held.pop(None, 0)
            for name, positions in held.items():
                assert name is not None
                self._slope[row, column[name]] = positions // plan.groups[name].channels

    def at(self, widths: Mapping[str, int]) -> Callable[[str, str, int], int]:
        """A function (module path, side, otherwise) → positions at these widths; `otherwise` for a fixed side."""
        lengths = self._base + self._slope @ np.array([widths[name] for name in self.groups], dtype=np.int64)

        def length(path: str, side: str, otherwise: int) -> int:
            row = self._row.get((path, side))
            return otherwise if row is None else int(lengths[row])

        return length


def parameter_sides(module: nn.Module) -> dict[str, tuple[tuple[int, str], ...]]:
    """Which dimensions of a resizable layer's parameters grow with which side: {name: ((dim, side), …)}."""
    if isinstance(module, _NORMS):
        return {"weight": ((0, "out"),), "bias": ((0, "out"),)}
    if _is_depthwise(module):
        return {"weight": ((0, "out"),), "bias": ((0, "out"),)}
    if isinstance(module, (nn.Linear, *_CONVS)):
        return {"weight": ((0, "out"), (1, "in")), "bias": ((0, "out"),)}
    return {}


def resize_(model: nn.Module, plan: WidthPlan, widths: Mapping[str, int]) -> WidthPlan:
    """Give groups another width, smaller or larger; the first channels keep their weights, new ones are zero.

    Call `compressor.initialise.reinitialise_` afterwards for a network to train from scratch.

    Raises:
        ModelError: an unknown group or one that cannot be resized, with the reason
    """
    select = {}
    for name, width in widths.items():
        if name in plan.fixed:
            raise ModelError(f"width group {name} cannot be resized: {plan.fixed[name]}")
        if name not in plan.groups:
            raise ModelError(f"width group {not_one_of(name, plan.groups)}")
        present = plan.groups[name].channels
        if width != present:
            select[name] = [channel if channel < present else _NEW for channel in range(width)]
    return _apply(model, plan, select)
