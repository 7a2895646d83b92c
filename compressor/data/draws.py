"""Random generators that depend on a key and on nothing else."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Generator


def generator(*key: object) -> Generator:
    """Return a CPU generator, the same for the same key on every machine."""
    return torch.Generator().manual_seed(number_of(*key))


def number_of(*key: object) -> int:
    """Return a seed from 0 to 2³² - 1, the same for the same key on every machine."""
    # A hash: seed + epoch + batch would make neighbours share draws; torch's CPU generator takes 32 bits.
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little")


@contextmanager
def drawing_from(source: Generator) -> Iterator[None]:
    """Let code that takes torch's global CPU generator draw what follows from another one, and nothing else change."""
    seed = int(torch.randint(2**31, (), generator=source))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def drawing_at(seed: int) -> Iterator[None]:
    """Let the generators of torch, Python and numpy begin at a seed, and put them back."""
    in_python, in_numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(in_python)
        np.random.set_state(in_numpy)
