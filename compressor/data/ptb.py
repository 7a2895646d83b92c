"""Text in the files of the Penn Treebank's language-model edition: train.txt, valid.txt, test.txt, words in lines.

T. Mikolov, M. Karafiat, L. Burget, J. Cernocky, S. Khudanpur: Recurrent Neural Network Based Language Model,
Interspeech 2010.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from compressor.data.config import SourceConfig, data_folder
from compressor.data.dataset import DataSet, complete
from compressor.data.text import TextSplit
from compressor.errors import DataError

END = "<eos>"
UNKNOWN = "<unk>"

_FILES = {"train": ("train.txt",), "validation": ("valid.txt", "val.txt"), "test": ("test.txt",)}


def load(config: SourceConfig, seed: int, device: torch.device) -> DataSet:
    """Load the text files in the folder `config.path`.

    A line is a sentence, its words stand between spaces, its end is the word `END`; lines without a word are no
    sentences. The vocabulary is that of the training file, most frequent first. The validation part is a file
    of its own: `config.validation` says whether there is one, not how large. `config.limit` counts windows, taken
    from the beginning.

    Raises:
        DataError: a setting that text does not have; a file is missing or broken, too short for the window, or
            holds a word that the training file does not, which has no `UNKNOWN` either.
    """
    _check(config)
    paths = _paths(data_folder(config), validation=config.validation > 0)
    names = vocabulary(paths["train"])
    numbers = {word: number for number, word in enumerate(names)}
    texts = {part: _encode(path, numbers).to(device) for part, path in paths.items()}
    train = TextSplit.to_train(texts["train"], config.window, config.limit)
    if len(train) == 0:
        raise DataError(
            f"{paths['train']}: has {len(texts['train'])} tokens, training on windows of {config.window} (data.window) "
            f"needs {2 * config.window} or more"
        )
    nothing = texts["train"][:0]
    validation, test = (
        TextSplit.to_measure(texts.get(part, nothing), config.window) for part in ("validation", "test")
    )
    return complete(config.name, (train, validation, test), names, seed)


def vocabulary(path: Path) -> list[str]:
    """Return the words of a file and `END`, most frequent first, the equally frequent in alphabetical order.

    Raises:
        DataError: the file cannot be read, or has no words.
    """
    counts: Counter[str] = Counter()
    for _, words in _sentences(path):
        counts.update(words)
    return sorted(counts, key=lambda word: (-counts[word], word))


def _check(config: SourceConfig) -> None:
    for field, value in (("image_size", config.image_size), ("channels", config.channels)):
        if value is not None:
            raise DataError(f"data.{field}: {config.name!r} is text, which has none; got {value!r}")
    if config.augment:
        raise DataError(f"data.augment: {config.name!r} is text, which has none; got {', '.join(config.augment)}")
    if config.window < 2:
        raise DataError(f"data.window: {config.window!r} is not a number of at least 2")


def _paths(folder: Path, *, validation: bool) -> dict[str, Path]:
    found = {}
    for part, names in _FILES.items():
        if part == "validation" and not validation:
            continue
        path = next((folder / name for name in names if (folder / name).is_file()), None)
        if path is None:
            raise DataError(f"data.path: {str(folder)!r} has no file {' or '.join(names)}")
        found[part] = path
    return found


def _sentences(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Iterate over (line number, words) of the lines that hold words; the last word is `END`."""
    empty = True
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                words = line.split()
                if words:
                    empty = False
                    yield number, [*words, END]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    if empty:
        raise DataError(f"{path}: holds no words")


def _encode(path: Path, numbers: Mapping[str, int]) -> Tensor:
    """Return the words of a file as their numbers, int32 (M,)."""
    stand_in = numbers.get(UNKNOWN)
    tokens: list[int] = []
    for line, words in _sentences(path):
        for word in words:
            token = numbers.get(word, stand_in)
            if token is None:
                raise DataError(
                    f"{path}: line {line} holds the word {word!r}, which the training file does not, nor {UNKNOWN!r}"
                )
            tokens.append(token)
    return torch.tensor(tokens, dtype=torch.int32)
