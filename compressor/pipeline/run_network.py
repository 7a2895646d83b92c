"""A network of a run: the result, or one trained beside it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from compressor.models.architecture import Architecture
from compressor.search import Finetuning

Begin = Literal["fresh", "given", "kept", "found", "trained"]


@dataclass(frozen=True)
class RunNetwork:
    """A network that a run trains, exports and measures.

    Attributes:
        name: "result", or that of a reference
        folder: of its files
        architecture: of the network
        begins: with which weights: fresh ones, trained as the recipe's `train` says; those of a trained network, which
            are left as they are (given); the best-ranked channels of these (kept), or what the search hands over
            (found), both fine-tuned; fresh ones that the search has trained as the recipe says (trained)
        distilled: whether it learns from a teacher
        finetuning: how a search would have its weights trained on; None: as the recipe's `finetune` says
    """

    name: str
    folder: Path
    architecture: Architecture
    begins: Begin = "fresh"
    finetuning: Finetuning | None = None
    distilled: bool = False

    def has(self, *names: str) -> bool:
        """Whether all of these files are in its folder."""
        return all((self.folder / name).exists() for name in names)

    @property
    def trained(self) -> bool:
        """Whether its final weights are there."""
        return self.has("training.json", "weights.safetensors")

    @property
    def exported(self) -> bool:
        """Whether its file is there."""
        return self.has("export.json", "model.onnx")
