"""Masked tokens: some tokens are hidden from the encoder, and are to be told from the others.

    loss = mean over hidden tokens of (decode(encode(tokens without them)) - tokens)^2

Reconstruction can be had token by token; this asks for what tokens of one model have in common (He et al., 2111.06377, for patches
of images). An error of 1 means that nothing is told, as standardised tokens have unit variance.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from wsl.data.windows import Batch
from zoo_gen.errors import InputError


class MaskedTokens:
    """Squared error of hidden tokens, each weight and each log-scale counting the same.

    Args:
        share: of the tokens that are hidden, each by itself.
    """

    def __init__(self, *, share: float):
        if not 0 < share < 1:
            raise InputError(f"share {share} of masked tokens must be more than 0 and less than 1; .3 is usual")
        self.share = share

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Returns `loss`."""
        hidden = rearrange(torch.rand(batch.positions.shape[:2]) < self.share, "b t -> b t 1").to(batch.values.device)
        told = model(batch.values.masked_fill(hidden, 0), batch.mask & ~hidden, batch.positions)
        squared = (told.float() - batch.values).square() * (batch.mask & hidden)
        expected = self.share * (batch.entries + batch.tokens)  # not the number drawn: parts of a batch then add up to it
        return {"loss": squared.sum() / expected}
