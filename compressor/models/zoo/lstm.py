"""Two-layer LSTM language model (Zaremba et al. 2014, "Recurrent neural network regularization").

    embedding – dropout – LSTM – dropout – LSTM – dropout – linear decoder

The large network of that paper, and the baseline of "Growing Efficient Deep Networks" (appendix A.3, A.6): embedding
and hidden states of 1,500, 66.0 M parameters for a vocabulary of 10,000. A width counts hidden units: a unit is its row
in the four gates, its column of the recurrent matrix, and its column in the next layer. The embedding keeps its width.

Every sequence begins at a state of zero. `dropout` is the share that is dropped: 0.65 for the baseline of that
appendix, 0.35 while growing. Weights begin uniform in ±1.5/√(width), which gives the ±0.04, ±0.05 and ±0.1 of Zaremba's
networks of 1,500, 650 and 200 units, to within a fifth.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import nn

from compressor.errors import ModelError
from compressor.models.zoo import Family, Option, Options, Shape, Widths, dropout_option

_SIZE, _DROPOUT, _INIT = 1500, 0.65, 1.5


class LSTMLanguageModel(nn.Module):
    """(N, T) int64 tokens → (N, T, classes) logits of the next token at every place."""

    def __init__(self, widths: Widths, embedding: int, dropout: float, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, embedding)
        self.lstm1 = nn.LSTM(embedding, widths["lstm1"], batch_first=True)
        self.lstm2 = nn.LSTM(widths["lstm1"], widths["lstm2"], batch_first=True)
        self.decoder = nn.Linear(widths["lstm2"], classes)
        self.dropout = nn.Dropout(dropout)
        for module, width in (
            (self.embedding, embedding),
            (self.lstm1, widths["lstm1"]),
            (self.lstm2, widths["lstm2"]),
            (self.decoder, widths["lstm2"]),
        ):
            for parameter in module.parameters():
                nn.init.uniform_(parameter, -_INIT / math.sqrt(width), _INIT / math.sqrt(width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens to logits; place t sees tokens 0 to t."""
        x = self.dropout(self.embedding(tokens))
        x = self.dropout(self.lstm1(x)[0])
        x = self.dropout(self.lstm2(x)[0])
        return self.decoder(x)  # type: ignore[no-any-return]


def _widths(options: Options) -> dict[str, int]:
    return {"lstm1": options["hidden"], "lstm2": options["hidden"]}


def _build(widths: Widths, options: Options, classes: int, shape: Shape) -> nn.Module:
    return LSTMLanguageModel(widths, options["embedding"], options["dropout"], classes)


def _size(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ModelError(f"model.options.{name}: {value!r} is not a whole number, 1 or more")
    return value


FAMILIES = {
    "lstm": Family(
        _widths,
        _build,
        {
            "embedding": Option(_SIZE, partial(_size, "embedding"), "a whole number"),
            "hidden": Option(_SIZE, partial(_size, "hidden"), "a whole number"),
            "dropout": dropout_option(_DROPOUT),
        },
        inputs="tokens",
    )
}
