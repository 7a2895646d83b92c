"""Training by several processes under torchrun: every step's batch is shared out, gradients are averaged.

    torchrun --nproc-per-node 2 -m compressor run RECIPE -o OUT

Process 0 does everything that one process does; the others wait for networks to train and join in. All of them draw the
same batch and take every n-th sample of it, so the batch size, the number of steps and the learning rate stay as the
recipe says. Batch-norms see a process's own samples, as in torch's DistributedDataParallel; their running statistics
are averaged after every step, so that all processes hold the same network at any time. Searches run in process 0 alone.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from compressor.errors import TrainingError
from compressor.training.trainer import Paused

_PATIENCE = timedelta(days=30)  # a search may take long, and the others wait for it
_LEAST = 2  # samples for each process: batch-norm needs two


class Team:
    """The processes of a run.

    Args:
        rank: number of this process, 0 for the one that does everything
        size: how many there are
        device: where this one trains
    """

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        self.rank, self.size = rank, size
        self.pausing = False  # whether process 0 wished to pause at the last step
        self._busy = False
        dist.init_process_group("gloo", rank=rank, world_size=size, timeout=_PATIENCE)
        # Without a backend for CUDA, gradients would go through the CPU.
        self._group: Any = dist.new_group(backend="nccl") if device.type == "cuda" else None

    def part(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
        """This process's samples of a batch, and their share of it; a small batch goes to all as a whole."""
        if len(x) < _LEAST * self.size:
            return x, y, 1 / self.size
        own = x[self.rank :: self.size], y[self.rank :: self.size]
        return *own, len(own[0]) / len(x)

    def average(self, model: nn.Module, loss: Tensor, share: float, pause: bool) -> Tensor:
        """Replace gradients and running statistics by those of all samples; returns the loss of all.

        Args:
            model: after the backward pass
            loss: of this process's samples
            share: of the batch that they are
            pause: whether this process, if it is 0, wishes to pause; see `pausing`
        """
        tensors = [p.grad for p in model.parameters() if p.grad is not None]
        tensors += [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        wish = float(pause and self.rank == 0)
        flat = torch.cat([*(t.detach().flatten() * share for t in tensors), (loss.detach() * share).reshape(1)])
        flat = torch.cat([flat, torch.tensor([wish], device=flat.device)])
        dist.all_reduce(flat, group=self._group)
        place = 0
        for tensor in tensors:
            tensor.detach().copy_(flat[place : place + tensor.numel()].view_as(tensor))
            place += tensor.numel()
        self.pausing = bool(flat[-1] > 0)
        return flat[-2]

    @contextmanager
    def together(self, task: dict[str, Any]) -> Iterator[None]:
        """In process 0: let the others join in a task; what all of them raise alike ends it for all."""
        if self.rank == 0:
            self._send(task)
        self._busy = True
        try:
            yield
        except (Paused, TrainingError):
            self._busy = False
            raise
        self._busy = False

    def serve(self, join: Callable[[dict[str, Any]], None]) -> None:
        """In the other processes: join in every task until process 0 has ended."""
        while (task := self._heard()) is not None:
            try:
                join(task)
            except (Paused, TrainingError):
                continue  # process 0 says so

    def leave(self) -> None:
        """End: process 0 sends the others home; in the middle of a task they cannot hear it, and torchrun ends them."""
        if self._busy:
            return
        if self.rank == 0:
            self._send(None)
        dist.destroy_process_group()

    def _send(self, task: dict[str, Any] | None) -> None:
        dist.broadcast_object_list([task], src=0)

    def _heard(self) -> dict[str, Any] | None:
        heard: list[Any] = [None]
        dist.broadcast_object_list(heard, src=0)
        return heard[0]  # type: ignore[no-any-return]


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
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # torchrun passes signals to all; process 0 decides
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    _TEAM = Team(rank, size, device)
    try:
        yield _TEAM
    finally:
        left, _TEAM = _TEAM, None
        left.leave()


def silence_all_but_first() -> None:
    """Let process 0 alone be heard: the others say the same."""
    if int(os.environ.get("RANK", "0")) and "WORLD_SIZE" in os.environ:
        sys.stdout.flush()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
