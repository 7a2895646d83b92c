"""The recipe as a whole, and its sections beside `budget` and `search`."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    JsonValue,
    NonNegativeFloat,
    PositiveFloat,
    create_model,
    model_validator,
)

from compressor.recipe.budget import BudgetConfig, budget_type
from compressor.recipe.cost import costs
from compressor.recipe.method import Method, MethodConfig, methods
from compressor.recipe.model_name import ModelName
from compressor.recipe.precision import AUTO, precisions
from compressor.recipe.training import EvaluateConfig, FinetuneConfig, TrainConfig, function_of
from compressor.recipe.values import (
    Batch,
    Minimum,
    NonNegativeInt,
    PositiveInt,
    Provider,
    Section,
    Threads,
    WholeOrAuto,
    empty,
)
from compressor.user_functions import GIVEN


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _named_model(value: Any) -> Any:
    """A model by its name, or {onnx: PATH} for {name: onnx:PATH}."""
    if isinstance(value, dict) and "onnx" in value:
        if "name" in value:
            raise ValueError("has both name and onnx; give one of them")
        if not isinstance(value["onnx"], str) or not value["onnx"]:
            raise ValueError(f"onnx: {value['onnx']!r} is not the path of a file")
        rest = {key: item for key, item in value.items() if key != "onnx"}
        return {"name": f"onnx:{value['onnx']}"} | rest
    return _named(value)


WEIGHTS_FILES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pth.tar")


def _weights(value: str) -> str:
    if re.fullmatch(r"auto|given|fresh|torchvision(:\w+)?", value) or value.endswith(WEIGHTS_FILES):
        return value
    raise ValueError(f"must be auto, given, fresh, torchvision, or a file ({', '.join(WEIGHTS_FILES)})")


class ModelConfig(Section):
    """The network to compress."""

    name: str = Field(description="zoo name, torchvision:NAME, timm:NAME, package.module:factory or onnx:PATH")
    width: Annotated[float, Field(gt=0, le=100)] = Field(1.0, description="multiplier of every default width")
    options: dict[str, JsonValue] = Field({}, description="options of that model, such as {shortcut: identity}")
    weights: Annotated[str, AfterValidator(_weights)] = Field(
        "auto",
        description="trained weights: a .safetensors, .pt or .pth file of a state dict; torchvision, or "
        "torchvision:NAME of its weights; given: those that the network comes with; fresh: none; auto: given where it "
        "comes with some",
    )
    download: bool = Field(False, description="let torchvision download its weights when its cache lacks them")

    @property
    def weights_file(self) -> Path | None:
        """The file that holds the trained weights, if they are in one."""
        return Path(self.weights) if self.weights.endswith(WEIGHTS_FILES) else None

    @property
    def weights_of_torchvision(self) -> str | None:
        """Which of torchvision's weights are asked for, DEFAULT if none by name; None: none are."""
        source, _, name = self.weights.partition(":")
        return (name or "DEFAULT") if source == "torchvision" and self.weights_file is None else None

    @model_validator(mode="after")
    def _weights_fit(self) -> ModelConfig:
        named = ModelName.of(self.name)
        if self.weights == "given" and not named.has_weights:
            raise ValueError(
                f"weights: given, but {self.name} is a network of the zoo, which comes without; valid: fresh, or a file"
            )
        if self.weights == "given" and self.width != 1:
            raise ValueError(f"width: {self.width:g} is not the network whose weights are given; valid: 1")
        if self.weights_of_torchvision and (named.source != "torchvision" or self.width != 1):
            own = self.name if self.width == 1 else f"{self.name} at {self.width:g} of its width"
            raise ValueError(f"weights: {self.weights} is not for {own}; valid: fresh, or a file")
        return self


class DataConfig(Section):
    """The images or the text to train and test on."""

    name: str = Field(
        description="images with a class each: digits, idx, cifar10, cifar100, imagefolder; with a class per pixel: "
        "shapes, voc; text: ptb; a plug-in's name; or package.module:function that gives torch datasets or loaders"
    )
    path: str | None = Field(None, description="folder of the data, relative to where the command runs")
    labels: bool = Field(
        True,
        description="false: the images of an imagefolder lie in any folders; they get the classes that the given "
        "network (an ONNX file, say) gives them, networks are distilled from it, and judged by agreement with it",
    )
    download: bool = Field(False, description="let torchvision download cifar10/cifar100 when absent")
    image_size: Annotated[PositiveInt, Field(le=4096)] | None = Field(
        None, description="resize to this many pixels square; null: as they are"
    )
    channels: Literal[1, 3] | None = Field(None, description="convert to grey (1) or RGB (3); null: as they are")
    validation: Annotated[float, Field(ge=0.0, le=0.9)] = Field(
        0.1,
        description="share of the training part held out, chosen by the seed; ptb has a file for it: 0 leaves it out",
    )
    limit: PositiveInt | None = Field(
        None, description="use only this many training images or windows; null: all (shapes: 2000)"
    )
    window: Annotated[PositiveInt, Field(ge=2)] = Field(35, description="tokens of text that a network sees at once")
    memory_gib: PositiveFloat = Field(4.0, description="image folders up to this decoded size stay in memory")
    augment: tuple[Literal["flip", "crop", "cutout", "randaugment", "mixup", "cutmix"], ...] = Field(
        (), description="random changes of training images; the last three for images with a class each"
    )
    options: dict[str, JsonValue] = Field(
        {}, description="of a plug-in's data set, or of package.module:function; built-in ones take none"
    )
    workers: NonNegativeInt | None = Field(
        None,
        description="processes that load samples of torch datasets; null: one less than the CPU's cores, at most 8",
    )
    mean: tuple[float, ...] | None = Field(
        None, description="per channel, in units of 0..1, taken off every image; null: measured on the training images"
    )
    std: tuple[PositiveFloat, ...] | None = Field(
        None, description="per channel, by which images are divided then; null: measured on the training images"
    )


class WidthsConfig(Section):
    """Which channel counts the width groups may have, in the result and in every scaled reference."""

    round_to: WholeOrAuto = Field(
        "auto",
        description="every width is a multiple of this, such as 8; frozen groups are not; auto: the "
        "channels that the provider of bench computes at once on this machine, such as 8 or 16; less for groups of "
        "fewer than four times as many, and where more than 2 % of the budget would be left",
    )
    minimum: Minimum = Field(
        1, description="fewest channels of every group, or {group: channels}; rounded up to round_to"
    )
    frozen: tuple[str, ...] = Field(
        (),
        description="module paths, or patterns of them such as head.*: groups with a layer there keep the unscaled "
        "network's width",
    )
    only: tuple[str, ...] = Field(
        (), description="likewise: only groups all of whose layers are there may change; none: all groups"
    )
    engine: Literal["auto", "torch_pruning", "tracer"] = Field(
        "auto",
        description="what removes channels: torch-pruning where its dependency graph agrees with ours (auto), or it is "
        "an error where not (torch_pruning); tracer: our own removal. The results are the same",
    )


USUAL_OPSET, _RESIZING = 20, 18  # the least in which Resize has antialiasing


class ExportConfig(Section):
    """The ONNX file."""

    opset: Annotated[int, Field(ge=9, le=23)] | None = Field(
        None, description=f"ONNX operator set; null: that of the ONNX file that the network is of, else {USUAL_OPSET}"
    )
    tolerance: PositiveFloat | None = Field(
        None, description="largest allowed relative difference to PyTorch; null: 1e-4, of fp16 1e-2; of int8 none"
    )
    stacked: Literal["grouped", "dense", "auto"] = Field(
        "auto",
        description="stacked layers as grouped convolutions (units, or blocks of units, whichever is faster) or dense "
        "with zeros; auto: the fastest on the provider, layer by layer or throughout",
    )
    precision: Literal["fp32", "fp16", "int8", "auto"] = Field(
        "fp32",
        description="of weights and arithmetic; int8: quantised statically on training images, with the integer types "
        "that are fast on the provider; auto: the smallest that loses no more than tolerance_points (0.5 if null) and "
        "is faster; budgets count the file of this precision",
    )
    tolerance_points: NonNegativeFloat | None = Field(
        None,
        description="points of accuracy or mIoU (of a perplexity, per cent) that the file may lose on validation "
        "data: if it loses more, or is not faster than the float32 file while its size is not limited, the next larger "
        "precision ships, where that meets the budget; null: the precision is shipped as asked",
    )
    calibration: Literal["minmax", "auto"] = Field(
        "minmax",
        description="of int8; minmax: ranges of activations are from the least to the largest value of the calibration "
        "images; auto: entropy and percentile are tried as well, and which kinds of nodes are better left in float32",
    )
    calibration_images: PositiveInt = Field(
        256, description="training images that ranges of activations are taken from, drawn by the seed"
    )
    qat_epochs: NonNegativeInt = Field(
        0,
        description="epochs of quantisation-aware training, from the trained weights, where int8 loses more than "
        "tolerance_points; 0: none",
    )
    preprocess: Literal["none", "uint8", "resize"] = Field(
        "none",
        description="none: the file takes normalised float32 images (N, C, H, W); uint8: raw ones (N, H, W, C), "
        "normalised inside; resize: raw ones of any size, resized inside",
    )
    softmax: bool = Field(False, description="give probabilities rather than logits")
    half_io: bool = Field(False, description="of fp16: inputs and outputs are float16 too, but for uint8 images")
    batch: Batch | None = Field(
        None, description="the only batch that the file takes, at which it is measured; null: any"
    )

    also: tuple[str, ...] = Field(
        (), description="further formats, in OUT/exports/NAME: torch_export (a .pt2 file), or a plug-in's name"
    )

    @model_validator(mode="after")
    def _resizing_needs_an_operator_set(self) -> ExportConfig:
        if self.preprocess == "resize" and self.opset is not None and self.opset < _RESIZING:
            raise ValueError(f"opset: {self.opset} cannot resize as images are; valid: {_RESIZING} to 23, or null")
        return self

    @model_validator(mode="after")
    def _points_are_of_what_is_converted(self) -> ExportConfig:
        if self.precision != AUTO and self.tolerance_points is not None and precisions()[self.precision].plain:
            raise ValueError(
                f"tolerance_points: {self.tolerance_points:g}, but precision is {self.precision}, which loses nothing; "
                f"valid: null, or precision: {', '.join(one.name for one in precisions().values() if not one.plain)}"
            )
        return self

    @model_validator(mode="after")
    def _half_of_what_is_halved(self) -> ExportConfig:
        if self.half_io and (self.precision == AUTO or precisions()[self.precision].convert_all is None):
            able = ", ".join(one.name for one in precisions().values() if one.convert_all is not None)
            raise ValueError(f"half_io: true, but precision is {self.precision}; valid: false, or precision: {able}")
        return self

    @model_validator(mode="after")
    def _training_follows_from_what_is_lost(self) -> ExportConfig:
        if not self.qat_epochs or self.precision == AUTO:
            return self
        known = precisions()
        if known[self.precision].simulated is None:
            able = ", ".join(one.name for one in known.values() if one.simulated is not None)
            raise ValueError(f"qat_epochs: {self.qat_epochs}, but precision is {self.precision}; valid: 0, or {able}")
        if self.tolerance_points is None:
            raise ValueError(
                f"qat_epochs: {self.qat_epochs}, but tolerance_points, beyond which it trains, is null; valid: a "
                "number of points, such as 0.5"
            )
        return self

    @property
    def written_opset(self) -> int | None:
        """The operator set that is asked for; None: the file's own, else the usual one."""
        return USUAL_OPSET if self.opset is None and self.preprocess == "resize" else self.opset

    @property
    def bytes_of_value(self) -> int:
        """Bytes that a weight or an activation takes in the file."""
        return precisions()[self.precision].bytes_of_value

    @property
    def plain_tolerance(self) -> float:
        """Largest allowed relative difference of the float32 export to PyTorch."""
        known = precisions()
        plain = next(one for one in known.values() if one.plain)
        return self.tolerance if self.tolerance is not None and known[self.precision].plain else plain.tolerance

    def tolerance_of(self, precision: str) -> float:
        """The same of a file of a precision; infinite where what counts is its accuracy."""
        own = precisions()[precision].tolerance
        given = self.tolerance if precision == self.precision else None
        return own if given is None or math.isinf(own) else given


class BenchConfig(Section):
    """Latency on ONNX Runtime; defaults are NeuralScale's protocol (section 4.2).

    The names are those of `measure_latencies`.
    """

    provider: Provider = Field("auto", description="what runs the file; auto: CUDA where it works, else the CPU")
    batch: Batch = Field(100, description="inputs in one run")
    warmup: NonNegativeInt = Field(20, description="runs before what is measured")
    runs: PositiveInt = Field(80, description="runs that are measured")
    threads: Threads | None = Field(None, description="intra-op threads; null: ONNX Runtime's choice")


class Recipe(Section):
    """One run: from a network, a data set and a budget to a trained ONNX model."""

    model: Annotated[ModelConfig, BeforeValidator(_named_model)]
    data: Annotated[DataConfig, BeforeValidator(_named)]
    budget: BudgetConfig
    widths: WidthsConfig = WidthsConfig()
    search: MethodConfig  # of `recipe_type()`: of the method that it names
    train: Annotated[TrainConfig, BeforeValidator(function_of)] = TrainConfig()
    evaluate: Annotated[EvaluateConfig, BeforeValidator(function_of)] | None = None
    finetune: FinetuneConfig = FinetuneConfig()
    export: ExportConfig = ExportConfig()
    bench: BenchConfig = BenchConfig()
    baselines: tuple[Literal["uniform", "reference", "undistilled"], ...] = Field(
        ("uniform", "reference"),
        description="networks to train beside the result: uniform scaling, the unscaled one, and the result's own "
        "architecture trained without train.distill",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train")
    threads: Threads | None = Field(None, description="CPU threads of torch; null: torch's choice")
    checkpoint_seconds: NonNegativeFloat = Field(30.0, description="least time between two checkpoints of training")
    seed: NonNegativeInt = Field(0, description="of first weights, the validation split, data order and augmentation")

    @model_validator(mode="before")
    @classmethod
    def _without_labels_the_given_network_teaches(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        data, train, search = (given.get(key) for key in ("data", "train", "search"))
        train = {} if train is None else train
        if not (isinstance(data, dict) and data.get("labels") is False and isinstance(train, dict)):
            return given
        named = search.get("method") if isinstance(search, dict) else search
        more = search.get("candidates") if isinstance(search, dict) else None
        names = [named, *(more if isinstance(more, list | tuple) else [])]
        grows = any(name in methods() and methods()[name].anytime for name in names if isinstance(name, str))
        if "distill" in train or train.get("function") is not None or grows:
            return given
        return given | {"train": train | {"distill": {}}}

    @model_validator(mode="after")
    def _best_needs_validation(self) -> Recipe:
        if self.train.keep == "best" and self.data.validation == 0:
            raise ValueError("train.keep: best needs validation images, but data.validation is 0; valid: last")
        if self.train.keep == "best" and (grows := self._who(lambda method: method.anytime)):
            raise ValueError(f"train.keep: best is not for {grows}, whose network changes; valid: last")
        return self

    @model_validator(mode="after")
    def _a_function_trains_alone(self) -> Recipe:
        if self.train.function is None:
            return self
        if other := self._who(lambda method: not method.keeps_weights):
            able = ", ".join(sorted(name for name, one in methods().items() if one.keeps_weights))
            raise ValueError(f"train.function is not for {other}; valid: {able}")
        if self.train.distill is not None or self.train.keep == "best":
            key = "distill" if self.train.distill is not None else "keep: best"
            raise ValueError(f"train.{key} is for our own training, not beside train.function; leave it out")
        return self

    @model_validator(mode="after")
    def _what_trains_at_the_end_is_distilled(self) -> Recipe:
        if self.train.distill is None:
            if "undistilled" in self.baselines:
                raise ValueError("baselines: undistilled, but train.distill is null; valid: uniform, reference")
        elif grows := self._who(lambda method: method.anytime):
            raise ValueError(f"train.distill is not for {grows}, which trains while it searches; valid: null")
        return self

    @model_validator(mode="after")
    def _what_changes_while_it_trains_is_trained_by_sgd(self) -> Recipe:
        for key, plain in (("optimizer", "sgd"), ("ema", 0)):
            asked, grows = getattr(self.train, key), self._who(lambda method: method.anytime)
            if asked != plain and grows:
                raise ValueError(
                    f"train.{key}: {asked} is not for {grows}, whose network changes while it trains; valid: {plain}"
                )
        return self

    @model_validator(mode="after")
    def _layers_that_change_keep_no_weights(self) -> Recipe:
        other = self._who(lambda method: not method.keeps_weights)
        if other and getattr(self.search, "weights", None) == "kept":
            raise ValueError(f"search.weights: kept, but {other} keeps no trained weights; valid: auto, fresh")
        return self

    @model_validator(mode="after")
    def _zeros_are_not_stored_under_a_limit(self) -> Recipe:
        limited = [name for name, cost in costs().items() if cost.counts_zeros and name in self.budget.names]
        if self.export.stacked == "dense" and limited:
            raise ValueError(f"export.stacked: dense stores zeros, which budget.{limited[0]} counts; valid: auto")
        return self

    @model_validator(mode="after")
    def _a_fixed_batch_is_the_measured_one(self) -> Recipe:
        fixed, asked = self.export.batch, self.budget.batch
        if fixed is not None and asked is not None and fixed != asked:
            raise ValueError(f"budget.batch: {asked}, but export.batch fixes the file's batch; valid: {fixed}")
        return self

    @model_validator(mode="after")
    def _tokens_are_not_preprocessed(self) -> Recipe:
        if self.export.preprocess != "none" and self.data.name == "ptb":
            raise ValueError(f"export.preprocess: {self.export.preprocess} is for images, and ptb is text; valid: none")
        return self

    def _who(self, has: Callable[[Method], bool]) -> str:
        """Where the recipe names a search method of this kind, the key first; "": nowhere."""
        named = [("search.method", self.search.method), *(("search.candidates", name) for name in self.candidates)]
        return next((f"{key}: {name}" for key, name in named if has(methods()[name])), "")

    @property
    def candidates(self) -> tuple[str, ...]:
        """Search methods that the recipe names beside its own; a plug-in may mean something else by its candidates."""
        named, known = getattr(self.search, "candidates", ()), methods()
        if not isinstance(named, tuple | list):
            return ()
        return tuple(name for name in named if isinstance(name, str) and name in known)

    @property
    def code(self) -> dict[str, tuple[str, Any]]:
        """{key: what it names and its options} of functions of the user's that this recipe has imported and called."""
        found: dict[str, tuple[str, Any]] = {}
        if ModelName.of(self.model.name).is_code:
            found["model.name"] = self.model.name, self.model.options
        if ":" in self.data.name:
            found["data.name"] = self.data.name, self.data.options
        functions = {"train.function": self.train.function}
        functions["evaluate.function"] = None if self.evaluate is None else self.evaluate.function
        found |= {key: (name, None) for key, name in functions.items() if name is not None}
        teacher = None if self.train.distill is None else self.train.distill.teacher
        if teacher is not None and ModelName.of(teacher).is_code:
            found["train.distill.teacher"] = teacher, None
        return {key: (name, options) for key, (name, options) in found.items() if not name.startswith(GIVEN)}

    @property
    def measured(self) -> BenchConfig:
        """How latency is measured: the `bench` section, and what the budget says of batch, provider and threads.

        A file of a fixed batch is measured at that.
        """
        fixed = {} if self.export.batch is None else {"batch": self.export.batch}
        return self.bench.model_copy(update=fixed | self.budget.conditions)

    def __new__(cls, *args: Any, **values: Any) -> Self:
        """A recipe is of the class of `recipe_type`, whoever makes it."""
        kind: Any = recipe_type() if cls is Recipe else cls
        made: Self = super().__new__(kind)
        return made

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Check values; the class itself stands for the one of all costs and methods, see `recipe_type`."""
        kind: Any = recipe_type()
        checked: Self = kind.model_validate(obj, **options) if cls is Recipe else super().model_validate(obj, **options)
        return checked

    @classmethod
    def model_validate_json(cls, json_data: str | bytes | bytearray, **options: Any) -> Self:
        """See `model_validate`."""
        kind: Any = recipe_type() if cls is Recipe else super()
        checked: Self = kind.model_validate_json(json_data, **options)
        return checked

    def __reduce__(self) -> tuple[Any, ...]:
        """A class that is made at run time is not found by its name."""
        return empty, (recipe_type,), self.__getstate__()

    def to_yaml(self) -> str:
        """The recipe with every default written out; loads to an equal recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def recipe_type() -> type[Recipe]:
    """`Recipe`, of the costs and search methods that are installed."""
    return _admitting(budget_type(), *(method.config for method in methods().values()))


@functools.cache  # recipes are equal only if their class is the same
def _admitting(budget: type[BudgetConfig], *configs: type[BaseModel]) -> type[Recipe]:
    union: Any = Union[configs]  # noqa: UP007 - its members are known at run time only
    search: Any = (Annotated[union, Field(discriminator="method")], ...)
    return create_model("Recipe", __base__=Recipe, __doc__=Recipe.__doc__, search=search, budget=(budget, ...))
