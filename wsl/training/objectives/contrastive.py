r"""Contrast: two views of one checkpoint are to have the same latents, and those of other checkpoints others.

A view moves a checkpoint by a random symmetry (`wsl.data.augmentation`): other weights, the same function. With :math:`u, v` the
pooled latents of two views, normalised, the loss is NT-Xent (Chen et al., 2002.05709),

.. math:: -\log \frac{\exp(u \cdot v / \tau)}{\sum_{w \ne u} \exp(u \cdot w / \tau)}

where w runs over all views in the batch but other views of the same checkpoint.
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wsl.data.augmentation import RandomView, Viewed
from wsl.data.sources import Source, Stored
from wsl.data.windows import Batch
from wsl.run import Run
from wsl.tokenizers.fisher_basis import Felt
from wsl.tokenizers.window import Window
from zoo_gen.errors import InputError


class Contrastive:
    """NT-Xent between two random views of the windows of a batch, by the mean and the deviation of their latents.

    Args:
        view: what moves checkpoints.
        temperature: of the softmax.
    """

    def __init__(self, *, view: RandomView, temperature: float):
        if not temperature > 0:
            raise InputError(f"temperature {temperature} of the contrastive objective must be more than 0; .1 is usual")
        self.view, self.temperature = view, temperature

    def prepare(self, run: Run, sources: Sequence[Source]) -> None:
        """Takes over the checkpoints. Raises `InputError` for a tokenizer that knows roots as they are stored alone."""
        if isinstance(run.tokenizer, Felt):
            raise InputError(
                "objective Contrastive moves roots, whose frames tokenizer Felt does not know: choose another tokenizer"
            )
        stored = [source.stored if isinstance(source, Viewed) else source for source in sources]
        self.run, self.views = run, [self.view(source) for source in stored if isinstance(source, Stored)]
        if len(self.views) < len(sources):
            raise InputError("objective Contrastive moves checkpoints: it needs those of a zoo")

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Returns `loss` and `matched`, the share of views that are nearest to their own partner."""
        pooled = []
        for _ in range(2):
            values = torch.stack([self._drawn(row, batch) for row in range(len(batch.values))]).to(batch.values)
            latents = model.encode(values, batch.mask, batch.positions).float()  # type: ignore[operator]
            pooled.append(_pooled(latents, batch.positions[..., 0] >= 0))
        return nt_xent(torch.stack(pooled), batch.source, temperature=self.temperature)

    def _drawn(self, row: int, batch: Batch) -> Float[Tensor, "T D"]:
        """The window of a row in a random view of its checkpoint."""
        number, length = int(batch.source[row]), batch.values.shape[1]
        source, positions = self.views[number], batch.positions[row].cpu()
        start = int((source.plan.positions == positions[0]).all(1).nonzero()[0])
        window = Window.of(source.plan, start, start + int((positions[:, 0] >= 0).sum()))
        raw, sums = source.draw(window, (int(torch.randint(2**31, ())), number))
        values = self.run.standardizer.standardize_window(raw, window, self.run.standardizer.log_scales(source.plan, sums))
        return functional.pad(values, (0, 0, 0, length - len(values)))


def _pooled(latents: Float[Tensor, "B T Z"], real: Bool[Tensor, "B T"]) -> Float[Tensor, "B 2*Z"]:
    """Mean and deviation over the tokens of a window, which their order does not change; each vector of length 1."""
    weight = rearrange(real / real.sum(1, keepdim=True), "b t -> b t 1")
    mean = (latents * weight).sum(1, keepdim=True)
    deviation = ((latents - mean).square() * weight).sum(1).clamp(min=1e-12).sqrt()
    return functional.normalize(torch.cat([mean.squeeze(1), deviation], dim=-1), dim=-1)


def nt_xent(views: Float[Tensor, "2 B F"], source: Int[Tensor, "B"], *, temperature: float) -> dict[str, Tensor]:
    """Returns `loss` and `matched` of two views of each of B windows, of vectors of length 1."""
    flat = rearrange(views, "v b f -> (v b) f")
    count = views.shape[1]
    partner = torch.arange(2 * count, device=flat.device).roll(count)
    same = source.repeat(2)[:, None] == source.repeat(2)[None]
    same[torch.arange(2 * count), partner] = False
    similar = (flat @ flat.mT / temperature).masked_fill(same, -torch.inf)
    matched = (similar.argmax(-1) == partner).float().mean()
    return {"loss": functional.cross_entropy(similar, partner), "matched": matched.detach()}
