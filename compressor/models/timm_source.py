"""timm:NAME, the networks of timm."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from torch import nn

from compressor.errors import ModelError, UnavailableError
from compressor.models.referenced_source import ReferencedSource
from compressor.models.user_code import made_by
from compressor.recipe.model_name import ModelName


class TimmSource(ReferencedSource):
    """A network of timm, an extra."""

    def check(self, options: Mapping[str, Any]) -> None:
        """See `ModelSource`."""
        name = ModelName.of(self.model).name
        try:
            import timm
        except ImportError as error:
            raise UnavailableError(
                f"model.name: timm:{name} needs timm, which is not installed: pip install 'onnx-compressor[timm]'"
            ) from error
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), n=3)  # of more than a thousand
            hint = f"; near it are {', '.join(near)}" if near else ""
            raise ModelError(f"model.name: timm:{name}: timm has no such model (timm.list_models() has them all){hint}")

    def made(self, classes: int, options: Mapping[str, Any]) -> nn.Module:
        """See `ReferencedSource`; fresh unless the options ask for weights."""
        self.check(options)
        import timm

        name = ModelName.of(self.model).name
        return made_by(self.model, lambda: timm.create_model(name, num_classes=classes, **options))
