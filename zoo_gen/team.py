"""Teams: the processes that train one stack together, each on its share of every batch (data parallelism by Fabric).

Mixing pairs an image with its mirror place in the batch, so a share holds images and their mirrors: rank r of n takes the r-th part
of the first half and the same places from the end.
"""

from typing import cast

import torch
from einops import rearrange
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor

from zoo_gen.errors import InputError


class Team:
    """The processes that train a stack, seen from one of them, `rank` (0 writes) of `size`; without a `Fabric` it is alone."""

    def __init__(self, fabric: Fabric | None):
        self.fabric = fabric
        self.rank, self.size = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)

    def share(self, batch: int) -> Int[Tensor, "b"]:
        """Returns the places of a batch that are this process's. Raises `InputError` for a batch that cannot be divided."""
        if self.fabric is None:
            return torch.arange(batch)
        if batch % (2 * self.size):
            raise InputError(
                f"batches of {batch} images cannot be divided among {self.size} processes; make it a multiple of {2 * self.size}"
            )
        half = batch // (2 * self.size)
        first = torch.arange(self.rank * half, (self.rank + 1) * half)
        return torch.cat([first, batch - 1 - first.flip(0)])

    def mean_(self, gradient: Float[Tensor, "K W"]) -> None:
        """Replaces a gradient by its mean over all processes."""
        if self.fabric is not None:
            self.fabric.all_reduce(gradient, reduce_op="mean")

    def sum(self, values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Returns the sum over all processes."""
        if self.fabric is None:
            return values
        return cast(Tensor, self.fabric.all_reduce(values.clone(), reduce_op="sum"))

    def gather_views(self, views: Float[Tensor, "K 2*b M"]) -> Float[Tensor, "K 2*B M"]:
        """Returns the pairs of views of all processes, the first views before the second ones; gradients flow back."""
        if self.fabric is None:
            return views
        gathered = cast(Tensor, self.fabric.all_gather(views, sync_grads=True))
        return rearrange(gathered, "rank k (view b) m -> k (view rank b) m", view=2)


ALONE = Team(None)
"""The team of a process that trains by itself."""
