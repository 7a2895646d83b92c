"""The sections of a recipe that say how networks are trained and judged."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, model_validator

from compressor.recipe.values import BatchSize, NonNegativeInt, PositiveInt, Section


def _function(value: str) -> str:
    module, colon, name = value.partition(":")
    if not (module and colon and name):
        raise ValueError("must be package.module:function")
    return value


FunctionName = Annotated[str, AfterValidator(_function)]


def function_of(value: Any) -> Any:
    """A section by the function that it names."""
    return {"function": value} if isinstance(value, str) else value


class DistillConfig(Section):
    """Knowledge distillation: networks learn from the outputs of a trained one as well (Hinton et al. 2015)."""

    teacher: str = Field(
        "reference",
        min_length=1,
        description="reference: the unscaled network, as given or as trained in this run; or a file of weights for it; "
        "or another network that comes with trained weights, such as package.module:factory",
    )
    temperature: PositiveFloat = Field(4.0, description="T, by which logits are divided")
    weight: Annotated[float, Field(gt=0, le=1)] = Field(0.9, description="share of the teacher's outputs in the loss")
    layers: tuple[str, ...] = Field(
        (), description="module paths whose maps are compared too: where they look (attention transfer), at any widths"
    )
    attention: PositiveFloat = Field(500.0, description="weight of that")


Schedule = Literal["paper", "onecycle"]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Smoothing = Annotated[float, Field(ge=0, lt=1)]


class TrainConfig(Section):
    """Training of the result from scratch; its references are trained alike."""

    function: FunctionName | None = Field(
        None,
        description="package.module:function that trains in place of ours, called as (model, data, epochs, device, "
        "on_step); of this section only epochs count then",
    )
    epochs: PositiveInt = Field(30, description="passes over the training part")
    batch_size: BatchSize = Field(128, description="samples in a step")
    schedule: Schedule = Field(
        "onecycle",
        description="paper: steps ÷10 at 1/3, 2/3 and 5/6 of the epochs; onecycle: warm-up, then cosine to 0",
    )
    lr: PositiveFloat = Field(0.1, description="largest learning rate")
    momentum: Momentum | None = Field(None, description="null: 0.5 for paper, 0.9 with Nesterov for onecycle")
    weight_decay: NonNegativeFloat = Field(5e-4, description="on every parameter")
    label_smoothing: Smoothing = Field(0.0, description="share of the label that is spread over all classes")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="adamw needs another lr, such as 0.001")
    ema: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="decay of a running average of the weights, which is what is evaluated and kept; 0: none"
    )
    clip: PositiveFloat | None = Field(None, description="largest norm of the gradients of a step; null: any")
    accumulate: PositiveInt = Field(
        1, description="parts of a batch that are trained one after another, for less memory; batch-norms see the parts"
    )
    sync_batch_norm: bool = Field(
        False, description="under torchrun: batch-norms see the samples of all processes, not only their own"
    )
    keep: Literal["last", "best"] = Field("last", description="weights of the last epoch or of the best validation one")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on CUDA, fp32 on a CPU")
    channels_last: Literal[True, False, "auto"] = Field("auto", description="auto: for networks with 2-d convolutions")
    reference: Literal["given", "fresh"] = Field(
        "given",
        description="the unscaled network, where it has trained weights: given: it is evaluated as it is; fresh: it is "
        "trained from scratch",
    )
    distill: DistillConfig | None = Field(
        None, description="learn from a trained network as well; not the unscaled network itself"
    )

    @model_validator(mode="after")
    def _adamw_has_its_own_settings(self) -> TrainConfig:
        if self.optimizer == "adamw" and "lr" not in self.model_fields_set:
            raise ValueError("optimizer: adamw, but lr is not given, whose default is for sgd; try lr: 0.001")
        if self.optimizer == "adamw" and self.momentum is not None:
            raise ValueError(f"momentum: {self.momentum:g} is for optimizer: sgd; valid: null")
        return self


class FinetuneConfig(Section):
    """Training of networks that keep trained weights; what is null is as `train` says."""

    epochs: NonNegativeInt | None = Field(
        None, description="0: none, the network is left as it was cut, but for statistics of batch-norms"
    )
    batch_size: BatchSize | None = Field(None, description="samples in a step")
    schedule: Schedule | None = Field(None, description="how the learning rate goes")
    lr: PositiveFloat | None = Field(None, description="largest learning rate")
    momentum: Momentum | None = Field(None, description="of SGD")
    weight_decay: NonNegativeFloat | None = Field(None, description="on every parameter")
    label_smoothing: Smoothing | None = Field(None, description="share of the label that is spread over all classes")


class EvaluateConfig(Section):
    """A metric of the user's own, in place of that of the data's task."""

    function: FunctionName = Field(description="package.module:function, called as (model, data, device) -> float")
    name: str = Field(
        "metric",
        min_length=1,
        max_length=40,
        description="what the report calls it; accuracy, agreement and mIoU are shares from 0 to 1",
    )
    better: Literal["higher", "lower"] = Field("higher", description="which way is good")
