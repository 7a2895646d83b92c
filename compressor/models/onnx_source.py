"""onnx:PATH, the network of an ONNX file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from compressor.models.referenced_source import ReferencedSource
from compressor.recipe.model_name import ModelName


class OnnxSource(ReferencedSource):
    """A network of an ONNX file, with its weights."""

    def check(self, options: Mapping[str, Any]) -> None:
        """See `ModelSource`; what is wrong with the file is found when it is read."""

    def version(self) -> str:
        """See `ModelSource`."""
        try:
            found = Path(ModelName.of(self.model).name).stat()
        except OSError:
            return ""
        return f"{found.st_mtime_ns} {found.st_size} {super().version()}"

    def made(self, classes: int, options: Mapping[str, Any]) -> nn.Module:
        """See `ReferencedSource`."""
        from compressor.models.from_onnx.network import network_of

        return network_of(Path(ModelName.of(self.model).name), options)
