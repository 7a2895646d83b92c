"""What the stages of a run hand on to each other: the JSON files of a run folder, typed; no one else reads their keys.

A file that is damaged, was changed or comes from elsewhere fails where it is read, with one sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, RootModel, TypeAdapter, ValidationError, model_validator

from compressor.dependency.inputs import Inputs
from compressor.errors import RunError, not_one_of
from compressor.files import read_text, write_json
from compressor.pipeline.run_network import Begin
from compressor.recipe import Cost, costs
from compressor.recipe.precision import precisions
from compressor.recipe.stored import Amount, Count, Finite, Limit, Number, Share, Size, problem_of
from compressor.search import Finetuning
from compressor.training.trainer import EpochRecord

_AMOUNT: TypeAdapter[float] = TypeAdapter(Amount)


def damaged(path: Path, problem: str) -> RunError:
    """What to raise of a file in a run folder."""
    return RunError(f"{path}: {problem}; the file was damaged or changed, or comes from another version")


def of_networks(path: Path, found: Mapping[str, Any], names: Iterable[str]) -> None:
    """Check that a file has an entry for every network of the run.

    Raises:
        RunError: it lacks one
    """
    for name in names:
        if name not in found:
            raise damaged(path, f"it has nothing of the network {name!r}")


class _File(BaseModel):
    """A JSON file of a run folder."""

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check the file.

        Raises:
            RunError: it cannot be read, is not JSON, or lacks a key or has one of another type; says which
        """
        try:
            return cls.model_validate_json(read_text(path), strict=True)
        except ValidationError as error:
            raise damaged(path, problem_of(error)) from error

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_json(path, self.model_dump())


class Dataset(BaseModel):
    """What the data was, as reports describe it: its name, the shape of a sample, its classes, and samples by split."""

    model_config = ConfigDict(extra="allow")

    name: str
    input_shape: list[Size]
    classes: Count
    train: Count
    validation: Count
    test: Count

    @model_validator(mode="after")
    def _shape(self) -> Self:
        if len(self.input_shape) not in (1, 2, 3):
            raise ValueError(f"input_shape must be of one to three numbers, not {self.input_shape}")
        return self


class InputsRecord(BaseModel):
    """Kinds and shapes (without the batch) of the inputs of a network whose inputs are its own."""

    by_position: list[tuple[str, list[Count]]]
    by_name: dict[str, tuple[str, list[Count]]]

    @classmethod
    def of(cls, inputs: Inputs) -> Self:
        """The record of some inputs."""

        def told(tensor: torch.Tensor) -> tuple[str, list[int]]:
            return str(tensor.dtype).removeprefix("torch."), list(tensor.shape[1:])

        named = {name: told(one) for name, one in inputs.kwargs.items()}
        return cls(by_position=list(map(told, inputs.args)), by_name=named)

    def zeros(self) -> Inputs:
        """Two samples of such inputs."""

        def made(kind: str, shape: list[int]) -> torch.Tensor:
            found = getattr(torch, kind, None)
            return torch.zeros(2, *shape, dtype=found if isinstance(found, torch.dtype) else None)

        named = {name: made(*one) for name, one in self.by_name.items()}
        return Inputs(tuple(made(*one) for one in self.by_position), named)


class SearchRecord(_File):
    """search.json: what the search found beside the architecture, and for which data.

    Costs may add what they measured meanwhile under a key of their own (`Cost.search_record`).

    Attributes:
        trace: of the method
        limits: of the budget, as numbers
        one_channel: {cost: what one more channel of the cheapest group would add}
        binding: the limit that stops growth
        note: that the budget needs no compression
        dataset: as reports describe it
        images: what identifies the data; another set is not trained on
        reference_widths: of the unscaled network
        begins: {network: with which weights it begins}, see `RunNetwork`
        finetuning: how to go on from the weights that the search gave; None: as the recipe says
        training: of these weights
        round_to: what the groups' widths are multiples of
        remarks: what the user must know of how the network was taken, a sentence each
        inputs: of a network whose inputs are its own
    """

    model_config = ConfigDict(extra="allow")

    trace: dict[str, Any]
    limits: dict[str, Limit]
    one_channel: dict[str, Finite]
    binding: str | None
    note: str | None
    dataset: Dataset
    images: list[Any] | None = None
    reference_widths: dict[str, Size]
    begins: dict[str, Begin]
    finetuning: Finetuning | None = None
    training: list[EpochRecord] = []
    round_to: list[Size] = []
    remarks: list[str] = []
    inputs: InputsRecord | None = None

    @model_validator(mode="after")
    def _of_costs(self) -> Self:
        for cost in costs().values():
            if cost.search_type is not None and (found := self.of_cost(cost.search_record)) is not None:
                try:
                    cost.search_type.model_validate(found)
                except ValidationError as error:
                    raise ValueError(f"{cost.search_record}.{problem_of(error)}") from error
        return self

    @model_validator(mode="after")
    def _iterations(self) -> Self:
        found = self.trace.get("iterations") or []
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise ValueError(f"trace.iterations must be a list of objects, not {found!r:.80}")
        return self

    def of_cost(self, key: str) -> Any:
        """What a cost has kept under its `search_record`; None where it was not limited."""
        return (self.model_extra or {}).get(key)


class TrainRecord(RootModel[list[EpochRecord]], _File):
    """training.json: the epochs of a network's final training."""

    @classmethod
    def of(cls, history: Sequence[EpochRecord]) -> Self:
        """The record of a training."""
        return cls(list(history))

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """The epochs as JSON values."""
        return [asdict(epoch) for epoch in self.root]


class Scores(BaseModel):
    """The accuracy of a network in both runtimes.

    Attributes:
        onnx: of the file, a share; None where a function of the user's judges networks
        torch: of the network in PyTorch
        samples: that it was measured on
        weights: "last" or "best" epoch
    """

    onnx: Share | None
    torch: Share | None
    samples: Count
    weights: str


class MetricRecord(BaseModel):
    """What networks are compared by: `name`, which is `better` ("higher" or "lower"), and its values."""

    name: str
    better: Literal["higher", "lower"]
    onnx: Number
    torch: Number


class ParityRecord(BaseModel):
    """How far the file is from PyTorch: as `compressor.exporters.Parity`; no tolerance where none was asked for."""

    max_abs_error: Amount
    max_rel_error: Amount
    batches: list[Size]
    tolerance: Limit | None


class SchemeResult(BaseModel):
    """What a scheme of a precision, or the plain file, came to."""

    median_ms: Amount
    onnx_bytes: Size
    score: Number | None


class SchemeChoice(BaseModel):
    """How schemes compare: results by name, that of the plain file, and reasons why some do not work."""

    chosen: str
    schemes: dict[str, SchemeResult]
    fp32: SchemeResult
    refused: dict[str, str]

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.chosen not in self.schemes:
            raise ValueError(f"chosen: {self.chosen!r:.80} is not among the schemes")
        return self


class WeighedPrecision(BaseModel):
    """A precision beside float32: points lost, times its latency with the interval, and what speaks against it."""

    name: str
    points: Number | None
    ratio: tuple[Amount, Amount, Amount]
    rejected: str | None


class QuantizationAware(BaseModel):
    """What training on with the rounding of the precision came to: points lost before and after, of the same score; and
    why there are none, where it failed.
    """

    epochs: Count
    points_before: Number | None
    points: Number | None
    taken: bool
    failed: str | None = None


class PrecisionGate(BaseModel):
    """Why a file is of its precision: those tried, and larger ones that could not ship, with the reason.

    Points are lost of `plain_score`, which the float32 file of the network as it was trained has.
    """

    asked: str
    tolerance_points: Amount
    tried: list[WeighedPrecision]
    unmet: dict[str, str]
    qat: QuantizationAware | None = None
    fast_scheme: bool
    plain_score: Number | None
    metric: str
    judged: Count


class PrecisionRecord(BaseModel):
    """The precision of a file: its `name`, and a `note` on it; how it was chosen among schemes, where it has any."""

    model_config = ConfigDict(extra="allow")

    name: str
    note: str | None

    @property
    def gate(self) -> dict[str, Any] | None:
        """Why the file is of its precision, as `PrecisionGate`; None: it was asked for without conditions."""
        return (self.model_extra or {}).get("gate")

    @property
    def trained_on(self) -> bool:
        """Whether the file is of a network that was trained on with the rounding of its precision."""
        return bool(((self.gate or {}).get("qat") or {}).get("taken"))

    @model_validator(mode="after")
    def _chosen(self) -> Self:
        for key, kind in _OF_PRECISION.items():
            if key in (extra := self.model_extra or {}):
                try:
                    kind.validate_python(extra[key])
                except ValidationError as error:
                    raise ValueError(f"{key}.{problem_of(error)}") from error
        return self


_OF_PRECISION: dict[str, TypeAdapter[Any]] = {  # keys that are only there where they say something
    "scheme": TypeAdapter(SchemeChoice),
    "parity_of_fp32": TypeAdapter(ParityRecord),
    "calibration": TypeAdapter(Count),
    "judged": TypeAdapter(Count),
    "gate": TypeAdapter(PrecisionGate),
}


class ExportRecord(_File):
    """export.json: one network's file; beside these keys it has its costs (`Cost.shipped`).

    Attributes:
        opset: of ONNX
        versions: of the libraries that made it
        accuracy: in both runtimes
        metric: likewise
        parity: of the file with PyTorch
        precision: of its weights, and how it was chosen
        stacked: how layouts of stacked layers compare; None: it has one
        also: {format: file} of further exports
        unjudged: why the metric is PyTorch's and not the file's
        agreement: share of test samples (pixels) to which the file gives the class that the original ONNX file gives
        wanted_opset: that was asked for, or that of the original ONNX file, where the file is of another one
    """

    model_config = ConfigDict(extra="allow")

    opset: Size
    versions: dict[str, str]
    accuracy: Scores
    metric: MetricRecord
    parity: ParityRecord
    precision: PrecisionRecord
    stacked: dict[str, Any] | None
    also: dict[str, Any] = {}
    unjudged: str | None = None
    agreement: Share | None = None
    wanted_opset: Size | None = None

    @model_validator(mode="after")
    def _costs(self) -> Self:
        extra = self.model_extra or {}
        for name, cost in costs().items():
            if name not in extra and cost.always:
                raise ValueError(f"{name} is missing")
            try:
                _AMOUNT.validate_python(extra.get(name, 0))
            except ValidationError as error:
                raise ValueError(f"{name} {problem_of(error)}") from error
        return self

    @property
    def costs(self) -> dict[str, float]:
        """{cost: what the network and its file cost}, of the costs that were recorded."""
        extra = self.model_extra or {}
        return {name: extra[name] for name in costs() if name in extra}


class NetworkLatency(BaseModel):
    """One network's part of it: as `compressor.bench.Latency` writes it; these keys are what reports need."""

    model_config = ConfigDict(extra="allow")

    batch: Size
    provider: str
    threads: Count
    mean_ms: Amount
    median_ms: Amount
    p90_ms: Amount
    p99_ms: Amount
    throughput_per_s: Amount
    samples_ms: list[Amount]


class LatencyRecord(_File):
    """latency.json: all networks of a run, measured in turns.

    Attributes:
        networks: {name: as `compressor.bench` gives it}
        machine: where
        block: channels that the provider computes at once there; None: of an earlier version
    """

    networks: dict[str, NetworkLatency]
    machine: dict[str, Any]
    block: Size | None = None


class Mending(BaseModel):
    """One time that a result was made smaller, or could not be.

    Attributes:
        measured: {cost: what its file was measured at}, of the limits that were not met
        limits: {cost: its limit}
        widths: {group: channels before and after}, of those that changed
        epochs: of fine-tuning
        refused: why it could not be made smaller
    """

    measured: dict[str, Limit]
    limits: dict[str, Limit]
    widths: dict[str, tuple[Size, Size]] = {}
    epochs: Count = 0
    refused: str | None = None


class MendedRecord(RootModel[list[Mending]], _File):
    """mended.json: the result was measured above its limit."""


class PlannedPrecision(_File):
    """precision.json: what `export.precision: auto` stands for in this run.

    Attributes:
        name: of the precision
        ratio: times the latency of float32 that the unscaled network takes in it, upper end; 1 where that was not
            measured
    """

    name: str
    ratio: Limit = 1.0

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.name not in precisions():
            raise ValueError(f"name: {not_one_of(self.name, precisions())}")
        return self


class FailuresRecord(RootModel[dict[str, str]], _File):
    """failures.json of a comparison: {folder of a run: why its budget cannot be met}."""


class VerificationRecord(RootModel[dict[str, dict[str, Any]]], _File):
    """{network: how its file was measured against a limit}, in the file that the cost names (`Cost.record`)."""

    @classmethod
    def of_cost(cls, path: Path, cost: Cost, networks: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Read and check a cost's file.

        Raises:
            RunError: it lacks a network, or what it says of one cannot be
        """
        found = cls.read(path).root
        of_networks(path, found, networks)
        for network, values in found.items():
            try:
                _AMOUNT.validate_python(values.get(cost.verified))
            except ValidationError as error:
                raise damaged(path, f"{network}.{cost.verified}: {problem_of(error)}") from error
            try:
                if cost.record_type is not None:
                    cost.record_type.model_validate(values)
            except ValidationError as error:
                raise damaged(path, f"{network}.{problem_of(error)}") from error
        return found
