"""The width-configurable zoo and references to other networks: from an `Architecture` to an nn.Module.

    vgg11_bn                     a network of the zoo, built at any widths
    torchvision:resnet18         a torchvision network, resized as compressor.widths says
    timm:resnet10t               the same of timm (pip install 'onnx-compressor[timm]')
    mypackage.nets:make_net      your factory; called with num_classes= if it takes it, and the recipe's options
    onnx:net.onnx                a network of an ONNX file (pip install 'onnx-compressor[onnx]')
    given:NAME                   a network that this process holds, see `offer`

Third parties add families through the entry-point group `compressor.models` (name → `Family`).
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from compressor.architecture import Architecture
from compressor.errors import ModelError, not_one_of
from compressor.initialise import reinitialise_
from compressor.models import growing_nets, lenet, lstm, mlp, mobilenet, mobilenetv1, resnet, vgg, wideresnet
from compressor.models.references import carries_weights, cause_of, factory_of
from compressor.models.references import offer as offer
from compressor.models.zoo import Family, Option, Shape, Unit
from compressor.plugins import with_plugins
from compressor.stacking import stack_
from compressor.widths import WidthPlan, plan_widths, resize_

ZOO: dict[str, Family] = {
    **vgg.FAMILIES,
    **resnet.FAMILIES,
    **wideresnet.FAMILIES,
    **growing_nets.FAMILIES,
    **mobilenetv1.FAMILIES,
    **mobilenet.FAMILIES,
    **mlp.FAMILIES,
    **lenet.FAMILIES,
    **lstm.FAMILIES,
}


# (shape of the inputs, classes) -> shape of the logits
_LOGITS: dict[str, Callable[[Shape, int], Shape]] = {
    "classification": lambda inputs, classes: (inputs[0], classes),
    "segmentation": lambda inputs, classes: (inputs[0], classes, *inputs[2:]),
    "language": lambda inputs, classes: (*inputs, classes),
}

_FILLS = {
    *(torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.zero_, torch.Tensor.fill_),
    *(nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_),
}


def families() -> dict[str, Family]:
    """All families by name, those of installed plug-ins included."""
    return with_plugins("compressor.models", ZOO)


def reference_architecture(
    model: str,
    options: Mapping[str, Any],
    classes: int,
    input_shape: Shape,
    width: float = 1.0,
) -> Architecture:
    """The unscaled network of a recipe.

    Args:
        model: zoo name or reference
        options: of that model; unknown ones are refused
        classes: number of outputs; the vocabulary of a language model
        input_shape: of one sample: (C, H, W), or (T,) tokens
        width: multiplier of every default width, rounded down, at least one channel

    Raises:
        ModelError: unknown model or option, or inputs that are not the network's or too small for it
    """
    if ":" not in model:
        family = _family(model)
        options = _complete(model, family, options)
        _check_inputs(model, family, input_shape)
        widths = family.widths(options)
    else:
        widths = _referenced(model, json.dumps(dict(options), sort_keys=True), classes, input_shape)[1].widths
    unscaled = Architecture(model, classes, input_shape, widths, dict(options))
    step = steps(unscaled)
    return unscaled.with_widths(
        {name: max(1, int(channels * width) // step[name]) * step[name] for name, channels in widths.items()}
    )


def check_reference(model: str, options: Mapping[str, Any]) -> None:
    """Refuse an unknown model or option before anything slow begins.

    Raises:
        ModelError: unknown model or option, or a module that cannot be imported
    """
    if ":" in model:
        factory_of(model)
    else:
        _complete(model, _family(model), options)


def build(architecture: Architecture, seed: int = 0) -> nn.Module:
    """Build a network with fresh weights; the same seed gives the same weights.

    Raises:
        ModelError: unknown model, option or width name, or a width that this network cannot have
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: that reaches the GPUs' generators too
        model = _build_zoo(architecture) if ":" not in architecture.model else _build_referenced(architecture)
        stack_(model, architecture.stacks)
        return model


def _build_referenced(architecture: Architecture) -> nn.Module:
    plan = referenced(architecture)[1]
    fresh = factory_of(architecture.model)(architecture.classes, architecture.options)
    if carries_weights(architecture.model):
        _redraw_(fresh)
    if plan.widths == dict(architecture.widths):
        return fresh
    resized = copy.deepcopy(fresh)
    resize_(resized, plan, architecture.widths)
    _check_logits(architecture.model, resized, architecture.classes, example_input(architecture))
    reinitialise_(resized, fresh)
    return resized


def _redraw_(model: nn.Module) -> None:
    """Give layers fresh weights in torch's own manner."""
    for module in model.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()


def build_meta(architecture: Architecture) -> nn.Module:
    """Build the network without memory for its weights, to count what it costs."""
    own = referenced(architecture) if ":" in architecture.model else None  # to be watched as it runs, it needs weights
    with torch.device("meta"), _Unfilled():
        if own is None:
            built = _build_zoo(architecture)
        else:
            built = copy.deepcopy(own[0])
            resize_(built, own[1], architecture.widths)
        stack_(built, architecture.stacks)
        return built


class _Unfilled(TorchFunctionMode):
    """Leaves out filling tensors that have no memory for values, which takes milliseconds a layer all the same."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FILLS and (tensor := args[0] if args else kwargs["tensor"]).is_meta:
            return tensor
        return func(*args, **kwargs)


def referenced(architecture: Architecture) -> tuple[nn.Module, WidthPlan]:
    """The network that a reference names, at its own widths on the meta device, and its plan; not to be changed.

    Raises:
        ModelError: a width name of the architecture is unknown or missing
    """
    model, plan = _referenced(*_key(architecture))
    _check_names(architecture, plan.widths)
    return model, plan


def follows(architecture: Architecture) -> dict[str, tuple[str, int]]:
    """Groups that are not searched because their width is a multiple of a searched one: {name: (searched, factor)}."""
    if ":" in architecture.model:
        return {}
    return _family(architecture.model).follows(architecture.options)


def prunable(architecture: Architecture) -> Architecture:
    """The network to prune for the widths of an architecture: same widths, each of which loses channels by itself."""
    if ":" in architecture.model:
        return architecture
    return replace(architecture, options=_family(architecture.model).prunable(architecture.options))


def with_options(architecture: Architecture, **options: Any) -> Architecture:
    """The same network with some options changed: groups that stay keep their width, new ones have the default.

    Raises:
        ModelError: an unknown option, or a value that is not allowed
    """
    options = {**architecture.options, **options}
    fresh = reference_architecture(architecture.model, options, architecture.classes, architecture.input_shape)
    return fresh.with_widths({name: architecture.widths.get(name, width) for name, width in fresh.widths.items()})


def units(architecture: Architecture) -> dict[str, Unit]:
    """{module path: unit} of what layer-growing may leave out, in the order of the network; none for most networks."""
    if ":" in architecture.model:
        return {}
    family = _family(architecture.model)
    return family.units(_complete(architecture.model, family, architecture.options))


def with_units(architecture: Architecture, present: Collection[str]) -> Architecture:
    """The network of some of its units only, at the widths that these have.

    Args:
        architecture: of a network with `units`
        present: module paths of the units that stay

    Raises:
        ModelError: an unknown unit, or one that cannot be left out is missing
    """
    known = units(architecture)
    if unknown := set(present) - set(known):
        raise ModelError(f"units of {architecture.model}: {not_one_of(min(unknown), known)}")
    if missing := [path for path, unit in known.items() if not unit.detachable and path not in present]:
        raise ModelError(f"units of {architecture.model}: {missing[0]} is missing, which cannot be left out")
    stages: dict[str, list[int]] = {}
    for path, unit in known.items():
        if path in present:
            stages.setdefault(unit.stage, []).append(unit.number)
    return with_options(architecture, units=list(stages.values()))


def plan_of(architecture: Architecture) -> WidthPlan:
    """The width plan of an architecture's network.

    Raises:
        ModelError: the network cannot be traced
    """
    if ":" in architecture.model:  # planned at its own widths: narrower ones may hide what goes together
        return referenced(architecture)[1].at(architecture.widths)
    return _zoo_plan(architecture.to_json(), _Same(_family(architecture.model)))


@dataclass(frozen=True, eq=False)
class _Same:
    """A family as a key: equal to itself only."""

    family: Family

    def __hash__(self) -> int:
        return id(self.family)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.family is self.family


@lru_cache(maxsize=32)
def _zoo_plan(text: str, same: _Same) -> WidthPlan:
    """`plan_of` a network of the zoo: tracing takes a second, and a run asks for the same plan several times."""
    architecture = Architecture.from_json(text)
    # One channel more everywhere keeps equal widths equal, and a single channel is told from none.
    wider = replace(
        architecture,
        widths={name: width + 1 for name, width in architecture.widths.items()},
        options=same.family.traced(architecture.options),
    )
    plan = plan_widths(build_meta(wider), _long_enough(example_input(architecture)))
    searched = {*architecture.widths, *follows(architecture)}
    others = [name for name in plan.groups if name not in searched]
    plan = plan.fixing({name: f"{name}: its width is part of {architecture.model}" for name in others})
    built = {name: parameter.shape for name, parameter in build_meta(architecture).named_parameters()}
    widths = {}
    for name, group in plan.groups.items():
        made = plan.producers(name)[0]
        widths[name] = built[made.tensor][made.dim] * group.channels // len(made.index)
    return plan.at(widths)


def stackable(architecture: Architecture, strategy: str, width: float = 1.0) -> tuple[Architecture, list[str] | None]:
    """The network in the form whose pairs of layers a strategy stacks, and the first layers of these pairs.

    Args:
        architecture: of the network
        strategy: all, r or alternate (see `compressor.stacking.select`)
        width: multiplier of the default widths, for groups that only this form has

    Returns:
        None for the first layers: the family has no form of its own for that, its eligible pairs will do
    """
    if ":" in architecture.model:
        return architecture, None
    family = _family(architecture.model)
    form = family.stackable(_complete(architecture.model, family, architecture.options), architecture.input_shape)
    if strategy not in form:
        return architecture, None
    options, widths, firsts = form[strategy]
    fresh = reference_architecture(
        architecture.model, {**architecture.options, **options}, architecture.classes, architecture.input_shape, width
    )
    kept = {name: architecture.widths.get(name, own) for name, own in fresh.widths.items()}
    return fresh.with_widths({**kept, **widths}), list(firsts)


def steps(architecture: Architecture) -> dict[str, int]:
    """{group: what its width must be a multiple of}, above 1 where parts of a layer must keep equal sizes."""
    if ":" not in architecture.model:
        return dict.fromkeys(architecture.widths, 1)
    return referenced(architecture)[1].steps


def example_input(architecture: Architecture, batch: int = 2) -> torch.Tensor:
    """Zeros of the network's input shape: (batch, C, H, W), or int64 (batch, T) for one that takes tokens."""
    return _example(architecture.model, architecture.input_shape, batch)


_SAFE = 16  # channels: twice what an AVX2 register holds, since AVX-512's are twice as long


def _strided_pointwise(module: nn.Conv2d) -> bool:
    return max(module.kernel_size) == 1 and max(module.stride) > 1


def supports_channels_last(architecture: Architecture, *, on_cpu: bool = False, narrower: bool = False) -> bool:
    """Whether a network can train in torch's channels-last memory format.

    It convolves images and does not view its maps as they lie in memory. On a CPU it has no 1×1 convolution with a
    stride that reads few channels: oneDNN's kernel for the gradient of its weights (jit_1x1:avx2, torch 2.14) then
    writes beyond its buffer, which valgrind shows below 8 channels, and the process dies.

    Args:
        architecture: the network
        on_cpu: whether it trains on the CPU
        narrower: whether its widths will fall while it trains
    """
    if len(architecture.input_shape) != 3:
        return False
    convolutions = [module for module in build_meta(architecture).modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        return False
    if on_cpu and any(_strided_pointwise(m) and (narrower or m.in_channels < _SAFE) for m in convolutions):
        return False
    # Real tensors: what memory format a convolution gives is up to its kernel.
    model = build(architecture).to(memory_format=torch.channels_last).eval()
    images = example_input(architecture).to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            model(images)
    except RuntimeError:  # view size is not compatible
        return False
    return True


def takes_tokens(model: str, input_shape: Shape) -> bool:
    """Whether a network's input is tokens: the family says so; a network outside the zoo has an input shape of (T,)."""
    return len(input_shape) == 1 if ":" in model else _family(model).inputs == "tokens"


def check_task(architecture: Architecture, task: str) -> None:
    """Refuse a network whose output is not what a task needs.

    Args:
        architecture: with the input shape of the data
        task: classification: logits (N, classes); segmentation: (N, classes, H, W) with the images' H and W;
            language: (N, T, classes)

    Raises:
        ModelError: another output, or the network does not run
    """
    example = example_input(architecture).to("meta")
    try:
        with torch.no_grad():
            output = build_meta(architecture).eval()(example)
    except Exception as error:  # the network's own code decides what it raises
        raise ModelError(f"model.name: {architecture.model} does not run: {cause_of(error)}") from error
    made = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    needed = _LOGITS[task](tuple(example.shape), architecture.classes)
    if made != needed:
        raise ModelError(
            f"model.name: {architecture.model} gives {made} for inputs of shape {tuple(example.shape)}, "
            f"but the data's task is {task}, which needs logits of shape {needed}"
        )


def _example(model: str, input_shape: Shape, batch: int) -> torch.Tensor:
    kind = torch.int64 if takes_tokens(model, input_shape) else torch.float32
    return torch.zeros(batch, *input_shape, dtype=kind)


def _long_enough(example: torch.Tensor) -> torch.Tensor:
    """At least two tokens: only the second shows what a recurrent layer reads of itself."""
    return example.expand(-1, 2) if example.dim() == 2 and example.shape[1] == 1 else example


def _check_inputs(model: str, family: Family, input_shape: Shape) -> None:
    shown, sides = "×".join(map(str, input_shape)), input_shape[1:]
    if family.inputs == "tokens":
        if len(input_shape) != 1:
            raise ModelError(f"model.name: {model} needs sequences of tokens, these inputs are {shown} (see data)")
    elif len(input_shape) != 3:
        raise ModelError(f"model.name: {model} needs images, these inputs are sequences of {shown} tokens (see data)")
    elif min(sides) < family.min_side:
        raise ModelError(
            f"model.name: {model} needs images of at least {family.min_side}×{family.min_side} pixels, "
            f"these have {sides[0]}×{sides[1]} (see data.image_size)"
        )


def _family(name: str) -> Family:
    known = families()
    if name not in known:
        raise ModelError(
            f"model.name: {not_one_of(name, known)}, and no reference such as torchvision:NAME, timm:NAME or "
            "package.module:factory"
        )
    return known[name]


def _complete(name: str, family: Family, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a family, defaults filled in."""
    if unknown := set(options) - set(family.options):
        names = list(family.options) or ["(none)"]
        raise ModelError(f"model.options of {name}: {not_one_of(min(unknown), names)}")
    complete = {}
    for option, known in family.options.items():
        if isinstance(known, Option):
            complete[option] = known.complete(options.get(option, known.default))
            continue
        default, *valid = known
        complete[option] = options.get(option, default)
        if complete[option] not in valid:
            raise ModelError(f"model.options.{option}: {not_one_of(complete[option], valid)}")
    return complete


def _build_zoo(architecture: Architecture) -> nn.Module:
    family = _family(architecture.model)
    options = _complete(architecture.model, family, architecture.options)
    _check_names(architecture, family.widths(options), family.follows(options))
    return family.build(architecture.widths, options, architecture.classes, architecture.input_shape)


def _check_names(architecture: Architecture, known: Mapping[str, int], more: Collection[str] = ()) -> None:
    if unknown := set(architecture.widths) - {*known, *more}:
        raise ModelError(f"widths of {architecture.model}: {not_one_of(min(unknown), known)}")
    if missing := set(known) - set(architecture.widths):
        raise ModelError(f"widths of {architecture.model}: {min(missing)} is missing")


def _key(architecture: Architecture) -> tuple[str, str, int, Shape]:
    options = json.dumps(dict(architecture.options), sort_keys=True)
    return architecture.model, options, architecture.classes, architecture.input_shape


@lru_cache(maxsize=16)
def _referenced(model: str, options: str, classes: int, input_shape: Shape) -> tuple[nn.Module, WidthPlan]:
    """The referenced network on the meta device, at its own widths, and its width plan."""
    with torch.random.fork_rng(devices=[]):
        built = factory_of(model)(classes, json.loads(options))
    example = _example(model, input_shape, 2)
    plan = plan_widths(built, example)
    if not plan.groups:
        reasons = "; ".join(plan.fixed.values()) or "it has no layers with a width"
        raise ModelError(f"model.name: {model} cannot be resized: {reasons}")
    _check_logits(model, built, classes, example)
    return built.to("meta"), plan


def _check_logits(name: str, model: nn.Module, classes: int, example: torch.Tensor) -> None:
    """Refuse a network that gives no task's logits (see `check_task`), in training as in evaluation.

    In training there may be more of them, from auxiliary heads, behind the network's own (`compressor.training`).
    """
    trial = copy.deepcopy(model).to("meta")
    inputs = tuple(example.shape)
    tasks = ("classification", "language") if len(inputs) == 2 else ("classification", "segmentation")
    allowed = [_LOGITS[task](inputs, classes) for task in tasks]
    for training in (True, False):
        try:
            with torch.no_grad():
                output = trial.train(training)(example.to("meta"))
        except Exception as error:  # the network's own code decides what it raises
            raise ModelError(f"model.name: {name} does not run at these widths: {cause_of(error)}") from error
        heads = [head for head in output if head is not None] if training and isinstance(output, tuple) else [output]
        for head in heads:
            shape = tuple(head.shape) if isinstance(head, torch.Tensor) else type(head).__name__
            if shape not in allowed:
                mode = "training" if training else "evaluation"
                raise ModelError(
                    f"model.name: {name} gives {shape} in {mode} for {len(example)} samples, "
                    f"but must give logits of shape {' or '.join(map(str, allowed))}"
                )
