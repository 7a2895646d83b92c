"""An architecture is data: enough to rebuild the network anywhere, without code or pickles."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from compressor.errors import ModelError, not_one_of
from compressor.files import parse_json
from compressor.models.stacked.spec import Stack

_FIELDS = ("model", "options", "classes", "input_shape", "widths")
_STACKS = "stacks"  # in the JSON only of networks that have some
_JSON_NAMES = {str: "text", list: "list", dict: "mapping"}


@dataclass(frozen=True)
class Architecture:
    """A network as a model reference and the widths of its groups.

    Attributes:
        model: zoo name (vgg11_bn), `torchvision:NAME` or `package.module:factory`
        options: keyword options of that model, such as {"shortcut": "identity"}
        classes: number of outputs
        input_shape: of one sample: (C, H, W) of an image, (T,) of a sequence of tokens
        widths: {group name: channels}; a group is named by the module path of its first producing layer
        stacks: {module path of a weight layer: the stacked layer in place of it and a second one}
    """

    model: str
    classes: int
    input_shape: tuple[int, ...]
    widths: Mapping[str, int]
    options: Mapping[str, Any] = field(default_factory=dict)
    stacks: Mapping[str, Stack] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, width in self.widths.items():
            if not _counts(width):
                raise ModelError(f"widths.{name}: {width!r} is not a whole number of channels, 1 or more")
        if not _counts(self.classes):
            raise ModelError(f"classes: {self.classes!r} is not a whole number, 1 or more")
        if len(self.input_shape) not in (1, 2, 3) or not all(map(_counts, self.input_shape)):
            raise ModelError(f"input_shape: {self.input_shape!r} is not one to three whole numbers, such as (C, H, W)")

    def with_widths(self, widths: Mapping[str, int]) -> Architecture:
        """The same network with other widths.

        Raises:
            ModelError: a name is unknown or missing
        """
        if unknown := set(widths) - set(self.widths):
            raise ModelError(f"widths: {not_one_of(min(unknown), self.widths)}")
        if missing := set(self.widths) - set(widths):
            raise ModelError(f"widths: {min(missing)} is missing")
        return replace(self, widths={name: int(widths[name]) for name in self.widths})

    def to_json(self) -> str:
        """Readable JSON, the same text for the same architecture."""
        value = {name: getattr(self, name) for name in _FIELDS}
        value["widths"], value["options"] = dict(self.widths), dict(self.options)
        if self.stacks:
            value[_STACKS] = {first: stack.to_json() for first, stack in self.stacks.items()}
        return json.dumps(value, indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str = "architecture") -> Architecture:
        """Read what `to_json` wrote.

        Args:
            text: the JSON
            source: what to call it in errors, usually the file's path

        Raises:
            ModelError: not JSON, an unknown or missing key, a width that is no whole number from 1
        """
        try:
            value = parse_json(text)
        except ValueError as error:
            raise ModelError(f"{source}: not valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise ModelError(f"{source}: must be an object with the keys {', '.join(_FIELDS)}")
        if unknown := set(value) - {*_FIELDS, _STACKS}:
            raise ModelError(f"{source}: key {not_one_of(min(unknown), (*_FIELDS, _STACKS))}")
        if missing := set(_FIELDS) - set(value):
            raise ModelError(f"{source}: key {min(missing)} is missing")
        value.setdefault(_STACKS, {})
        for name, kind in (
            ("model", str),
            ("input_shape", list),
            ("widths", dict),
            ("options", dict),
            (_STACKS, dict),
        ):
            if not isinstance(value[name], kind):
                raise ModelError(f"{source}: {name}: {value[name]!r} is not a {_JSON_NAMES[kind]}")
        try:
            stacks = {first: Stack.from_json(stack) for first, stack in value[_STACKS].items()}
            return cls(**value | {"input_shape": tuple(value["input_shape"]), _STACKS: stacks})
        except ModelError as error:
            raise ModelError(f"{source}: {error}") from error


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 2**31
