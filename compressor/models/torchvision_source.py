"""torchvision:NAME, its classifiers and segmenters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from compressor.errors import ModelError, not_one_of
from compressor.models.referenced_source import ReferencedSource
from compressor.models.user_code import made_by
from compressor.recipe.model_name import ModelName


class TorchvisionSource(ReferencedSource):
    """A network of torchvision."""

    def check(self, options: Mapping[str, Any]) -> None:
        """See `ModelSource`."""
        self._segments()

    def made(self, classes: int, options: Mapping[str, Any]) -> nn.Module:
        """See `ReferencedSource`; fresh unless the options ask for weights."""
        from torchvision import models

        name = ModelName.of(self.model).name
        if not self._segments():
            return made_by(self.model, lambda: models.get_model(name, num_classes=classes, **options))
        from compressor.models.deeplab import segmenter_of

        given = {"weights_backbone": None, **options}  # else its backbone would be downloaded
        return made_by(self.model, lambda: segmenter_of(models.get_model(name, num_classes=classes, **given)))

    def _segments(self) -> bool:
        """Whether it is a segmenter rather than a classifier."""
        from torchvision import models

        name = ModelName.of(self.model).name
        classifiers = models.list_models(module=models)  # those of detection and segmentation live in sub-modules
        segmenters = models.list_models(module=models.segmentation)
        if name not in (*classifiers, *segmenters):
            raise ModelError(f"model.name: torchvision:{not_one_of(name, [*classifiers, *segmenters])}")
        return name in segmenters
