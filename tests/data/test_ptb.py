"""Text files in the Penn Treebank's layout: vocabulary, parts, unknown words, broken input."""

from itertools import pairwise

import pytest
import torch

from compressor.data import IGNORED, load_data, ordered, training_batches
from compressor.data.ptb import vocabulary
from compressor.errors import DataError

TRAIN = """ the cat saw a <unk> of N mice
 a mouse saw the cat and the <unk> left

 the mice left N days before the cat
 the cat and a mouse met
"""
VALID = " the mouse saw a cat\n a dog left\n"
TEST = " the mice met the <unk>\n the cat left\n"
WINDOW = 3


@pytest.fixture
def corpus(tmp_path):
    for name, text in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        (tmp_path / f"{name}.txt").write_text(text)
    return tmp_path


@pytest.fixture
def load(corpus, make_config):
    def load_it(seed=0, **fields):
        return load_data(make_config("ptb", path=str(corpus), **{"window": WINDOW, **fields}), seed=seed)

    return load_it


def words_of(text):
    return [word for line in text.splitlines() if line.split() for word in [*line.split(), "<eos>"]]


def targets(split, data):
    """The words that count as targets, in order."""
    y = torch.cat([y for _, y in ordered(split, data, 2)]).flatten()
    return [data.class_names[i] for i in y[y != IGNORED].tolist()]


def test_the_data_set(load):
    data = load()
    assert (data.name, data.task, data.input_shape) == ("ptb", "language", (WINDOW,))
    assert (data.mean, data.std) == ((), ())
    count = len(words_of(TRAIN))
    assert len(data.train) == count // WINDOW - 1
    described = data.describe()
    assert described["train_tokens"] == count - count % WINDOW
    assert (described["validation_tokens"], described["test_tokens"]) == (len(words_of(VALID)), len(words_of(TEST)))


def test_the_vocabulary_is_sorted_by_frequency_then_alphabet(load):
    names, words = load().class_names, words_of(TRAIN)
    assert sorted(names) == sorted(set(words))
    assert names[:5] == ("the", "<eos>", "cat", "a", "<unk>")  # 6, 4, 4, 3, then two each
    assert all((-words.count(a), a) < (-words.count(b), b) for a, b in pairwise(names))


def test_every_word_but_the_first_is_a_target_once(load):
    data = load()
    assert targets(data.test, data) == words_of(TEST)[1:]
    assert targets(data.validation, data) == [w if w != "dog" else "<unk>" for w in words_of(VALID)[1:]]


def test_training_sees_pieces_of_the_text(load):
    data = load()
    text = " ".join(words_of(TRAIN))
    for x, y in training_batches(data, 2, seed=0).epoch(0):
        for inputs, following in zip(x.tolist(), y.tolist(), strict=True):
            assert inputs[1:] == following[:-1]
            assert " ".join(data.class_names[i] for i in [*inputs, following[-1]]) in text


def test_an_unknown_word_without_a_stand_in_is_named(load, corpus):
    (corpus / "train.txt").write_text(TRAIN.replace("<unk>", "piece"))
    (corpus / "test.txt").write_text("the cat\n")
    message = f"^{corpus / 'valid.txt'}: line 2 holds the word 'dog', which the training file does not, nor '<unk>'$"
    with pytest.raises(DataError, match=message):
        load()


def test_the_vocabulary_is_of_the_training_file_alone(load, corpus):
    before = load().class_names
    (corpus / "valid.txt").write_text("zebra zebra zebra\n")
    assert load().class_names == before == tuple(vocabulary(corpus / "train.txt"))


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_the_share_of_validation_does_not_matter(load, share):
    data = load(validation=share)
    assert len(data.validation) == 3  # 10 tokens, 9 targets
    assert len(data.train) == len(load().train)


def test_no_validation(load, corpus):
    (corpus / "valid.txt").unlink()
    data = load(validation=0.0)
    assert len(data.validation) == 0
    assert data.describe()["validation_tokens"] == 0
    assert list(ordered(data.validation, data, 2)) == []


def test_val_stands_in_for_valid(load, corpus):
    (corpus / "valid.txt").rename(corpus / "val.txt")
    assert len(load().validation) == 3


@pytest.mark.parametrize(("name", "names"), [("train", "train"), ("valid", "valid.txt or val"), ("test", "test")])
def test_a_missing_file(load, corpus, name, names):
    (corpus / f"{name}.txt").unlink()
    with pytest.raises(DataError, match=rf"data.path: '{corpus}' has no file {names}\.txt$"):
        load()


@pytest.mark.parametrize("name", ["train", "valid", "test"])
@pytest.mark.parametrize(("content", "message"), [(b" \n\n", "holds no words"), (b"a \xff b", "cannot be read as UTF")])
def test_a_broken_file(load, corpus, name, content, message):
    (corpus / f"{name}.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"^{corpus / name}\.txt: {message}"):
        load()


def test_a_text_too_short_for_the_window(load):
    count = len(words_of(TRAIN))
    assert len(load(window=count // 2).train) == 1
    message = (
        rf"train\.txt: has {count} tokens, training on windows of {count} \(data.window\) needs {2 * count} or more"
    )
    with pytest.raises(DataError, match=message):
        load(window=count)


def test_a_limit_counts_windows_and_leaves_the_vocabulary(load):
    data = load(limit=2)
    assert len(data.train) == 2
    assert data.classes == load().classes
    assert len(load(limit=1000).train) == len(load().train)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("window", 1, "data.window: 1 is not a number of at least 2"),
        ("augment", ("flip", "crop"), "data.augment: 'ptb' is text, which has none; got flip, crop"),
        ("image_size", 32, "data.image_size: 'ptb' is text, which has none; got 32"),
        ("channels", 1, "data.channels: 'ptb' is text, which has none; got 1"),
    ],
)
def test_settings_that_text_cannot_serve(load, field, value, message):
    with pytest.raises(DataError, match=f"^{message}$"):
        load(**{field: value})
