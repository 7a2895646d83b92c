"""The `search` section: one config class for each method, told apart by its name."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field, NonNegativeFloat, PositiveFloat, model_validator

from compressor.errors import RecipeError
from compressor.plugins import with_plugins
from compressor.recipe.values import BatchSize, NonNegativeInt, PositiveInt, Section, WholeOrAuto


class PruningConfig(Section):
    """Pre-training and iterative Taylor pruning (NeuralScale Algorithm 1). Defaults are the paper's."""

    method: str = ""
    pretrain_epochs: NonNegativeInt = Field(10, description="epochs of training before pruning, P in Algorithm 1")
    batch_size: BatchSize = Field(256, description="images per step of pre-training and pruning")
    lr: PositiveFloat = Field(0.1, description="learning rate of pre-training")
    prune_lr: PositiveFloat = Field(0.01, description="learning rate at the start of pruning")
    prune_lr_decay: PositiveFloat = Field(1.5, description="divides it, as in the authors' code (the paper: 10)")
    prune_lr_every: PositiveInt = Field(10, description="… after this many epochs of pruning")
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    weight_decay: NonNegativeFloat = 5e-4
    prune_every: PositiveInt = Field(50, description="mini-batches between two pruning events")
    prune_channels: PositiveInt = Field(
        10, description="channels removed in one event, anywhere; those that go together count as one"
    )
    at_minimum: Literal["skip", "stop"] = Field(
        "skip",
        description="a group down to widths.minimum leaves the ranking, and the others go on; stop: pruning ends as "
        "soon as one would fall below it (the paper's authors)",
    )


class NeuralScaleConfig(PruningConfig):
    """NeuralScale (CVPR 2020): power-law widths fitted to iterative Taylor pruning. Defaults are the paper's."""

    method: Literal["neuralscale"] = "neuralscale"
    iterations: PositiveInt = Field(15, description="iterations of architecture descent (Algorithm 4)")
    floor: Annotated[float, Field(gt=0, lt=1)] = Field(0.05, description="stop below this share of the channels")
    min_records: Annotated[int, Field(ge=2)] = Field(
        6, description="least records of a fit: those since every group lost a channel, or else all"
    )


class MorphNetConfig(PruningConfig):
    """MorphNet with Taylor pruning (NeuralScale section 4.2): prune half of the channels, scale the rest uniformly."""

    method: Literal["morphnet"] = "morphnet"
    keep: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="prune until this share of the channels is left")


class L1Config(Section):
    """Filters of smallest L1 norm leave a trained network, which is then fine-tuned (Li et al., ICLR 2017)."""

    uses: ClassVar[tuple[str, ...]] = ("train",)  # sections of the recipe that the search follows beside its own

    method: Literal["l1"] = "l1"
    finetune_epochs: PositiveInt = Field(40, description="NeuralScale's paper: 40 for CIFAR, 20 for Tiny-ImageNet")
    finetune_lr: PositiveFloat = Field(0.001, description="learning rate of fine-tuning, constant")


class GrowingConfig(Section):
    """Growing by structured continuous sparsification (ICLR 2021): a network grows and shrinks while it trains."""

    uses: ClassVar[tuple[str, ...]] = ("train",)  # sections of the recipe that the search follows beside its own
    anytime: ClassVar[bool] = True  # the search has a network that can be shipped whenever it is stopped

    method: Literal["growing"] = "growing"
    steps_per_round: PositiveInt | None = Field(
        None, description="steps between two draws; null: an epoch, or fewer for 30 draws"
    )
    settle: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.85, description="last share of training, in which the structure that meets the budget is kept"
    )
    sampling: Literal["learned", "random"] = Field(
        "learned", description="random: the paper's baseline, every channel with the same fixed probability"
    )
    temperature: Literal["structure", "global"] = Field(
        "structure", description="β rises with the draws of each indicator, or for all with every round"
    )
    start: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        0.1, description="probability of being drawn at first, of all but the seed network"
    )
    beta_max: Annotated[float, Field(ge=1)] = Field(100.0, description="β of an indicator that was always drawn")
    penalty: PositiveFloat | None = Field(
        None, description="λ1 of channels; null: 0.5, or 1 where layers grow too (the paper's)"
    )
    layer_penalty: PositiveFloat = Field(0.1, description="λ2 of layers")
    redraw: Annotated[float, Field(ge=0, le=1)] = Field(
        0.1, description="share of the indicators that draw a new lot every round; 1: all (the paper)"
    )
    price: Annotated[float, Field(ge=0, le=2)] = Field(
        0.0, description="power of what a channel costs in its penalty; 0: λ1 is the same for all (the paper)"
    )
    indicator_lr: PositiveFloat = Field(0.1, description="learning rate of the indicators, for rounds of 390 steps")
    indicator_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    pad_to: PositiveInt = Field(1, description="while it grows, every width is a multiple of this, for speed")
    weights: Literal["grown", "fresh"] = Field(
        "grown", description="fresh: train what has grown from scratch (the paper's direct design)"
    )
    finetune_epochs: NonNegativeInt = Field(0, description="further epochs with the structure found")
    finetune_lr: PositiveFloat = Field(0.001, description="learning rate of fine-tuning, constant")

    @model_validator(mode="after")
    def _fresh_weights_are_trained_anyway(self) -> GrowingConfig:
        if self.weights == "fresh" and self.finetune_epochs:
            raise ValueError("finetune_epochs is for weights: grown; with weights: fresh the valid value is 0")
        return self


_STRATEGIES = ("auto", "all", "r", "alternate")


def _strategy(value: Any) -> Any:
    named = isinstance(value, (list, tuple)) and value and all(isinstance(name, str) for name in value)
    if not named and value not in _STRATEGIES:
        raise ValueError(f"must be one of {', '.join(_STRATEGIES)}, or a list of the first layers of pairs")
    return value


class TissueNetConfig(Section):
    """TissueNet: pairs of layers give way to stacked layers of small units that no weight connects."""

    uses: ClassVar[tuple[str, ...]] = ("train",)  # sections of the recipe that the search follows beside its own

    method: Literal["tissuenet"] = "tissuenet"
    strategy: Annotated[Literal["auto", "all", "r", "alternate"] | tuple[str, ...], BeforeValidator(_strategy)] = Field(
        "auto",
        description="which pairs of layers are stacked: all; r, all but those of the first and last stage; alternate, "
        "every second of a residual stage; a list of the pairs' first layers; auto: the best of the three",
    )
    k: WholeOrAuto = Field("auto", description="hidden nodes of a unit (n0, k, n2); auto: the best of 2, 4, 8 and 16")
    nodes: PositiveInt = Field(2, description="inputs of a unit, n0, or the next that divides a layer's channels")
    mix: Literal["auto", "single", "hybrid"] = Field(
        "auto", description="hybrid: units of k/2, k and 3k/2 hidden nodes, drawn at random; auto: the better one"
    )
    units: tuple[tuple[PositiveInt, PositiveInt, PositiveInt], ...] = Field(
        (), description="kinds (n0, n1, n2) of units to stack, in place of k, nodes and mix"
    )
    counts: tuple[PositiveInt, ...] = Field(
        (), description="how many of each kind, in proportion; none: drawn at random for each position"
    )
    trials: PositiveInt = Field(4, description="networks of most capacity that are trained for a moment, to choose one")
    trial_epochs: PositiveInt = Field(2, description="epochs of each such training")

    @model_validator(mode="after")
    def _kinds_fit_together(self) -> TissueNetConfig:
        if len(self.counts) not in (0, len(self.units)):
            raise ValueError(f"counts: {len(self.counts)} numbers for {len(self.units)} kinds of units; give one each")
        if len({(inputs, outputs) for inputs, _, outputs in self.units}) > 1:
            raise ValueError("units: all kinds must have the same n0 and the same n2; only n1 may differ")
        if self.units and {"k", "nodes", "mix"} & self.model_fields_set:
            given = min({"k", "nodes", "mix"} & self.model_fields_set)
            raise ValueError(f"units: says all of the units, so {given} must not be given")
        return self


class RandomConfig(Section):
    """Every width a random share of its own, scaled together to the budget."""

    method: Literal["random"] = "random"
    draw: NonNegativeInt = Field(0, description="which draw, beside the recipe's seed")
    smallest: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="shares lie between this and 1, evenly in the logarithm"
    )


class UniformConfig(Section):
    """One width multiplier for all groups."""

    method: Literal["uniform"] = "uniform"
    shortcut: Literal["convcut"] | None = Field(
        None, description="convcut: scale the network with a 1×1 convolution in every shortcut; null: as the model says"
    )


BUILTIN_METHODS: dict[str, type[BaseModel]] = {
    "neuralscale": NeuralScaleConfig,
    "morphnet": MorphNetConfig,
    "growing": GrowingConfig,
    "tissuenet": TissueNetConfig,
    "l1": L1Config,
    "random": RandomConfig,
    "uniform": UniformConfig,
}


def method_configs() -> dict[str, type[BaseModel]]:
    """Config class of every search method; plug-ins name a (config class, search function) pair."""
    plugins = with_plugins("compressor.methods", dict.fromkeys(BUILTIN_METHODS))
    return BUILTIN_METHODS | {
        name: _plugin_config(name, pair) for name, pair in plugins.items() if name not in BUILTIN_METHODS
    }


def _plugin_config(name: str, pair: Any) -> type[BaseModel]:
    config = pair[0] if isinstance(pair, tuple) and len(pair) == 2 else None
    if isinstance(config, type) and issubclass(config, BaseModel):
        field = config.model_fields.get("method")
        if field is not None and get_args(field.annotation) == (name,):
            return config
    raise RecipeError(
        f"entry point compressor.methods: {name!r} must be a pair (pydantic config class with the field "
        f"method: Literal[{name!r}], search function)"
    )
