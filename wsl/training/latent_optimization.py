"""Refinement: latents of given checkpoints, moved by descent until decoded models predict as the checkpoints do.

The encoder sees weights alone. Where there are training images, descent on the latents themselves lowers the divergence between the
predictions of decoded and original models. The decoder stays as it is and gets as many numbers as before. No labels are used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsl.data.pairs import roots_by_checkpoint
from wsl.data.sources import FileSource
from wsl.data.token_statistics import encoded
from wsl.data.windows import Batch
from wsl.run import Run
from wsl.tokenizers.window import padded
from wsl.training.objectives.behaviour import Behaviour
from zoo_gen import Checkpoint
from zoo_gen.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LatentRefinement:
    """Descent on latents by Adam, with half a cosine of the learning rate down to zero.

    Attributes:
        steps, learning_rate: of Adam.
        images: training images that models are evaluated on in each step.
        batch_size: checkpoints that are refined together.
    """

    steps: int
    learning_rate: float
    images: int
    batch_size: int

    def __post_init__(self) -> None:
        """Raises `InputError` for numbers that nothing can be refined with."""
        if min(self.steps, self.images, self.batch_size) < 1 or not self.learning_rate > 0:
            raise InputError("steps, learning_rate, images and batch_size of a refinement must be more than 0")

    def __call__(
        self, run: Run, checkpoints: Sequence[Checkpoint], latents: Sequence[Float[Tensor, "T Z"]]
    ) -> list[Float[Tensor, "T Z"]]:
        """Returns better latents of checkpoints. Raises as `Behaviour` does."""
        sources = [FileSource.of(checkpoint, run.zoo.root(checkpoint), run.tokenizer) for checkpoint in checkpoints]
        objective = Behaviour(images=self.images)
        objective.prepare(run, sources)
        roots = roots_by_checkpoint(run.zoo, checkpoints)
        sides = run.decoding.sides([encoded(source) for source in sources], latents, roots=roots)
        found: list[Tensor] = []
        for first in range(0, len(sources), self.batch_size):
            some, before = sources[first : first + self.batch_size], latents[first : first + self.batch_size]
            longest = max(map(len, before))
            positions = torch.stack([padded(source.plan.positions, longest) for source in some])
            mask = (positions[..., :1] >= 0).expand(-1, -1, some[0].plan.width + 1)
            side = torch.stack([padded(one, longest) for one in sides[first : first + self.batch_size]])
            total = torch.tensor([source.plan.n_tokens for source in some])
            batch = Batch(torch.zeros(mask.shape), mask, positions, side, total, torch.arange(first, first + len(some)))
            free = Free(run.model, torch.stack([padded(one, longest) for one in before]))
            optimizer = torch.optim.Adam([free.latents], lr=self.learning_rate)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(first)
                for _ in range(self.steps):
                    optimizer.zero_grad()
                    (objective(free, batch)["loss"] * len(some)).backward()
                    optimizer.step()
                    schedule.step()
            found += [after[: len(one)] for after, one in zip(free.latents.detach(), before, strict=True)]
        return found


class Free(nn.Module):
    """A decoder whose latents are parameters; values and mask do not matter."""

    def __init__(self, model: nn.Module, latents: Float[Tensor, "B T Z"]):
        super().__init__()
        self.__dict__["model"] = model  # whose weights are not to be learned
        self.latents = nn.Parameter(latents.clone())

    def forward(self, values: Tensor, mask: Tensor, positions: Tensor, side: Tensor, total: Tensor) -> Tensor:
        """Returns the decoded tokens."""
        return self.__dict__["model"].decode(self.latents, positions, side, total)
