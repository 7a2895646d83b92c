"""What the stages of a run hand on to each other: the JSON files of a run folder, typed; no one else reads their keys.

A file that is damaged, was changed or comes from elsewhere fails where it is read, with one sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, RootModel, ValidationError

from compressor.errors import RunError
from compressor.files import read_text, write_json
from compressor.recipe import costs
from compressor.search import Finetuning
from compressor.training.trainer import EpochRecord

Number = int | float


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
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            problem = f"{place}: {first['msg']}" if place else first["msg"]
            raise RunError(
                f"{path}: {problem}; the file was damaged or changed, or comes from another version"
            ) from error

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_json(path, self.model_dump())


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
        finetuning: how to go on from the weights that the search gave; None: it gave none
        training: of these weights
        round_to: what the groups' widths are multiples of
    """

    model_config = ConfigDict(extra="allow")

    trace: dict[str, Any]
    limits: dict[str, Number]
    one_channel: dict[str, Number]
    binding: str | None
    note: str | None
    dataset: dict[str, Any]
    images: list[Any] | None = None
    reference_widths: dict[str, int]
    finetuning: Finetuning | None = None
    training: list[EpochRecord] = []
    round_to: list[int] = []

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
        onnx: of the file, a share
        torch: of the network in PyTorch
        samples: that it was measured on
        weights: "last" or "best" epoch
    """

    onnx: Number
    torch: Number
    samples: int
    weights: str


class MetricRecord(BaseModel):
    """What networks are compared by: `name`, which is `better` ("higher" or "lower"), and its values."""

    name: str
    better: str
    onnx: Number
    torch: Number


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
    """

    model_config = ConfigDict(extra="allow")

    opset: int
    versions: dict[str, str]
    accuracy: Scores
    metric: MetricRecord
    parity: dict[str, Any]
    precision: dict[str, Any]
    stacked: dict[str, Any] | None
    also: dict[str, Any] = {}

    @property
    def costs(self) -> dict[str, float]:
        """{cost: what the network and its file cost}, of the costs that were recorded."""
        extra = self.model_extra or {}
        return {name: extra[name] for name in costs() if name in extra}


class LatencyRecord(_File):
    """latency.json: all networks of a run, measured in turns.

    Attributes:
        networks: {name: as `compressor.bench` gives it}
        machine: where
    """

    networks: dict[str, dict[str, Any]]
    machine: dict[str, Any]


class VerificationRecord(RootModel[dict[str, dict[str, Any]]], _File):
    """{network: how its file was measured against a limit}, in the file that the cost names (`Cost.record`)."""
