"""Growing by structured continuous sparsification ("Growing Efficient Deep Networks by Structured Continuous
Sparsification", ICLR 2021): channels, and layers where the network can do without some, come and go while it trains.

The result is trained: no other training follows, but for fine-tuning if that is asked for.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from compressor.recipe.method import Method, MethodConfig
from compressor.recipe.values import NonNegativeInt, PositiveInt
from compressor.report.growth import growth_line, growth_section
from compressor.search.problem import Problem, SearchResult


class GrowingConfig(MethodConfig):
    """Growing by structured continuous sparsification (ICLR 2021): a network grows and shrinks while it trains."""

    method: Literal["growing"] = "growing"
    steps_per_round: PositiveInt | None = Field(
        None, description="steps between two draws; null: an epoch, or fewer for 30 draws"
    )
    settle: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.93, description="last share of training, in which the structure that meets the budget is kept"
    )
    sampling: Literal["learned", "random"] = Field(
        "learned", description="random: the paper's baseline, every channel with the same fixed probability"
    )
    signal: Literal["utility", "gradient"] = Field(
        "utility",
        description="what moves the indicators of channels beside the penalty; gradient: that of the loss (the paper), "
        "which cannot compare layers; utility: its mean square per cost, with diminishing returns",
    )
    returns: Annotated[float, Field(ge=0, le=100)] = Field(
        3.0,
        description="with signal: utility, how fast further channels of a group are worth less; the larger, the nearer "
        "widths stay to uniform proportions",
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
        0.1, description="share of the indicators that are drawn anew every round; 1: all (the paper)"
    )
    counts: Literal["expected", "drawn"] = Field(
        "expected",
        description="channels of a layer in a draw; expected: as many as are drawn in the mean, chance decides which "
        "ones; drawn: each channel by itself (the paper), which in narrow layers is a width left to chance",
    )
    price: Annotated[float, Field(ge=0, le=2)] = Field(
        0.0, description="power of what a channel costs in its penalty; 0: λ1 is the same for all (the paper)"
    )
    indicator_lr: PositiveFloat = Field(0.1, description="learning rate of the indicators, for rounds of 390 steps")
    indicator_momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of SGD on the indicators")
    pad_to: PositiveInt = Field(1, description="while it grows, every width is a multiple of this, for speed")
    weights: Literal["grown", "fresh"] = Field(  # type: ignore[assignment]  # its own: trained ones it cannot keep
        "grown", description="fresh: train what has grown from scratch (the paper's direct design)"
    )
    restart: bool = Field(
        True,
        description="momentum and the learning rate's schedule begin anew with the network that is kept",
    )
    renew: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="share of fresh values that is mixed into the weights where growth settles; null: 0.5, or 1 where "
        "no normalisation makes up for weights that shrink so; the paper's is 0",
    )
    finetune_epochs: NonNegativeInt = Field(0, description="further epochs with the structure found")
    finetune_lr: PositiveFloat = Field(0.001, description="learning rate of fine-tuning, constant")

    @model_validator(mode="after")
    def _fresh_weights_are_trained_anyway(self) -> GrowingConfig:
        if self.weights == "fresh" and self.finetune_epochs:
            raise ValueError("finetune_epochs is for weights: grown; with weights: fresh the valid value is 0")
        return self


def search(problem: Problem, config: GrowingConfig) -> SearchResult:
    """See `compressor.search.methods.growing.grow.grow`."""
    from compressor.search.methods.growing.grow import grow

    return grow(problem, config)


METHOD = Method(
    GrowingConfig,
    search,
    depends_on=("train",),
    anytime=True,
    keeps_weights=False,
    sections=(growth_section,),
    lines=(growth_line,),
)
