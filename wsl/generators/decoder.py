"""Decoder: latents to weights, for samplers: the model and what it needs, without the run, the zoo or its test images."""

from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from wsl.data.token_inputs import TokenInputs
from wsl.tokenizers.tokens import Tokens


class Decoder:
    """The decoder of one family.

    Args:
        model: that decodes.
        inputs: without a zoo.
        tokens: of any model of the family.
        root: weights of the family's root.

    Attributes:
        gradient_evaluations: of all models so far: each rehearsal takes two optimizers' steps, on labelled train images.
    """

    def __init__(self, model: nn.Module, inputs: TokenInputs, tokens: Tokens, root: Mapping[str, Tensor] | None):
        self.model, self.inputs, self.tokens, self.root = model, inputs, tokens, root
        self.gradient_evaluations = 0

    def __call__(self, latents: Float[np.ndarray, "N T Z"]) -> list[dict[str, Tensor]]:
        """Returns the weights of N models."""
        every = [*torch.from_numpy(latents).float()]
        if self.root is not None and self.inputs.side_information.rehearses(self.tokens.plan):
            self.gradient_evaluations += 2 * self.inputs.rehearsal.steps * len(every)
        return self.inputs.decode(self.model, [self.tokens] * len(every), every, roots=[self.root] * len(every))

    def again(self) -> "Decoder":
        """Returns the same decoder with a count of its own."""
        return Decoder(self.model, self.inputs, self.tokens, self.root)
