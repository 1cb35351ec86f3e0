"""Refinement: latents of given checkpoints, moved by descent until what they decode to answers as the checkpoints do.

An encoder has to guess from weights what its decoder will make of the latents; where there are training images, descent on the
latents themselves finds out. The decoder stays as it is and gets as many numbers as before. No labels are used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wsl.data.sources import FileSource
from wsl.data.windows import Batch
from wsl.run import Run
from wsl.training.objectives.behaviour import Behaviour
from zoo_gen import Checkpoint
from zoo_gen.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """How latents are refined.

    Attributes:
        steps: of Adam.
        rate: its learning rate, with half a cosine down to zero.
        images: training images that are asked in each step.
        at_once: checkpoints that are refined together.
    """

    steps: int
    rate: float
    images: int
    at_once: int

    def __post_init__(self) -> None:
        """Raises `InputError` for numbers that nothing can be refined with."""
        if min(self.steps, self.images, self.at_once) < 1 or not self.rate > 0:
            raise InputError("steps, rate, images and at_once of a refinement must be more than 0")

    def __call__(
        self, run: Run, checkpoints: Sequence[Checkpoint], latents: Sequence[Float[Tensor, "T Z"]]
    ) -> list[Float[Tensor, "T Z"]]:
        """Returns better latents of checkpoints. Raises as `Behaviour` does."""
        sources = [FileSource.of(checkpoint, run.zoo.root(checkpoint), run.tokenizer) for checkpoint in checkpoints]
        objective = Behaviour(images=self.images)
        objective.prepare(run, sources)
        found: list[Tensor] = []
        for start in range(0, len(sources), self.at_once):
            numbers = range(start, min(start + self.at_once, len(sources)))
            found += self._refined(run, objective, [sources[n] for n in numbers], [latents[n] for n in numbers], start)
        return found

    def _refined(
        self, run: Run, objective: Behaviour, sources: Sequence[FileSource], latents: Sequence[Tensor], first: int
    ) -> list[Tensor]:
        longest = max(map(len, latents))
        padded = torch.stack([functional.pad(one, (0, 0, 0, longest - len(one))) for one in latents])
        positions = torch.stack([functional.pad(s.plan.positions, (0, 0, 0, longest - s.plan.n_tokens), value=-1) for s in sources])
        mask = (positions[..., :1] >= 0).expand(-1, -1, sources[0].plan.width + 1)
        batch = Batch(torch.zeros(mask.shape), mask, positions, torch.arange(first, first + len(sources)))
        free = Free(run.model, padded)
        optimizer = torch.optim.Adam([free.latents], lr=self.rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(first)
            for _ in range(self.steps):
                optimizer.zero_grad()
                (objective(free, batch)["loss"] * len(sources)).backward()
                optimizer.step()
                schedule.step()
        return [one[: len(before)] for one, before in zip(free.latents.detach(), latents, strict=True)]


class Free(nn.Module):
    """A decoder that decodes latents of its own, whatever it is given."""

    def __init__(self, model: nn.Module, latents: Float[Tensor, "B T Z"]):
        super().__init__()
        self.__dict__["model"] = model  # whose weights are not to be learned
        self.latents = nn.Parameter(latents.clone())

    def forward(self, values: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Returns the decoded tokens."""
        return self.__dict__["model"].decode(self.latents, positions)
