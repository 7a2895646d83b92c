"""Knowledge distillation: a network learns from the outputs of a trained one.

Hinton et al., "Distilling the Knowledge in a Neural Network", 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressor.data import IGNORED
from compressor.errors import TrainingError
from compressor.training.tasks import Task


@dataclass(frozen=True)
class Teacher:
    """A trained network that another one learns from.

    Attributes:
        model: gives logits of the same shape; in evaluation mode, on the device of training
        temperature: T, by which the logits of both are divided
        weight: share of the soft targets in the loss; the labels have the rest
        layers: module paths whose maps are compared as well
        attention: weight of that, β
    """

    model: nn.Module
    temperature: float
    weight: float
    layers: tuple[str, ...] = ()
    attention: float = 0.0

    def watching(self, student: nn.Module) -> Attention | None:
        """What compares the maps of both networks from now on; None: nothing is asked for.

        Raises:
            TrainingError: a layer is missing in one of them
        """
        return Attention(self.model, student, self.layers) if self.layers else None

    def outputs(self, x: Tensor) -> Tensor:
        """The teacher's logits of a batch, without gradients."""
        with torch.no_grad():
            logits: Tensor = self.model(x.contiguous())  # whether it can have channels last nobody asked
        return logits

    def loss(
        self, task: Task, output: Tensor | tuple[Tensor | None, ...], taught: Tensor, y: Tensor, smoothing: float = 0.0
    ) -> Tensor:
        """(1 - w)·(the task's loss) + w·T²·KL(teacher ‖ network) at temperature T (Hinton et al. 2015, section 2).

        T² keeps the gradients of the soft targets at the size of those of the labels. Samples, pixels or tokens whose
        target does not count do not count here either; auxiliary heads learn from the labels alone.

        Args:
            task: of the network
            output: of the network in training
            taught: the teacher's logits
            y: targets
            smoothing: of the labels
        """
        own = task.loss(output, y, smoothing)
        head = output if isinstance(output, Tensor) else output[0]
        assert head is not None
        logits, targets = task.pair(head, y)
        soft, _ = task.pair(taught.to(head.device), y)
        mixed = targets.is_floating_point()  # shares of classes: all samples count
        counts = torch.ones_like(targets[:, 0]) if mixed else (targets != IGNORED).to(logits.dtype)
        log_p, log_q = (nn.functional.log_softmax(one / self.temperature, dim=1) for one in (soft, logits))
        divergence = (log_p.exp() * (log_p - log_q)).sum(1)
        mean = (divergence * counts).sum() / counts.sum().clamp_min(1)
        return (1 - self.weight) * own + self.weight * self.temperature**2 * mean


class Attention:
    """Compares where two networks look, whatever their widths: attention transfer.

    Of the maps (N, C, H, W) that a layer gives, Q = Σ_c A_c² (H·W), divided by its norm, is compared between teacher
    and student (Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, equation 2).

    Args:
        teacher: runs first
        student: on the same inputs
        layers: module paths that both have
    """

    def __init__(self, teacher: nn.Module, student: nn.Module, layers: Sequence[str]) -> None:
        self._seen: dict[str, list[Tensor]] = {}
        self._handles = []
        for path in layers:
            for which, network in (("student", student), ("teacher", teacher)):
                try:
                    module = network.get_submodule(path)
                except AttributeError as error:
                    raise TrainingError(f"train.distill.layers: the {which} has no layer {path!r}") from error
                self._handles.append(module.register_forward_hook(self._noting(path, which == "student")))

    def _noting(self, path: str, trains: bool) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            # A student that is evaluated in between has no gradients, and no teacher beside it.
            if isinstance(output, Tensor) and torch.is_grad_enabled() == trains:
                self._seen.setdefault(path, []).append(output)

        return note

    def loss(self) -> Tensor:
        """The mean distance over samples and layers since the last call.

        Raises:
            TrainingError: a layer gives no maps, or of another size than the teacher's
        """
        found = []
        for path, (one, other) in list(self._pairs()):
            if one.dim() < 3 or one.shape[2:] != other.shape[2:]:
                sizes = f"{tuple(one.shape)} and {tuple(other.shape)}"
                raise TrainingError(
                    f"train.distill.layers: {path} gives {sizes} in student and teacher, not maps of one size"
                )
            maps = [nn.functional.normalize(x.float().square().sum(1).flatten(1), dim=1) for x in (one, other)]
            found.append((maps[0] - maps[1]).square().sum(1).mean())
        self._seen.clear()
        return torch.stack(found).mean()

    def _pairs(self) -> Iterator[tuple[str, list[Tensor]]]:
        for path, outputs in self._seen.items():
            if len(outputs) != 2:
                raise TrainingError(f"train.distill.layers: {path} is not run once in each network")
            yield path, outputs

    def close(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
