"""Folders of images, and what may be wrong with one: for `hostile.py`."""

from __future__ import annotations

import pickle
import random
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from spoiled import Payload, Tally, mutated


def image(rng: random.Random, size: tuple[int, int] = (10, 9), mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (size[1], size[0], 3))
    return Image.fromarray(pixels.astype(np.uint8)).convert(mode)


def good_images(root: Path, rng: random.Random) -> list[Path]:
    """A folder of images of two classes in two splits."""
    files = []
    for split in ("train", "test"):
        for label in ("a", "b"):
            for number in range(4):
                path = root / split / label / f"{number}.{rng.choice(('png', 'jpg'))}"
                path.parent.mkdir(parents=True, exist_ok=True)
                image(rng).save(path)
                files.append(path)
    return files


class Spoils:
    """What may be wrong with a folder of images: every method that takes (root, files) spoils one."""

    def __init__(self, rng: random.Random, tally: Tally) -> None:
        self.rng, self.tally = rng, tally
        self.all = [self.truncated, self.cut, self.other_size, self.other_mode, self.deep, self.bomb]
        self.all += [
            self.empty_class,
            self.no_split,
            self.loop,
            self.folder_of_that_name,
            self.foreign,
            self.unreadable,
        ]

    def taken(self, files: list[Path]) -> Path:
        """One of the files, which is gone."""
        path = self.rng.choice(files)
        path.unlink()
        return path

    def truncated(self, root: Path, files: list[Path]) -> None:
        path = self.rng.choice(files)
        path.write_bytes(mutated(path.read_bytes(), self.rng))

    def cut(self, root: Path, files: list[Path]) -> None:
        path = self.rng.choice(files)
        path.write_bytes(path.read_bytes()[: self.rng.randrange(40)])

    def other_size(self, root: Path, files: list[Path]) -> None:
        size = self.rng.randrange(1, 30), self.rng.randrange(1, 30)
        image(self.rng, size).save(self.rng.choice(files))

    def other_mode(self, root: Path, files: list[Path]) -> None:
        mode = self.rng.choice(("L", "CMYK"))
        image(self.rng, mode=mode).save(self.taken(files).with_suffix(".jpg"))

    def deep(self, root: Path, files: list[Path]) -> None:
        Image.fromarray(np.full((9, 10), 60000, np.uint16)).save(self.taken(files).with_suffix(".png"))

    def bomb(self, root: Path, files: list[Path]) -> None:
        self.taken(files).with_suffix(".ppm").write_bytes(b"P6 60000 60000 255\n")

    def empty_class(self, root: Path, files: list[Path]) -> None:
        shutil.rmtree(root / self.rng.choice(("train", "test")) / "a")
        (root / "train" / "a").mkdir(exist_ok=True)

    def no_split(self, root: Path, files: list[Path]) -> None:
        shutil.rmtree(root / self.rng.choice(("train", "test")))

    def loop(self, root: Path, files: list[Path]) -> None:
        path = self.taken(files)
        path.symlink_to(path)

    def folder_of_that_name(self, root: Path, files: list[Path]) -> None:
        self.taken(files).mkdir()

    def foreign(self, root: Path, files: list[Path]) -> None:
        self.rng.choice(files).write_bytes(pickle.dumps(Payload(self.tally.marks)))

    def unreadable(self, root: Path, files: list[Path]) -> None:
        self.taken(files)
        (root / "train" / "b" / "x.png").symlink_to("/proc/1/mem")
