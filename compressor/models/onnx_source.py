"""onnx:PATH, the network of an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import nn

from compressor.models.architecture import Architecture
from compressor.models.from_onnx.file import read_file
from compressor.models.onnx_reading import external_files
from compressor.models.referenced_source import ReferencedSource
from compressor.models.zoo import Shape
from compressor.recipe.model_name import ModelName

_SHAPES: dict[str, tuple[int, ...]] = {}  # what files will be used on, where they leave sizes open


class OnnxSource(ReferencedSource):
    """A network of an ONNX file, with its weights."""

    def expect(self, input_shape: Shape) -> None:
        """See `ReferencedSource`."""
        _SHAPES[self.model] = input_shape

    def remarks(self, architecture: Architecture) -> list[str]:
        """See `ModelSource`."""
        port = read_file(Path(ModelName.of(self.model).name)).inputs[0]
        found = super().remarks(architecture)
        if len(port.sizes) == 4 and any(isinstance(size, str) for size in port.sizes[1:]):
            size = " x ".join(str(side) for side in architecture.input_shape[1:])
            found.append(f"{self.model} takes images of any size; the result takes images of {size}")
        return found

    def check(self, options: Mapping[str, Any]) -> None:
        """See `ModelSource`; what is wrong with the file is found when it is read."""

    def version(self) -> str:
        """See `ModelSource`."""
        path = Path(ModelName.of(self.model).name)
        try:
            state = _state(path)
            states = [state, *map(_state, _external(path, state))]
        except OSError:
            return ""
        return f"{' '.join(states)} {_SHAPES.get(self.model, ())} {super().version()}"

    def made(self, classes: int, options: Mapping[str, Any]) -> nn.Module:
        """See `ReferencedSource`."""
        from compressor.models.from_onnx.network import network_of

        return network_of(Path(ModelName.of(self.model).name), options, _SHAPES.get(self.model))


def _state(path: Path) -> str:
    """When a file was changed, and its size."""
    found = path.stat()
    return f"{found.st_mtime_ns} {found.st_size}"


@cache
def _external(path: Path, state: str) -> tuple[Path, ...]:
    """The files with weights beside a file in this state."""
    return tuple(external_files(path))
