"""Recipes: what to compress, to which budget, how. YAML in, checked pydantic models out. Imports no torch."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Union, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    PositiveFloat,
    ValidationError,
    create_model,
    model_validator,
)

from compressor.errors import RecipeError, not_one_of
from compressor.plugins import with_plugins

_UNITS = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}
_QUANTITY = re.compile(r"\s*([0-9_.]+(?:[eE][+-]?[0-9]+)?)\s*([kMG]?)\s*")
_SHARE = re.compile(r"\s*([0-9.]+(?:[eE][+-]?[0-9]+)?)\s*x\s*")


_LARGEST_QUANTITY = 10**15  # whole numbers up to here are exact as floats
_LARGEST_COUNT = 2**31 - 1
_LARGEST_SHARE = 10**6


def _quantity(value: Any) -> Any:
    """Turn '0.58M' and 58e3 into whole numbers; anything else is left for pydantic to refuse."""
    if isinstance(value, str):
        match = _QUANTITY.fullmatch(value)
        try:
            value = float(match[1].replace("_", "")) * _UNITS[match[2]] if match else None
        except ValueError:
            value = None
    if value is None or isinstance(value, bool):
        raise ValueError("must be a number such as 580000, 0.58M or 580k")
    return int(value + 1e-6) if isinstance(value, float) and 1 <= value <= _LARGEST_QUANTITY else value


def _limit(value: Any) -> Any:
    """A quantity, or a share of the unscaled network's cost such as '0.25x'."""
    if isinstance(value, str) and (share := _SHARE.fullmatch(value)):
        try:
            fits = 0 < float(share[1]) <= _LARGEST_SHARE
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"a share of the unscaled network must be above 0 and at most {_LARGEST_SHARE}x")
        return f"{share[1]}x"
    try:
        value = _quantity(value)
    except ValueError as error:
        raise ValueError(f"{error}, or a share of the unscaled network such as 0.25x") from error
    if not isinstance(value, int) or not 0 < value <= _LARGEST_QUANTITY:
        raise ValueError(
            f"must be a whole number from 1 to {_LARGEST_QUANTITY:.0e}, or a share of the unscaled network "
            "such as 0.25x"
        )
    return value


def _minimum(value: Any) -> Any:
    counts = list(value.values()) if isinstance(value, dict) else [value]
    if not all(type(count) is int and 0 < count <= _LARGEST_COUNT for count in counts):
        raise ValueError("must be a whole number above 0, or a mapping of groups to such numbers")
    return value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):  # Python takes True for 1
        raise ValueError("must be a number")
    return value


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Limit = Annotated[
    Annotated[int, Field(gt=0, le=_LARGEST_QUANTITY)] | Annotated[str, Field(pattern=r"^[0-9.eE+-]+x$")],
    BeforeValidator(_limit),
]
PositiveInt = Annotated[int, Field(gt=0, le=_LARGEST_COUNT), BeforeValidator(_no_bool)]
BatchSize = Annotated[PositiveInt, Field(ge=2)]  # batch-norm needs two images
Threads = Annotated[PositiveInt, Field(le=1024)]
Minimum = Annotated[PositiveInt | dict[str, PositiveInt], BeforeValidator(_minimum)]
NonNegativeInt = Annotated[int, Field(ge=0, le=_LARGEST_COUNT), BeforeValidator(_no_bool)]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(_Config):
    """The network to compress."""

    name: str = Field(description="zoo name, torchvision:NAME, timm:NAME or package.module:factory")
    width: Annotated[float, Field(gt=0, le=100)] = Field(1.0, description="multiplier of every default width")
    options: dict[str, JsonValue] = Field({}, description="options of that model, such as {shortcut: identity}")


class DataConfig(_Config):
    """The images to train and test on."""

    name: str = Field(description="digits, idx, cifar10, cifar100, imagefolder or a plug-in's name")
    path: str | None = Field(None, description="folder of the data, relative to where the command runs")
    download: bool = Field(False, description="let torchvision download cifar10/cifar100 when absent")
    image_size: Annotated[PositiveInt, Field(le=4096)] | None = Field(
        None, description="resize to this many pixels square; null: as they are"
    )
    channels: Literal[1, 3] | None = Field(None, description="convert to grey (1) or RGB (3); null: as they are")
    validation: Annotated[float, Field(ge=0.0, le=0.9)] = Field(
        0.1, description="share of the training part held out, chosen by the seed"
    )
    limit: PositiveInt | None = Field(None, description="use only this many training images; null: all")
    memory_gib: PositiveFloat = Field(4.0, description="image folders up to this decoded size stay in memory")
    augment: tuple[Literal["flip", "crop", "cutout"], ...] = Field((), description="random changes of training images")


class BudgetConfig(_Config):
    """Upper limits of the result; all given ones must hold. 0.25x is a quarter of what the unscaled network has."""

    params: Limit | None = Field(None, description="parameters, such as 580000, 0.58M or 0.25x")
    macs: Limit | None = Field(None, description="multiply-adds for one image, such as 10M or 0.25x")
    onnx_bytes: Limit | None = Field(None, description="size of the ONNX file, such as 200k or 0.25x")
    latency_ms: PositiveFloat | None = Field(None, description="latency on the runtime; not yet supported")

    @model_validator(mode="after")
    def _check(self) -> BudgetConfig:
        if self.latency_ms is not None:
            raise ValueError(f"latency_ms is not supported yet; valid limits today: {', '.join(_LIMITS)}")
        if not self.names:
            raise ValueError(f"sets no limit; give one or more of {', '.join(_LIMITS)}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the limited costs."""
        return tuple(name for name in _LIMITS if getattr(self, name) is not None)

    def resolve(self, reference_costs: Mapping[str, float]) -> dict[str, float]:
        """{cost name: limit}, shares turned into whole numbers, rounded down.

        Args:
            reference_costs: {cost name: what the unscaled network costs}; holds all of `names`
        """
        return {name: _resolved(getattr(self, name), reference_costs[name]) for name in self.names}


_LIMITS = ("params", "macs", "onnx_bytes")


def _resolved(value: int | str, whole: float) -> float:
    if isinstance(value, int):
        return float(value)
    # The decimal number that was written: as a float, 0.07 of 100 would be 7.000…001, and 0.29 of 100 less than 29.
    return float(math.floor(Fraction(value.removesuffix("x")) * Fraction(whole)))


class WidthsConfig(_Config):
    """Which channel counts the width groups may have, in the result and in every scaled baseline."""

    round_to: PositiveInt = Field(1, description="every width is a multiple of this, such as 8; frozen groups are not")
    minimum: Minimum = Field(
        1, description="fewest channels of every group, or {group: channels}; rounded up to round_to"
    )
    frozen: tuple[str, ...] = Field((), description="groups that keep the unscaled network's width")


class PruningConfig(_Config):
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


class L1Config(_Config):
    """Filters of smallest L1 norm leave a trained network, which is then fine-tuned (Li et al., ICLR 2017)."""

    uses: ClassVar[tuple[str, ...]] = ("train",)  # sections of the recipe that the search follows beside its own

    method: Literal["l1"] = "l1"
    finetune_epochs: PositiveInt = Field(40, description="NeuralScale's paper: 40 for CIFAR, 20 for Tiny-ImageNet")
    finetune_lr: PositiveFloat = Field(0.001, description="learning rate of fine-tuning, constant")


class RandomConfig(_Config):
    """Every width a random share of its own, scaled together to the budget."""

    method: Literal["random"] = "random"
    draw: NonNegativeInt = Field(0, description="which draw, beside the recipe's seed")
    smallest: Annotated[float, Field(gt=0, le=1)] = Field(
        0.1, description="shares lie between this and 1, evenly in the logarithm"
    )


class UniformConfig(_Config):
    """One width multiplier for all groups."""

    method: Literal["uniform"] = "uniform"
    shortcut: Literal["convcut"] | None = Field(
        None, description="convcut: scale the network with a 1×1 convolution in every shortcut; null: as the model says"
    )


class TrainConfig(_Config):
    """Training of the result from scratch; baselines are trained alike."""

    epochs: PositiveInt = 30
    batch_size: BatchSize = 128
    schedule: Literal["paper", "onecycle"] = Field(
        "onecycle",
        description="paper: steps ÷10 at 1/3, 2/3 and 5/6 of the epochs; onecycle: warm-up, then cosine to 0",
    )
    lr: PositiveFloat = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="null: 0.5 for paper, 0.9 with Nesterov for onecycle"
    )
    weight_decay: NonNegativeFloat = 5e-4
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    keep: Literal["last", "best"] = Field("last", description="weights of the last epoch or of the best validation one")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 on CUDA, fp32 on a CPU")
    channels_last: Literal[True, False, "auto"] = Field("auto", description="auto: for networks with 2-d convolutions")


class ExportConfig(_Config):
    """The ONNX file."""

    opset: Annotated[int, Field(ge=18, le=23)] = Field(20, description="ONNX operator set")
    tolerance: PositiveFloat = Field(1e-4, description="largest allowed relative difference to PyTorch")


class BenchConfig(_Config):
    """Latency on ONNX Runtime; defaults are NeuralScale's protocol (section 4.2)."""

    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    batch: Annotated[PositiveInt, Field(le=65536)] = 100
    warmup: NonNegativeInt = 20
    runs: PositiveInt = 80
    threads: Threads | None = Field(None, description="intra-op threads; null: ONNX Runtime's choice")


class Recipe(_Config):
    """One run: from a network, a data set and a budget to a trained ONNX model."""

    model: Annotated[ModelConfig, BeforeValidator(_named)]
    data: Annotated[DataConfig, BeforeValidator(_named)]
    budget: BudgetConfig
    widths: WidthsConfig = WidthsConfig()
    search: Annotated[
        NeuralScaleConfig | MorphNetConfig | L1Config | RandomConfig | UniformConfig, Field(discriminator="method")
    ]
    train: TrainConfig = TrainConfig()
    export: ExportConfig = ExportConfig()
    bench: BenchConfig = BenchConfig()
    baselines: tuple[Literal["uniform", "reference"], ...] = Field(
        ("uniform", "reference"),
        description="networks to train beside the result: uniform scaling, and the unscaled one",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where to train")
    threads: Threads | None = Field(None, description="CPU threads of torch; null: torch's choice")
    checkpoint_seconds: NonNegativeFloat = Field(30.0, description="least time between two checkpoints of training")
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _best_needs_validation(self) -> Recipe:
        if self.train.keep == "best" and self.data.validation == 0:
            raise ValueError("train.keep: best needs validation images, but data.validation is 0; valid: last")
        return self

    def to_yaml(self) -> str:
        """The recipe with every default written out; loads to an equal recipe."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


BUILTIN_METHODS: dict[str, type[BaseModel]] = {
    "neuralscale": NeuralScaleConfig,
    "morphnet": MorphNetConfig,
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


def recipe_type() -> type[Recipe]:
    """`Recipe`, with the methods of installed plug-ins admitted under `search`."""
    configs = method_configs()
    return Recipe if configs.keys() == BUILTIN_METHODS.keys() else _admitting(*configs.values())


@functools.cache  # recipes are equal only if their class is the same
def _admitting(*configs: type[BaseModel]) -> type[Recipe]:
    union: Any = Union[configs]  # noqa: UP007 - its members are known at run time only
    search: Any = (Annotated[union, Field(discriminator="method")], ...)
    return create_model("Recipe", __base__=Recipe, search=search)


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice (YAML says so, PyYAML keeps the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.append(key)
        return super().construct_mapping(node, deep)


def load_recipe(path: Path | str, overrides: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: YAML file
        overrides: "a.b=value" each, value in YAML, put into the recipe before it is checked

    Raises:
        RecipeError: file missing, not YAML, unknown key, bad value; names the file, the path in it and what is valid
    """
    source = Path(path)
    try:
        text = source.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{source}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{source}: not a text file in UTF-8") from error
    try:
        raw = _load_yaml(text)
    except ValueError as error:
        raise RecipeError(f"{source}: not valid YAML: {error}") from error
    return parse_recipe(raw, overrides, str(source))


def parse_recipe(raw: Any, overrides: Iterable[str] = (), source: str = "recipe") -> Recipe:
    """Check a recipe given as nested dicts; see `load_recipe`."""
    if not isinstance(raw, dict):
        raise RecipeError(f"{source}: must be a mapping with the keys {', '.join(Recipe.model_fields)}")
    try:
        raw = json.loads(json.dumps(raw, default=str))  # a deep copy: overrides must not reach the caller's dict
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(f"{source}: not a recipe: {error}") from error
    for override in overrides:
        _override(raw, override)
    try:
        return recipe_type().model_validate(raw)
    except ValidationError as error:
        lines = "\n".join(f"{source}: {line}" for line in _explain(error, raw))
        raise RecipeError(lines) from error


def schema() -> dict[str, Any]:
    """JSON schema of recipes, for editors."""
    return recipe_type().model_json_schema()


def _load_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: not YAML; says why and where, on one line
    """
    try:
        return yaml.load(text, _StrictLoader)
    except yaml.MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem}{line}") from error
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except (ValueError, KeyError, AttributeError) as error:  # PyYAML lets those of bad dates and numbers through
        raise ValueError(f"a value does not fit its type: {error}") from error


def _override(raw: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    *parents, last = path.split(".")
    if not equals or not all((*parents, last)):
        raise RecipeError(f"--set {override!r}: must look like search.iterations=3")
    try:
        value = json.loads(json.dumps(_load_yaml(text), default=str))
    except (TypeError, ValueError, RecursionError) as error:
        raise RecipeError(f"--set {override!r}: {text!r} is not a YAML value: {error}") from error
    place = raw
    for depth, key in enumerate(parents):
        inner = place.setdefault(key, {})
        if isinstance(inner, str) and depth == 0 and key in ("model", "data"):
            inner = place[key] = {"name": inner}
        if not isinstance(inner, dict):
            raise RecipeError(f"--set {override!r}: {'.'.join(parents[: depth + 1])} is {inner!r}, not a mapping")
        place = inner
    if path == "search.method" and place.get("method") != value:
        place.clear()  # options of one method mean nothing to another
    place[last] = value


def _explain(error: ValidationError, raw: Mapping[str, Any]) -> list[str]:
    """One sentence per problem: path, bad value, what is valid."""
    lines = []
    for item in error.errors(include_url=False):
        location = [str(part) for part in item["loc"]]
        if location[:1] == ["search"] and location[1:2] and location[1] in method_configs():
            del location[1]  # pydantic names the member of the union; the recipe has no such level
        path = ".".join(location)
        if item["type"] == "extra_forbidden":
            lines.append(f"{path}: unknown key: {not_one_of(location[-1], _valid_keys(location[:-1], raw))}")
        elif item["type"] == "missing":
            lines.append(f"{path}: missing")
        elif item["type"] == "union_tag_invalid":
            lines.append(f"{path}.method: {not_one_of(item['input'].get('method'), method_configs())}")
        elif item["type"] == "union_tag_not_found":
            lines.append(f"{path}.method: missing; one of {', '.join(sorted(method_configs()))}")
        elif item["type"] in ("model_type", "model_attributes_type"):
            keys = _valid_keys(location, raw)
            lines.append(f"{path}: {item['input']!r} must be a mapping with keys among {', '.join(keys)}")
        else:
            message = item["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
            value = "" if isinstance(item["input"], dict) else f"{item['input']!r} is not valid: "
            lines.append(f"{path}: {value}{message}")
    return lines


def _valid_keys(parents: list[str], raw: Mapping[str, Any]) -> list[str]:
    fields = Recipe.model_fields
    if not parents:
        return list(fields)
    if parents[0] == "search":
        section = raw["search"]
        return list(method_configs()[section["method"]].model_fields) if isinstance(section, dict) else ["method"]
    annotation = fields[parents[0]].annotation
    return list(annotation.model_fields) if isinstance(annotation, type) and issubclass(annotation, BaseModel) else []
