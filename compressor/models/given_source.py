"""given:NAME, a network that this process holds."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from compressor.errors import ModelError, not_one_of
from compressor.models.referenced_source import ReferencedSource
from compressor.models.user_code import made_by
from compressor.recipe.model_name import ModelName
from compressor.user_functions import cause_of

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_OFFERED: dict[str, nn.Module] = {}
_COUNT = itertools.count()
_VERSIONS: dict[str, str] = {}  # which of all offers a name stands for


def offer(name: str, network: nn.Module) -> str:
    """Let this process name a network that it holds; its weights are what `model.weights: given` begins with.

    A run folder of such a network can be resumed by a process that offers the same network under the same name.

    Args:
        name: letters, digits, dots, dashes and underscores; an earlier network of that name is forgotten
        network: is copied

    Returns:
        what `model.name` calls it: given:NAME

    Raises:
        ModelError: another name, or it cannot be copied
    """
    if not _NAME.fullmatch(name):
        raise ModelError(f"model.name: given:{name}: a name has letters, digits, dots, dashes and underscores only")
    _OFFERED[name], _VERSIONS[name] = copied(network).cpu(), str(next(_COUNT))
    return f"given:{name}"


def copied(network: nn.Module) -> nn.Module:
    """A copy of a network.

    Raises:
        ModelError: it cannot be copied
    """
    try:
        return copy.deepcopy(network)
    except Exception as error:  # old hooks such as nn.utils.weight_norm, locks and the like forbid it
        raise ModelError(
            f"{type(network).__name__} cannot be copied: {cause_of(error)} (nn.utils.weight_norm and nn.utils.prune "
            "keep tensors that are computed; nn.utils.parametrizations.weight_norm and prune.remove do not)"
        ) from error


def slug(text: str) -> str:
    """A text as a part of such a name."""
    return re.sub(r"[^A-Za-z0-9._]+", "_", text).strip("._") or "network"


def is_offered(name: str) -> bool:
    """Whether this process holds a network under a name."""
    return name in _OFFERED


class GivenSource(ReferencedSource):
    """A network that was offered."""

    def check(self, options: Mapping[str, Any]) -> None:
        """See `ModelSource`."""
        name = ModelName.of(self.model).name
        if name not in _OFFERED:
            known = not_one_of(name, _OFFERED) if _OFFERED else f"{name!r} is not known, nothing was offered"
            raise ModelError(f"model.name: given:{known} (compressor.models.offer in this process)")

    def version(self) -> str:
        """See `ModelSource`."""
        return f"{_VERSIONS.get(ModelName.of(self.model).name, '')} {super().version()}"

    def made(self, classes: int, options: Mapping[str, Any]) -> nn.Module:
        """See `ReferencedSource`."""
        self.check(options)
        if options:
            raise ModelError(f"model.options: a given network has none, not {min(options)!r}")
        return made_by(self.model, lambda: copy.deepcopy(_OFFERED[ModelName.of(self.model).name]))
