"""The user's own data: torch datasets or loaders, of any transform, that a function of theirs gives.

    data: {name: my_package.data:make, options: {root: photos}, workers: 4}

The function gives (train, test), (train, validation, test), or a mapping with these keys and, if it likes, "classes";
each a map-style `torch.utils.data.Dataset` or a `DataLoader`. A sample is (input, target): float32 images (C, H, W) and
a class, or a class per pixel (H, W); or int64 tokens (T,) and the next ones (T,).

A batch is loaded by one worker, in which torch, Python and numpy draw what follows from (seed, epoch, batch): the same
samples come whatever the number of workers, and from any batch on. A loader for training keeps its own order and
batches; it is walked with generators of its own, so that it too gives the same again.
"""

from __future__ import annotations

import operator
import os
import random
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset, Subset, default_collate

from compressor.data.config import SourceConfig
from compressor.data.dataset import DataSet, divide
from compressor.data.draws import drawing_at
from compressor.data.split import IGNORED, Split
from compressor.errors import DataError
from compressor.user_functions import called, imported

_PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Pair:
    """Inputs and targets of a batch, as they were loaded."""

    inputs: Tensor
    targets: Tensor

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Pair:
        """Both on a device."""
        return Pair(*(one.to(device, non_blocking=non_blocking) for one in (self.inputs, self.targets)))

    def pin_memory(self) -> Pair:
        """Both where a GPU reads them without a copy."""
        return Pair(self.inputs.pin_memory(), self.targets.pin_memory())


class _Batched(Dataset["Pair | DataError"]):
    """A dataset whose items are batches, each by its (seed, indices)."""

    def __init__(
        self, name: str, samples: Dataset[Any], collate: Callable[[Any], Any], task: str, classes: int | None
    ) -> None:
        self.name, self.samples, self.collate, self.task, self.classes = name, samples, collate, task, classes

    def __getitem__(self, job: tuple[int, list[int]]) -> Pair | DataError:
        seed, indices = job
        what = f"{self.name} fails at samples {', '.join(map(str, indices[:3]))} ..."
        try:
            with drawing_at(seed):
                found = called(what, lambda: self._collated(indices), DataError)
                return _pair(self.name, found, self.task, self.classes)
        except DataError as error:  # raised in a worker it would come with the worker's traceback
            return error

    def _collated(self, indices: list[int]) -> Any:
        take = getattr(self.samples, "__getitems__", None)
        items = take(indices) if callable(take) else [self.samples[index] for index in indices]
        return self.collate(items)


def _pair(name: str, found: Any, task: str, classes: int | None = None) -> Pair:
    """A batch, if it is inputs and targets of the task."""
    if not isinstance(found, (tuple, list)) or len(found) != 2 or not all(isinstance(one, Tensor) for one in found):
        raise DataError(f"{name}: a batch is {_kind(found)}, not (inputs, targets) of tensors")
    x, y = found
    if y.is_floating_point():
        kind = str(y.dtype).removeprefix("torch.")
        raise DataError(
            f"{name}: targets are {kind}; classes are whole numbers (anything else takes train and evaluate functions)"
        )
    if classes is not None and y.numel():
        least, most = int(y.min()), int(y.max())
        if (least < 0 and not bool(((y >= 0) | (y == IGNORED)).all())) or most >= classes:
            raise DataError(f"{name}: labels are {least} to {most}, the classes are 0..{classes - 1}")
    if task != "language" and x.dtype != torch.float32:
        x = x.float()
    return Pair(x, y.long())


def _as_it_is(item: Any) -> Any:
    return item


def _loaded(found: Pair | DataError) -> Pair:
    if isinstance(found, DataError):
        raise found
    return found


def _leave_signals(worker: int) -> None:
    """In a worker: Ctrl-C reaches it too, and is the main process's to answer, which stops after a step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


class DatasetSplit(Split):
    """A split that is a map-style dataset of torch, loaded by worker processes.

    Args:
        name: what to call it in errors
        samples: the dataset
        device: where inputs and targets are wanted
        workers: processes that load; 0: this one
        collate: makes a batch of samples
        loader: of the user's, that gives the batches to train on in place of these
    """

    def __init__(
        self,
        name: str,
        samples: Dataset[Any],
        device: torch.device,
        workers: int,
        collate: Callable[[Any], Any] = default_collate,
        loader: DataLoader[Any] | None = None,
    ) -> None:
        self.name, self.dataset, self.workers, self.collate, self.loader = name, samples, workers, collate, loader
        self._device = device
        self.classes: int | None = None  # how many there are, once that is known: labels are checked then
        self._length = called(f"{name}: its length", lambda: len(cast(Any, samples)), DataError)
        self.task, self.shape = _task_and_shape(name, samples, collate) if self._length else ("classification", ())

    def __len__(self) -> int:
        return self._length

    @property
    def device(self) -> torch.device:
        """Where inputs and targets are wanted."""
        return self._device

    @property
    def labels(self) -> Tensor | None:
        """Classes (N,), where the dataset lists them as torchvision's do, without loading a sample."""
        if self.task != "classification":
            return None
        found, places = self.dataset, None
        while isinstance(found, Subset):
            own = torch.as_tensor(found.indices, dtype=torch.int64)
            places, found = own if places is None else own[places], found.dataset
        if getattr(found, "target_transform", None) is not None:
            return None  # what is listed is not what samples have
        for name in ("targets", "labels"):
            listed = getattr(found, name, None)
            if isinstance(listed, (list, tuple, np.ndarray, Tensor)) and len(listed) == len(cast(Any, found)):
                numbers = np.asarray(listed)
                if numbers.ndim == 1 and numbers.dtype.kind in "iu":
                    labels = torch.as_tensor(numbers.astype(np.int64))
                    return labels.long() if places is None else labels.long()[places]
        return None

    def fetch(self, indices: Tensor) -> Any:
        """Load the samples at `indices`, in this process."""
        return _loaded(self._batched[0, indices.tolist()])

    def inputs(self, raw: Any) -> Tensor:
        """Return the inputs of what `fetch` gave."""
        inputs: Tensor = raw.inputs
        return inputs

    def targets(self, raw: Any, indices: Tensor) -> Tensor:
        """Return the targets of what `fetch` gave."""
        targets: Tensor = raw.targets
        return targets

    def target_range(self) -> tuple[int, int] | None:
        """Return the lowest and the highest class, where they are listed."""
        labels = self.labels
        return None if labels is None or not len(labels) else (int(labels.min()), int(labels.max()))

    def subset(self, indices: Tensor) -> Self:
        """Return a split of the samples at `indices`; nothing is loaded."""
        part: Dataset[Any] = Subset(self.dataset, indices.tolist())
        found = type(self)(self.name, part, self._device, self.workers, self.collate)
        found.classes = self.classes
        return found

    @property
    def ahead(self) -> bool:
        """See `Split`."""
        return True

    def walked(self, loader: DataLoader[Any], seed: int) -> Iterator[Pair]:
        """Batches of a loader of the user's, on the device, with the same draws at the same seed.

        Network and loader draw from the same generators, and must not depend on one another: two states take turns.

        Raises:
            DataError: it fails, or gives fewer batches than its length says
        """
        draws = _Generators(seed)
        for place in (loader, loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
            if isinstance(own := getattr(place, "generator", None), Generator):
                own.manual_seed(seed)
        with draws:
            batches = called(f"{self.name} cannot be walked", lambda: iter(loader), DataError)
        for number in range(len(loader)):
            with draws:
                found = called(f"{self.name} fails at batch {number}", lambda: next(batches, None), DataError)
            if found is None:
                raise DataError(f"{self.name}: its loader gave {number} batches, its length says {len(loader)}")
            yield _pair(self.name, found, self.task, self.classes).to(self._device, non_blocking=True)

    def stream(self, picks: Sequence[Tensor], seeds: Sequence[int]) -> Iterator[Any]:
        """See `Split`; batches come in order, from worker processes."""
        jobs = [(seed, pick.tolist()) for seed, pick in zip(seeds, picks, strict=True)]
        if not self.workers:
            yield from (_loaded(self._batched[job]) for job in jobs)
            return
        loader = DataLoader(
            self._batched,
            batch_size=None,
            sampler=cast(Any, jobs),
            num_workers=min(self.workers, len(jobs)),
            collate_fn=_as_it_is,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_leave_signals,
            generator=torch.Generator().manual_seed(0),  # else it would draw from torch's own
        )
        yield from map(_loaded, loader)

    @property
    def _batched(self) -> _Batched:
        return _Batched(self.name, self.dataset, self.collate, self.task, self.classes)


class _Generators:
    """States of the generators of torch, Python and numpy, in force within `with`."""

    def __init__(self, seed: int) -> None:
        with drawing_at(seed):
            self._own = self._read()

    def __enter__(self) -> None:
        self._others = self._read()
        self._set(self._own)

    def __exit__(self, *exception: object) -> None:
        self._own = self._read()
        self._set(self._others)

    def _read(self) -> tuple[Any, ...]:
        return torch.random.get_rng_state(), random.getstate(), np.random.get_state()

    def _set(self, states: tuple[Any, ...]) -> None:
        torch.random.set_rng_state(states[0])
        random.setstate(states[1])
        np.random.set_state(states[2])


def load(config: SourceConfig, seed: int, device: torch.device) -> DataSet:
    """Load what the function that `data.name` names gives.

    Raises:
        DataError: it cannot be imported or fails, gives something else, or samples that no task has
    """
    for key in ("path", "image_size", "channels"):
        if (value := getattr(config, key)) is not None:
            raise DataError(f"data.{key}: {value!r} is for data sets of ours; {config.name} takes data.options")
    function = imported("data.name", config.name, DataError)
    given = called(f"data.name: {config.name} fails", lambda: function(**dict(config.options)), DataError)
    return data_of(given, config, seed, device)


def data_of(given: Any, config: SourceConfig, seed: int, device: torch.device) -> DataSet:
    """A data set of torch datasets or loaders; see this module.

    Raises:
        DataError: it is something else, or samples are none of a task
    """
    name = config.name
    if isinstance(given, Mapping) and "example" in given:
        return _opaque(name, given, device)
    parts = _named_parts(name, given)
    workers = config.workers if config.workers is not None else min(8, (os.cpu_count() or 1) - 1)
    splits = {
        part: _split(f"{name}: {part}", parts[part], device, workers) for part in _PARTS if parts.get(part) is not None
    }
    remarks = []
    if "validation" not in splits and (splits["train"].loader is not None or config.validation == 0):
        splits["validation"] = splits["train"].subset(torch.arange(0))
        if config.validation:
            remarks.append(f"{name} gives a loader to train on and no validation part, so there is none")
    elif "validation" not in splits:
        splits["train"], splits["validation"] = divide(splits["train"], config, seed)
    elif config.limit is not None and splits["train"].loader is None:
        order = torch.randperm(len(splits["train"]), generator=torch.Generator().manual_seed(seed))[: config.limit]
        splits["train"] = splits["train"].subset(order.sort().values)
    if splits["train"].loader is not None:
        remarks.append(
            f"{name} gives a loader to train on: order and size of batches are its own (train.batch_size is not used)"
        )
        if splits["train"].loader.persistent_workers:
            remarks.append(
                f"{name}: its loader keeps its workers, so training that is resumed sees other random changes"
            )
    train, validation, test = (splits[part] for part in _PARTS)
    for part, split in splits.items():
        if len(split) and (split.task, split.shape) != (train.task, train.shape):
            one, other = (f"of {one.task} with inputs {one.shape}" for one in (split, train))
            raise DataError(f"{name}: {part} samples are {one}, those of train {other}")
    if not len(train) or not len(test):
        raise DataError(f"{name}: its {'test' if len(train) else 'train'} part has no samples")
    classes = _class_names(name, parts, train)
    for part, split in splits.items():
        split.classes = len(classes)
        if (found := split.target_range()) is not None and not 0 <= found[0] <= found[1] < len(classes):
            least, most = found
            raise DataError(f"{name}: {part}: labels are {least} to {most}, the classes are 0..{len(classes) - 1}")
    return DataSet(
        name=name,
        train=train,
        validation=validation,
        test=test,
        class_names=classes,
        input_shape=train.shape,
        mean=(),
        std=(),
        task=train.task,
        remarks=tuple(remarks),
        given=given,
    )


class _Hidden(Split):
    """A split of data that only functions of the user's look at."""

    def __init__(self, device: torch.device) -> None:
        self.task, self.shape, self._device = "own", (), device

    def __len__(self) -> int:
        return 0

    @property
    def device(self) -> torch.device:
        """Where inputs are wanted."""
        return self._device

    def fetch(self, indices: Tensor) -> Any:
        """There is nothing to fetch."""
        raise DataError("data: these are read by train.function and evaluate.function alone")

    def inputs(self, raw: Any) -> Tensor:
        """See `fetch`."""
        return self.fetch(raw)  # type: ignore[no-any-return]

    def targets(self, raw: Any, indices: Tensor) -> Tensor:
        """See `fetch`."""
        return self.fetch(indices)  # type: ignore[no-any-return]

    def target_range(self) -> tuple[int, int] | None:
        """Nothing is known of them."""
        return None

    def subset(self, indices: Tensor) -> Self:
        """Nothing of nothing."""
        return self


def _opaque(name: str, given: Mapping[str, Any], device: torch.device) -> DataSet:
    """Data of a task of the user's own, of which we know an example of the inputs."""
    example = given["example"]
    first = example if isinstance(example, Tensor) else next(iter(tree_leaves(example)), None)
    if not isinstance(first, Tensor) or first.dim() == 0:
        raise DataError(
            f"{name}: example: {_kind(example)}; valid: a tensor (N, …), a tuple of some, or keywords to some"
        )
    shape = tuple(first.shape[1:]) if 1 <= first.dim() - 1 <= 3 else (max(1, first[0].numel()),)
    train, validation, test = (_Hidden(device) for _ in range(3))  # one each: functions are told which
    data = given["data"] if set(given) == {"example", "data"} else given
    return DataSet(name, train, validation, test, ("",), shape, (), (), task="own", given=data, example=example)


def _named_parts(name: str, given: Any) -> Mapping[str, Any]:
    if isinstance(given, (tuple, list)) and len(given) in (2, 3):
        return dict(zip(_PARTS if len(given) == 3 else ("train", "test"), given, strict=True))
    if isinstance(given, Mapping) and {"train", "test"} <= set(given) <= {*_PARTS, "classes"}:
        return given
    kind = f"a mapping with the keys {', '.join(map(str, given))}" if isinstance(given, Mapping) else _kind(given)
    raise DataError(
        f"data.name: {name} gives {kind}; valid: (train, test), (train, validation, test), or a mapping of train, test "
        "and, if there are, validation and classes"
    )


def _split(name: str, given: Any, device: torch.device, workers: int) -> DatasetSplit:
    loader = given if isinstance(given, DataLoader) else None
    samples: Any = given if loader is None else loader.dataset
    if isinstance(samples, IterableDataset) or not all(hasattr(samples, name) for name in ("__getitem__", "__len__")):
        raise DataError(f"{name} is {_kind(samples)}; valid: a dataset with a length whose samples have an index")
    if loader is None:
        return DatasetSplit(name, samples, device, workers)
    own = loader if name.endswith(": train") else None  # whoever evaluates wants all samples once, in order
    if own is not None and not len(loader):
        raise DataError(f"{name}: its loader gives no batch (drop_last, of fewer samples than a batch?)")
    collate: Callable[[Any], Any] = loader.collate_fn
    return DatasetSplit(name, _sampled(name, loader), device, loader.num_workers, collate, own)


def _sampled(name: str, loader: DataLoader[Any]) -> Dataset[Any]:
    """The samples of a loader's dataset that its sampler gives, each once and in order."""

    def indices() -> list[int]:
        found: Any = loader.sampler
        if type(loader.batch_sampler) is BatchSampler:  # that leaves none out
            found = loader.batch_sampler.sampler
        elif loader.batch_sampler is not None:
            found = (index for batch in islice(iter(loader.batch_sampler), len(loader)) for index in batch)
        return [operator.index(index) for index in found]

    with drawing_at(0):
        found = set(called(f"{name}: its sampler fails", indices, DataError))
    if len(found) == len(cast(Any, loader.dataset)):
        return loader.dataset
    return Subset(loader.dataset, sorted(found))


def _task_and_shape(name: str, samples: Dataset[Any], collate: Callable[[Any], Any]) -> tuple[str, tuple[int, ...]]:
    """What the first sample says."""
    with drawing_at(0):
        first = called(f"{name} fails at sample 0", lambda: samples[0], DataError)
        if not isinstance(first, (tuple, list)) or len(first) != 2:
            raise DataError(f"{name}: a sample is {_kind(first)}, not (input, target)")
        if not isinstance(first[0], Tensor):
            raise DataError(f"{name}: inputs are {_kind(first[0])}; let a transform make tensors of them")
        batch = called(f"{name}: samples cannot be collated", lambda: collate([first, first]), DataError)
    pair = _pair(name, batch, "language")
    x, y = pair.inputs, pair.targets
    if x.is_floating_point() and x.dim() == 4 and y.shape == x.shape[:1]:
        return "classification", tuple(x.shape[1:])
    if x.is_floating_point() and x.dim() == 4 and y.shape == (len(x), *x.shape[2:]):
        return "segmentation", tuple(x.shape[1:])
    if x.dtype == torch.int64 and x.dim() == 2 and y.shape == x.shape:
        return "language", tuple(x.shape[1:])
    hint = "; let a transform scale them to floats" if x.dtype == torch.uint8 else ""
    raise DataError(
        f"{name}: a batch has inputs {str(x.dtype).removeprefix('torch.')} {tuple(x.shape)} and targets "
        f"{tuple(y.shape)}, which is no classification, segmentation or language{hint}"
    )


def _class_names(name: str, parts: Mapping[str, Any], train: DatasetSplit) -> tuple[str, ...]:
    given = parts.get("classes")
    if given is None:
        found = train.dataset
        while isinstance(found, Subset):
            found = found.dataset
        given = getattr(found, "classes", None)
    if isinstance(given, int) and given > 0:
        return tuple(map(str, range(given)))
    if isinstance(given, (list, tuple)) and given:
        return tuple(map(str, given))
    labels = train.labels
    if given is None and labels is not None:
        return tuple(map(str, range(int(labels.max()) + 1)))
    raise DataError(
        f"data.name: {name}: what are the classes? Give a mapping with classes, their names or their number"
    )


def _kind(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"
