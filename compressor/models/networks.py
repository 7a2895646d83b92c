"""From an `Architecture` to an nn.Module, by the source that its model names."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.dependency import DependencyGraph
from compressor.dependency.inputs import AnyInputs
from compressor.errors import ModelError, not_one_of
from compressor.models.architecture import Architecture
from compressor.models.examples import given_example
from compressor.models.factory_source import FactorySource
from compressor.models.given_source import GivenSource
from compressor.models.onnx_source import OnnxSource
from compressor.models.referenced_source import ReferencedSource
from compressor.models.source import ModelSource
from compressor.models.stacked import stack_
from compressor.models.tasks import check_output
from compressor.models.timm_source import TimmSource
from compressor.models.torchvision_source import TorchvisionSource
from compressor.models.unfilled import on_meta
from compressor.models.zoo import Shape, Unit
from compressor.models.zoo_source import ZooSource
from compressor.recipe.model_name import ModelName

_SOURCES: dict[str, type[ModelSource]] = {
    "zoo": ZooSource,
    "torchvision": TorchvisionSource,
    "timm": TimmSource,
    "given": GivenSource,
    "onnx": OnnxSource,
    "factory": FactorySource,
}
_SAFE = 16  # channels: twice what an AVX2 register holds, since AVX-512's are twice as long


def source_of(model: str) -> ModelSource:
    """Where the network of a recipe's `model.name` comes from."""
    return _SOURCES[ModelName.of(model).source](model)


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
    source = source_of(model)
    unscaled = source.unscaled(options, classes, input_shape)
    step = source.steps(unscaled)
    return unscaled.with_widths(
        {name: max(1, int(channels * width) // step[name]) * step[name] for name, channels in unscaled.widths.items()}
    )


def check_reference(model: str, options: Mapping[str, Any]) -> None:
    """Refuse an unknown model or option before anything slow begins.

    Raises:
        ModelError: unknown model or option, or a module that cannot be imported
        UnavailableError: a library is not installed
    """
    source_of(model).check(options)


def build(architecture: Architecture, seed: int = 0) -> nn.Module:
    """Build a network with fresh weights; the same seed gives the same weights.

    Raises:
        ModelError: unknown model, option or width name, or a width that this network cannot have
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed: that reaches the GPUs' generators too
        model = source_of(architecture.model).build(architecture)
        stack_(model, architecture.stacks)
        return model


def build_meta(architecture: Architecture, seed: int | None = None) -> nn.Module:
    """Build the network without memory for its weights, to count what it costs.

    Args:
        architecture: of the network
        seed: what its code draws beside weights is what `build` would give with this seed; None: with any
    """
    built = source_of(architecture.model).build_meta(architecture, seed)
    with on_meta():
        stack_(built, architecture.stacks)
    return built


def version_of(model: str) -> str:
    """What a model's name stands for now, to remember things by: an object, or a file, may be another one later."""
    return source_of(model).version()


def has_weights(architecture: Architecture) -> bool:
    """Whether the network comes with weights: of a file, an object of this process, or code that loads some."""
    return source_of(architecture.model).has_weights(architecture)


def drawn(architecture: Architecture) -> tuple[str, ...]:
    """Module paths of layers that begin fresh though the network comes with weights, such as a new head."""
    return source_of(architecture.model).drawn(architecture)


def remarks(architecture: Architecture) -> list[str]:
    """What the user must know of how the network is taken, a sentence each."""
    return source_of(architecture.model).remarks(architecture)


def network_with_weights(architecture: Architecture, seed: int = 0) -> nn.Module:
    """The network at its own widths with the weights that it comes with; of what is drawn the seed decides.

    Raises:
        ModelError: it is a network of the zoo, or cannot be built
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return source_of(architecture.model).network(architecture.classes, architecture.options)


def given_network(model: str, options: Mapping[str, Any], input_shape: Shape) -> nn.Module:
    """The network of an ONNX file, or of an object of this process, in evaluation mode: they know their classes.

    Args:
        model: what recipes call it
        options: of the model
        input_shape: (C, H, W) that it will be used on

    Raises:
        ModelError: it cannot be read or built
    """
    source = source_of(model)
    if isinstance(source, ReferencedSource):
        source.expect(input_shape)
    return source.network(0, options).eval()


def published_weights(model: str, name: str, *, download: bool) -> Path:
    """See `TorchvisionSource.published_weights`; of other sources nothing is published.

    Raises:
        ModelError: there are none, or not on this machine
        UnavailableError: they cannot be downloaded
    """
    return TorchvisionSource(model).published_weights(name, download=download)


def follows(architecture: Architecture) -> dict[str, tuple[str, int]]:
    """Groups that are not searched because their width is a multiple of a searched one: {name: (searched, factor)}."""
    return source_of(architecture.model).follows(architecture)


def prunable(architecture: Architecture) -> Architecture:
    """The network to prune for the widths of an architecture: same widths, each of which loses channels by itself."""
    return source_of(architecture.model).prunable(architecture)


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
    return source_of(architecture.model).units(architecture)


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


def graph_of(architecture: Architecture) -> DependencyGraph:
    """The dependency graph of an architecture's network.

    Raises:
        ModelError: the network cannot be traced
    """
    return source_of(architecture.model).graph(architecture)


plan_of = graph_of  # its earlier name


def stackable(architecture: Architecture, strategy: str, width: float = 1.0) -> tuple[Architecture, list[str] | None]:
    """The network in the form whose pairs of layers a strategy stacks, and the first layers of these pairs.

    Args:
        architecture: of the network
        strategy: all, r or alternate (see `compressor.models.stacked.select`)
        width: multiplier of the default widths, for groups that only this form has

    Returns:
        None for the first layers: the family has no form of its own for that, its eligible pairs will do
    """
    form = source_of(architecture.model).stackable(architecture, strategy)
    if form is None:
        return architecture, None
    options, widths, firsts = form
    fresh = reference_architecture(
        architecture.model, {**architecture.options, **options}, architecture.classes, architecture.input_shape, width
    )
    kept = {name: architecture.widths.get(name, own) for name, own in fresh.widths.items()}
    return fresh.with_widths({**kept, **widths}), list(firsts)


def steps(architecture: Architecture) -> dict[str, int]:
    """{group: what its width must be a multiple of}, above 1 where parts of a layer must keep equal sizes."""
    return source_of(architecture.model).steps(architecture)


def example_input(architecture: Architecture, batch: int = 2) -> AnyInputs:
    """Zeros of the network's input shape: (batch, C, H, W), or int64 (batch, T) for one that takes tokens.

    Of a network with inputs of its own what the user gave, as many samples as that.
    """
    return source_of(architecture.model).example(architecture.input_shape, batch)


def _strided_pointwise(module: nn.Conv2d) -> bool:
    return max(module.kernel_size) == 1 and max(module.stride) > 1


def channels_last_(model: nn.Module) -> nn.Module:
    """Lay out what has four dimensions channels-last; torch's own `to` refuses networks with weights of five."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.dim() == 4:
                tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return model


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
    if len(architecture.input_shape) != 3 or given_example(architecture.model) is not None:
        return False
    convolutions = [module for module in build_meta(architecture).modules() if isinstance(module, nn.Conv2d)]
    if not convolutions:
        return False
    if on_cpu and any(_strided_pointwise(m) and (narrower or m.in_channels < _SAFE) for m in convolutions):
        return False
    # Real tensors: what memory format a convolution gives is up to its kernel.
    model = channels_last_(build(architecture)).eval()
    images = example_input(architecture)
    assert isinstance(images, torch.Tensor)
    images = images.to(memory_format=torch.channels_last)
    try:
        with torch.no_grad():
            model(images)
    except RuntimeError:  # view size is not compatible
        return False
    return True


def takes_tokens(model: str, input_shape: Shape) -> bool:
    """Whether a network's input is tokens: the family says so; a network outside the zoo has an input shape of (T,)."""
    return source_of(model).takes_tokens(input_shape)


def check_task(architecture: Architecture, task: str) -> None:
    """Refuse a network whose output is not what a task needs.

    Args:
        architecture: with the input shape of the data
        task: see `compressor.models.tasks.check_output`; of a network with inputs of its own the output is its own too

    Raises:
        ModelError: another output, or the network does not run
    """
    example = example_input(architecture).to("meta")
    if given_example(architecture.model) is not None:
        return
    check_output(architecture.model, build_meta(architecture), architecture.classes, example, task)
