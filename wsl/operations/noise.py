r"""Noise: random changes of the weights, large where the outputs of the root do not depend on them.

In the Fisher eigenbasis of the root (`wsl.symmetry.root_basis`) outputs depend on each number with a strength s, and the noise is

.. math:: \epsilon = \sigma\, U_1 \left( (s + \delta \bar s)^{-p} \odot z \right) U_2^T, \qquad z \sim N(0, 1)

with the norm of each model's noise a given share of the norm of its weights. With p = ½ the covariance is the inverse of the
Fisher matrix (the Laplace approximation of a posterior: Ritter et al., ICLR 2018); p = 0 is white noise, the control.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wsl.operations.models import State, check_states, positive
from wsl.symmetry.root_basis import RootBasis
from zoo_gen.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Noise that is shaped by the Fisher factors of the root.

    Attributes:
        scale: norm of the noise over the norm of the weights, of all tensors of a model together.
        power: p; 0.5 for the inverse square root of the strength, 0 for white noise.
        damping: δ, more than 0: numbers that no output depends on count as if they had this share of the mean strength.
    """

    scale: float
    power: float
    damping: float

    def __post_init__(self) -> None:
        """Raises `InputError` for numbers that no noise has."""
        positive("noise", damping=self.damping)
        if not (0 <= self.scale < float("inf") and 0 <= self.power < float("inf")):
            raise InputError(f"scale and power of noise must be at least 0 and finite, not {self.scale} and {self.power}")

    def __call__(self, models: Sequence[State], basis: RootBasis, rng: np.random.Generator) -> list[dict[str, Tensor]]:
        """Adds noise to each model.

        Args:
            models: K state dicts of one shape.
            basis: of the root that they descend from. Tensors that the root does not have, such as heads, get white noise, as of
                numbers on which outputs depend strongly.
            rng: draws the noise, model after model.

        Returns:
            K state dicts in float32. Raises `InputError` for models of other shapes than the first, or not finite.
        """
        check_states(models, {name: tensor.shape for name, tensor in models[0].items()} if models else {})
        spread = self._spread(models[0], basis)
        noisy = []
        for state in models:
            white = {name: torch.from_numpy(rng.standard_normal(tuple(t.shape), dtype=np.float32)) for name, t in state.items()}
            noise = basis.backward({name: spread[name] * z for name, z in white.items()})
            size = self.scale * _norm(state) / _norm(noise)
            noisy.append({name: tensor.float() + size * noise[name] for name, tensor in state.items()})
        return noisy

    def _spread(self, state: State, basis: RootBasis) -> dict[str, Tensor]:
        """Standard deviation of each number of each tensor in the basis, up to one factor."""
        found = {}
        damping = self.damping * float(torch.cat([one.flatten() for one in basis.strength.values()]).mean())
        for name, tensor in state.items():
            strength = basis.strength.get(name, torch.zeros(0))
            slot = basis.slots.get(name)
            strength = strength if slot is None else slot.turn(strength)
            known = strength if strength.shape == tensor.shape else torch.full(tensor.shape, basis.new)
            found[name] = (known + damping) ** -self.power
        return found


def _norm(weights: Mapping[str, Tensor]) -> float:
    return float(torch.stack([tensor.double().square().sum() for tensor in weights.values()]).sum().sqrt())
