"""Text as windows of tokens: a network sees some and says, at each of them, which comes next."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from compressor.data.split import IGNORED, Split

_PADDING = -1  # behind the text's last token


class TextSplit(Split):
    """Windows of one text; the targets are the tokens one further on.

    Every window stands for itself: no state is carried from one to the next.

    Args:
        tokens: int32 (M,), the text, `_PADDING` behind its end.
        starts: int64 (N,) on the same device: where in it the windows begin.
        window: tokens per window.
    """

    task = "language"

    def __init__(self, tokens: Tensor, starts: Tensor, window: int) -> None:
        self.text = tokens
        self.starts = starts
        self.window = window
        self.shape = (window,)

    @classmethod
    def to_train(cls, tokens: Tensor, window: int, limit: int | None = None) -> Self:
        """Cut a text into windows that can all be shifted by up to `window` - 1 tokens.

        Args:
            tokens: int32 (M,); tokens behind the last window are left out.
            window: tokens per window.
            limit: use only the beginning of the text, which gives so many windows; None: all of it.
        """
        count = max(0, len(tokens) // window - 1)
        count = count if limit is None else min(count, limit)
        return cls(tokens[: (count + 1) * window], _starts(count, window, tokens), window)

    @classmethod
    def to_measure(cls, tokens: Tensor, window: int) -> Self:
        """Cut a text into windows so that each token but the first is a target once.

        The end of the last window is filled up; targets there are `IGNORED`.

        Args:
            tokens: int32 (M,).
            window: tokens per window.
        """
        count = -(-max(0, len(tokens) - 1) // window)
        padding = tokens.new_full((max(0, count * window + 1 - len(tokens)),), _PADDING)
        return cls(torch.cat([tokens, padding]), _starts(count, window, tokens), window)

    def __len__(self) -> int:
        return self.starts.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tokens are."""
        return self.text.device

    @property
    def tokens(self) -> int:
        """Length of the text that the windows are cut from."""
        return int((self.text != _PADDING).sum())

    @property
    def shifts(self) -> int:
        """How many different cuts there are: windows may begin 0..shifts - 1 tokens later."""
        if len(self) == 0:
            return 1
        return min(self.window, len(self.text) - self.window - int(self.starts.max()))

    def shifted(self, by: int) -> Self:
        """Return a split whose windows begin `by` tokens later."""
        return type(self)(self.text, self.starts + by, self.window)

    def fetch(self, indices: Tensor) -> Tensor:
        """Return the tokens of the windows at `indices` and the one behind them, int32 (B, T + 1)."""
        first = self.starts.index_select(0, indices.to(self.device))
        return self.text[first[:, None] + torch.arange(self.window + 1, device=self.device)]

    def inputs(self, raw: Tensor) -> Tensor:
        """Return the tokens, int64 (B, T)."""
        return raw[:, :-1].long().clamp_(min=0)

    def targets(self, raw: Tensor, indices: Tensor) -> Tensor:
        """Return the next tokens, int64 (B, T), `IGNORED` behind the end of the text."""
        following = raw[:, 1:].long()
        return following.masked_fill_(following == _PADDING, IGNORED)

    def target_range(self) -> tuple[int, int] | None:
        """Return the lowest and the highest token of the text; None if there are no windows."""
        text = self.text[self.text != _PADDING]
        return (int(text.min()), int(text.max())) if len(self) else None

    def subset(self, indices: Tensor) -> Self:
        """Return a split of the windows at `indices`; the text is shared."""
        return type(self)(self.text, self.starts.index_select(0, indices.to(self.device)), self.window)


def _starts(count: int, window: int, tokens: Tensor) -> Tensor:
    return torch.arange(count, device=tokens.device) * window
