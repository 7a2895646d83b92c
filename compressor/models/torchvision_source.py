"""torchvision:NAME, its classifiers and segmenters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.errors import ModelError, UnavailableError, not_one_of
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

    def published_weights(self, name: str, *, download: bool) -> Path:
        """A file of trained weights that torchvision has published, in torch's cache.

        Args:
            name: of its weights enum, such as DEFAULT or IMAGENET1K_V1
            download: fetch it where the cache lacks it

        Raises:
            ModelError: there are none of that name, or the cache lacks them
            UnavailableError: they cannot be downloaded
        """
        from torchvision import models

        known = models.get_model_weights(ModelName.of(self.model).name).__members__
        if not known:
            raise ModelError(f"model.weights: torchvision has published none of {self.model}")
        if name not in known:
            raise ModelError(f"model.weights: torchvision:{not_one_of(name, known)}")
        url = str(known[name].url)
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
        if path.is_file():
            return path
        if not download:
            raise ModelError(
                f"model.weights: {path}: file not found; fetch {url} to there, or say model.download: true"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), path.stem.rpartition("-")[2], progress=False)
        except (OSError, RuntimeError) as error:  # RuntimeError: another hash than the one in its name
            raise UnavailableError(f"model.weights: {url} cannot be downloaded: {error}") from error
        return path

    def _segments(self) -> bool:
        """Whether it is a segmenter rather than a classifier."""
        from torchvision import models

        name = ModelName.of(self.model).name
        classifiers = models.list_models(module=models)  # those of detection and segmentation live in sub-modules
        segmenters = models.list_models(module=models.segmentation)
        if name not in (*classifiers, *segmenters):
            raise ModelError(f"model.name: torchvision:{not_one_of(name, [*classifiers, *segmenters])}")
        return name in segmenters
