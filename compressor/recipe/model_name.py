"""What a recipe's `model.name` says: where the network comes from, and its name there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_NAMED = ("torchvision", "timm", "given", "onnx")


@dataclass(frozen=True)
class ModelName:
    """The parts of a model's name.

    Attributes:
        source: "zoo", "torchvision", "timm", "given" (held by this process), "onnx" (a file), or "factory" (the user's)
        name: what follows the source and its colon; of a factory package.module:function, of the zoo all of it
    """

    source: str
    name: str

    @classmethod
    def of(cls, text: str) -> ModelName:
        """Read `model.name`."""
        source, colon, name = text.partition(":")
        if not colon:
            return cls("zoo", text)
        return cls(source, name) if source in _NAMED else cls("factory", text)

    @property
    def carries_weights(self) -> bool:
        """Whether its weights are the very point of it: it is a file, or an object that this process holds."""
        return self.source in ("given", "onnx")

    @property
    def is_code(self) -> bool:
        """Whether it names a function to import: that of any module."""
        return self.source == "factory"

    @property
    def has_weights(self) -> bool:
        """Whether it can come with weights at all."""
        return self.source != "zoo"

    @property
    def file(self) -> Path | None:
        """The file that it is, if it is one."""
        return Path(self.name) if self.source == "onnx" else None
