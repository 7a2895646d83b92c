"""Training by several processes under torchrun: every step's batch is shared out, gradients are averaged.

    torchrun --nproc-per-node 2 -m compressor run RECIPE -o OUT

Process 0 does everything that one process does: it searches, steps the optimizer, writes checkpoints, exports and
measures. The others compute gradients. For every step they get its weights, and whenever its network has another shape,
since channels were pruned or drawn, that network itself: no process can hold another network than process 0. All of
them draw the same batch and take every n-th sample of it, so batch size, number of steps and learning rate stay as the
recipe says. Batch-norms see a process's own samples, as in torch's DistributedDataParallel, and their running
statistics are averaged after every step; or they see those of all, see `compressor.training.sync_batch_norm`.
"""

from __future__ import annotations

import io
import operator
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from compressor.data import DataSet, training_batches
from compressor.errors import CompressorError, UnavailableError
from compressor.training.sharing import Work
from compressor.training.sync_batch_norm import synchronized

_PATIENCE = timedelta(days=30)  # between two steps a network may be measured for long, and the others wait
_SLOWEST = timedelta(minutes=30)  # a process that computes its part of a batch for longer is stuck
_LEAST = 2  # samples for each process: batch-norm needs two
_END, _NETWORK, _STEP = range(3)  # what process 0 orders
_LAST_WORDS = "compressor/last_words"  # of a process that ends, in the store that torchrun keeps


class Team:
    """The processes of a run.

    Args:
        rank: number of this process, 0 for the one that does everything
        size: how many there are
        device: where this one trains
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size, self.device = rank, size, device
        self.recipe: Any = None  # of the run; process 0 says which
        self.lost = False  # whether another one has ended, or this one must: no more is said then
        self._store, _, _ = next(rendezvous("env://"))
        dist.init_process_group("gloo", store=self._store, rank=rank, world_size=size, timeout=_PATIENCE)
        # Without a backend for CUDA, gradients would go through the CPU.
        self._group: Any = dist.new_group(backend="nccl" if device.type == "cuda" else "gloo", timeout=_SLOWEST)

    # process 0 ---------------------------------------------------------------------------------------------------

    @contextmanager
    def leading(self, work: Work, model: nn.Module) -> Iterator[_Lead | str]:
        """Let the other processes take part in a training of process 0; gives why they cannot, if that is so."""
        if self.lost:
            raise self._ended()
        try:
            task = _packed((self.recipe, work))
            _packed(model)
        except _Unsendable as reason:
            yield str(reason)
            return
        with self._talking():
            dist.broadcast_object_list([task], src=0)
        try:
            yield _Lead(self, work)
        finally:
            if not self.lost:
                self.order(_END)

    def order(self, what: int, number: int = 0) -> None:
        """Tell the others what comes next."""
        with self._talking():
            dist.broadcast(torch.tensor([what, number]), src=0)

    def leave(self) -> None:
        """End: process 0 sends the others home, unless one of them has ended; then torchrun ends them all."""
        if self.lost:
            return
        if self.rank == 0:
            with self._talking():
                dist.broadcast_object_list([None], src=0)
        dist.destroy_process_group()

    # the others --------------------------------------------------------------------------------------------------

    def serve(self, data: Callable[[Any], DataSet]) -> None:
        """In the other processes: take part in every training until process 0 has ended.

        Args:
            data: that a recipe trains on
        """
        try:
            while (task := self._heard()) is not None:
                _Part(self, task, data).follow()
        except Exception as error:
            self._say_why(error)
            raise

    def _heard(self) -> bytes | None:
        heard: list[Any] = [None]
        with self._talking():
            dist.broadcast_object_list(heard, src=0)
        return heard[0]  # type: ignore[no-any-return]

    def ordered(self) -> tuple[int, int]:
        """What process 0 has come to, see `order`."""
        heard = torch.zeros(2, dtype=torch.int64)
        with self._talking():
            dist.broadcast(heard, src=0)
        return int(heard[0]), int(heard[1])

    # all of them -------------------------------------------------------------------------------------------------

    def send(self, network: bytes) -> bytes:
        """Process 0's network, in all processes."""
        held = [network]
        with self._talking():
            dist.broadcast_object_list(held, src=0)
        return held[0]

    def give_weights(self, model: nn.Module) -> None:
        """Replace weights and buffers by those of process 0."""
        tensors = _values(model)
        flat = torch.cat([tensor.detach().flatten() for tensor in tensors])
        with self._talking():
            dist.broadcast(flat, src=0, group=self._group)
        if self.rank:
            _spread(flat, tensors)

    def part(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
        """This process's samples of a batch, and their share of it; a small batch goes to all as a whole."""
        if len(x) < _LEAST * self.size:
            return x, y, 1 / self.size
        own = x[self.rank :: self.size], y[self.rank :: self.size]
        return *own, len(own[0]) / len(x)

    def backward(self, model: nn.Module, batch: Callable[[], tuple[Tensor, Tensor]], work: Work) -> Tensor:
        """Replace gradients and running statistics by those of a whole batch; returns its mean loss.

        Args:
            model: the same in all processes
            batch: gives all samples of the batch and their targets
            work: what is minimised, and how

        Raises:
            CompressorError: what kept one of the processes from it; all of them raise
        """
        failure: Exception | None = None
        share, loss = 0.0, torch.zeros((), device=self.device)
        try:
            x, y = batch()
            own, targets, share = self.part(x, y)
            least = len(x) if len(own) == len(x) else len(x) // self.size
            weight = work.objective.weight_of(targets, y) if len(own) < len(x) else share
            with synchronized(self.sum) if work.sync_batch_norm else nullcontext():
                loss = work.objective.backward(model, own, targets, weight, least)
        except Exception as error:
            if work.sync_batch_norm:  # the others wait within their forward passes: this process has to end
                self.lost = True
                self._say_why(error)
                raise
            failure = error
        return self._added_up(model, loss, share, failure)

    def _added_up(self, model: nn.Module, loss: Tensor, share: float, failure: Exception | None) -> Tensor:
        """Add up losses, gradients and running statistics of all processes; the loss."""
        parameters, statistics = [p for p in model.parameters() if p.requires_grad], _statistics(model)
        numbers = [*(float(p.grad is not None) for p in parameters), float(failure is not None)]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        parts = [*(g.flatten() for g in gradients), *(s.flatten() * share for s in statistics)]
        flat = self.sum(torch.cat([*parts, torch.tensor(numbers, device=self.device), loss.float().reshape(1)]))
        users = flat[-len(numbers) - 1 : -1].tolist()
        if users.pop():
            self.agree(failure)
        _spread(flat, [*gradients, *statistics])
        for parameter, gradient, count in zip(parameters, gradients, users, strict=True):
            parameter.grad = gradient if count else None  # what no process uses the optimizer leaves alone
        return flat[-1]

    def sum(self, x: Tensor) -> Tensor:
        """Add up a tensor over all processes, in place."""
        with self._talking():
            dist.all_reduce(x, group=self._group)
        return x

    def agree(self, failure: Exception | None) -> None:
        """Tell each other of failures.

        Raises:
            CompressorError: of the first process that has one
        """
        told: list[Any] = [None] * self.size
        with self._talking():
            dist.all_gather_object(told, None if failure is None else self._told(failure))
        if failure is not None and self.rank == 0:
            raise failure
        for one in told:
            if one is not None:
                raise one

    @contextmanager
    def _talking(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            self.lost = True
            raise
        except RuntimeError as error:
            self.lost = True
            raise self._ended() from error
        except BaseException:
            self.lost = True
            raise

    def _ended(self) -> UnavailableError:
        """What to say when another process has ended: its last words, if it had any."""
        with suppress(RuntimeError):  # the store may be gone as well
            if self._store.check([_LAST_WORDS]):
                return UnavailableError(self._store.get(_LAST_WORDS).decode())
        return UnavailableError(
            "torchrun: another process of this run has ended or cannot be reached; the same command with --resume "
            "goes on from the last checkpoint"
        )

    def _say_why(self, error: Exception) -> None:
        """Leave for process 0 why this one ends."""
        with suppress(RuntimeError):
            self._store.set(_LAST_WORDS, str(self._told(error)))

    def _told(self, error: Exception) -> CompressorError:
        """An error of this process, as process 0 tells it."""
        if isinstance(error, CompressorError):
            return error
        return UnavailableError(f"process {self.rank} of torchrun: {type(error).__name__}: {error}")


class _Lead:
    """A training of process 0 that the others take part in."""

    def __init__(self, team: Team, work: Work) -> None:
        self.team, self.work = team, work
        self._sent: list[nn.Parameter] = []
        self._shapes: list[torch.Size] = []

    def backward(self, model: nn.Module, step: int, x: Tensor, y: Tensor) -> Tensor:
        """Have all processes compute the gradients of a batch; the mean loss of all its samples."""
        parameters, shapes = list(model.parameters()), [buffer.shape for buffer in model.buffers()]
        known = len(parameters) == len(self._sent) and all(map(operator.is_, parameters, self._sent))
        if not known or shapes != self._shapes:
            self._send(model)
            # Kept: no later parameter can have the place in memory of one of these.
            self._sent, self._shapes = parameters, shapes
        self.team.order(_STEP, step)
        self.team.give_weights(model)
        return self.team.backward(model, lambda: (x, y), self.work)

    def _send(self, model: nn.Module) -> None:
        self.work.objective.close()  # the others watch their own
        try:
            packed = _packed(model)
        except _Unsendable as reason:
            raise UnavailableError(f"torchrun: {reason}; train in one process") from reason
        self.work.objective.watch(model)
        self.team.order(_NETWORK)
        self.team.send(packed)
        self.team.agree(None)


class _Part:
    """A training of process 0, as another process takes part in it."""

    def __init__(self, team: Team, task: bytes, data: Callable[[Any], DataSet]) -> None:
        self.team = team
        self.failure: Exception | None = None
        self.model: nn.Module | None = None
        self._next = -1  # number of the batch that `_batches` gives next
        try:
            recipe, work = self._unpacked(task)
            self.work: Work = work
            self.batches = training_batches(
                data(recipe), work.batch_size, seed=work.seed, augment=work.augment, channels_last=work.channels_last
            )
        except Exception as error:
            self.failure = error

    def follow(self) -> None:
        """Do what process 0 orders until the training is over."""
        while (heard := self.team.ordered())[0] != _END:
            what, number = heard
            try:
                if what == _NETWORK:
                    self._take_network()
                else:
                    self._step(number)
            except CompressorError:
                if self.team.lost:
                    raise
                # Process 0 has heard of it, and says what comes next.

    def _take_network(self) -> None:
        packed = self.team.send(b"")
        try:
            if self.failure is None:
                if self.model is not None:
                    self.work.objective.close()
                self.model = self._unpacked(packed).train()
                self.work.objective.watch(self.model)
        except Exception as error:
            self.failure = error
        self.team.agree(self.failure)

    def _step(self, number: int) -> None:
        assert self.model is not None
        self.team.give_weights(self.model)
        for parameter in self.model.parameters():
            parameter.grad = None
        # Dropout differs from process to process, and is the same when an interrupted run goes on.
        torch.manual_seed((self.work.seed * 1_000_003 + number) * self.team.size + self.team.rank)
        self.team.backward(self.model, lambda: self._batch(number), self.work)

    def _batch(self, number: int) -> tuple[Tensor, Tensor]:
        epoch, first = divmod(number, len(self.batches))
        if number != self._next or first == 0:
            self._iterator = self.batches.epoch(epoch, first)
        self._next = number + 1
        return next(self._iterator)

    def _unpacked(self, packed: bytes) -> Any:
        # From process 0 of this very run.
        return torch.load(io.BytesIO(packed), map_location=self.team.device, weights_only=False)


class _Unsendable(Exception):  # noqa: N818 - nothing went wrong
    """Why something cannot be sent to another process."""


def _packed(thing: Any) -> bytes:
    """A network, or what is to be done with it, for other processes."""
    if isinstance(thing, nn.Module):
        for name, module in thing.named_modules():
            if "forward" in vars(module):  # pickle would put the class's own in its place
                raise _Unsendable(f"{name or 'the network'} computes something else than its class, {type(module)}")
    buffer = io.BytesIO()
    try:
        torch.save(thing, buffer)
    except Exception as error:  # whatever the network's parts raise that cannot be pickled
        raise _Unsendable(f"the network cannot be sent to other processes: {error}") from error
    return buffer.getvalue()


def _statistics(model: nn.Module) -> list[Tensor]:
    """What batch-norms know of the samples that they have seen."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    found = [statistic for norm in norms for statistic in (norm.running_mean, norm.running_var)]
    return [statistic for statistic in found if statistic is not None]


def _values(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers that are numbers, not counts."""
    return [*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())]


@torch.no_grad()
def _spread(flat: Tensor, tensors: list[Tensor]) -> None:
    """Copy a vector into tensors, one after another."""
    place = 0
    for tensor in tensors:
        tensor.copy_(flat[place : place + tensor.numel()].view_as(tensor))
        place += tensor.numel()


_TEAM: Team | None = None


def team() -> Team | None:
    """The team of this process; None if it works alone."""
    return _TEAM


@contextmanager
def teamwork(device: torch.device) -> Iterator[Team | None]:
    """Join the team that torchrun has started; None without torchrun."""
    global _TEAM
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield None
        return
    rank = int(os.environ["RANK"])
    if rank:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # torchrun passes signals to all; process 0 decides
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
    if device.type == "cuda":
        local, there = int(os.environ.get("LOCAL_WORLD_SIZE", size)), torch.cuda.device_count()
        if local > there:
            raise UnavailableError(f"torchrun: {local} processes on this machine, but torch finds {there} CUDA devices")
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    _TEAM = Team(rank, size, device)
    try:
        yield _TEAM
    finally:
        left, _TEAM = _TEAM, None
        left.leave()
