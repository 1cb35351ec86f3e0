"""Hardware: where and how a stack is computed. Nothing else in the package knows whether there is a GPU.

In the ranks of a Fabric (models too large to stack) every rank takes its share of each batch and gradients are averaged, which is
all that data parallelism means for one stack. Mixing and the negatives of SimCLR stay within a rank's share.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo_gen.errors import InputError

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """A device and the way to use it.

    Attributes:
        device: `cpu`, `cuda`, `cuda:1`, ...
        precision: `float32`, or `bfloat16` for the products of training (weights, moments, scores and checkpoints stay float32).
        compile: None, or a mode of `torch.compile`: `default`, or `reduce-overhead` (CUDA graphs, where launches dominate).
        fabric: of the ranks that share the stack, None for one process.
    """

    device: str
    precision: str
    compile: str | None
    fabric: Any

    def __post_init__(self) -> None:
        """Raises `InputError` for a device that is not there or a precision that does not exist."""
        if self.precision not in PRECISIONS:
            raise InputError(f"unknown precision '{self.precision}'; choose one of {', '.join(PRECISIONS)}")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"device {self.device} is not there: this machine has no CUDA GPU; choose executor.device=cpu")

    def compiled(self, stack: nn.Module) -> Callable[[Tensor], Tensor]:
        """The stack's forward pass for training, compiled if asked for."""
        return stack if self.compile is None else torch.compile(stack, mode=self.compile)

    def precision_context(self) -> AbstractContextManager[Any]:
        """The context that training steps run in."""
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, torch.bfloat16)

    def shard(self, batch: int) -> slice:
        """The share of each batch that this rank takes."""
        if self.fabric is None:
            return slice(None)
        rank, ranks = self.fabric.global_rank, self.fabric.world_size
        if batch % ranks:
            raise InputError(f"a batch of {batch} images does not divide among {ranks} ranks; choose another batch_size")
        return slice(rank * batch // ranks, (rank + 1) * batch // ranks)

    def averaged(self, gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """The gradients, averaged over the ranks."""
        if self.fabric is None or self.fabric.world_size == 1:
            return gradients
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        mean = self.fabric.all_reduce(flat, reduce_op="mean")
        pieces = mean.split([gradient.numel() for gradient in gradients])
        return [piece.view_as(gradient) for piece, gradient in zip(pieces, gradients, strict=True)]


CPU = Hardware(device="cpu", precision="float32", compile=None, fabric=None)
"""One process on the CPU: what the tests compare with."""
