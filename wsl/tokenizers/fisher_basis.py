r"""The residual tokenizer in the basis of the root: differences in the Fisher eigenbasis of the root.

Gradient descent moves a weight along what its layer reads and what outputs depend on, which are few directions of many. Along each
dimension of a tensor of the root the gradients of its outputs have a second moment (`wsl.symmetry.fisher`), whose eigenvectors,
strongest first, are a basis; in it

    coded = U_1^T (w - root) U_2,    w = root + U_1 coded U_2^T

has most of a change in few numbers, and in the same ones for every root, though no two roots have directions in common. The outputs
are those on fixed noise: the basis is a function of the root's weights alone, known to whoever knows the root, of any zoo. Heads
and vectors stay as they are. Kronecker-factored eigenbases of the Fisher matrix: George et al., 1806.03884.
"""

import hashlib
from collections.abc import Iterable, Mapping
from functools import partial
from threading import Lock
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wsl.symmetry.root_basis import RootBasis, input_size
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.tokens import Tokens
from zoo_gen import Checkpoint
from zoo_gen.errors import InputError
from zoo_gen.threads import in_threads

_FINDING = Lock()
"""Locked while bases are found: threads that need the same ones wait for the first."""


class FisherBasis(Residual):
    """Tokenizer of differences to the root in the root's basis; `prepare` tells it the roots.

    Args:
        width: weights per token D.
        images: noise images that each root is run on.
        seed: of the noise.
    """

    def __init__(self, *, width: int, images: int, seed: int):
        super().__init__(width=width, reference="root")
        self.form = "turned"
        if images < 1:
            raise InputError(f"images {images} of the tokenizer is not positive; 128 serve")
        self.images, self.seed = images, seed
        self._told: dict[str, Checkpoint] = {}
        self._bases: dict[str, RootBasis] = {}

    @classmethod
    def rootless(cls, card: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the card of a `Residual` tokenizer of as wide tokens: there is no basis without a root."""
        target = f"{Residual.__module__}.{Residual.__qualname__}"
        return {"_target_": target, "width": card["width"], "reference": "none"}

    @property
    def linear(self) -> bool:
        """True: turning is linear."""
        return True

    def prepare(self, roots: Iterable[Checkpoint]) -> None:
        """Takes note of roots, whose bases are found when the first is needed.

        Raises `InputError` for one whose architecture does not say how large its images are.
        """
        for root in roots:
            _ = input_size(root)
            self._told.setdefault(_key(root.state_dict()), root)

    def basis(self, root: Mapping[str, Tensor] | None) -> RootBasis:
        """The basis of a root by its weights. Raises `InputError` for none, and for one that the tokenizer has not been told of."""
        if root is None:
            raise InputError("FisherBasis codes differences to a root; pass root=..., or choose tokenizer=residual")
        key = _key(root)
        if key not in self._told:
            raise InputError("the tokenizer has not been told of this root; call tokenizer.prepare([<its checkpoint>]) before")
        with _FINDING:
            missing = [one for one in self._told if one not in self._bases]
            find = partial(RootBasis.of, images=self.images, seed=self.seed)
            each = in_threads if len(missing) > 1 else map  # one root has all cores for itself
            self._bases |= zip(missing, each(find, [self._told[one] for one in missing]), strict=True)
        return self._bases[key]

    def formed(self, weights: Mapping[str, Tensor], root: Mapping[str, Tensor] | None) -> Mapping[str, Tensor]:
        """Returns weights in the basis of the root."""
        return weights if root is None else self.basis(root).forward(weights)

    def decode(self, tokens: Tokens, *, root: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns the checkpoint of tokens; those of other values (`Tokens.with_values`) are turned back."""
        weights = super().decode(tokens, root=root)
        return weights if root is None or tokens.corrections else self.basis(root).backward(weights)

    def decode_in_place(self, tokens: Tokens, *, root: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Returns what `decode` does; turning takes memory of its own."""
        return self.decode(tokens, root=root)

    def strength(self, plan: Plan, *, root: Mapping[str, Tensor] | None) -> Float[Tensor, "T D"]:
        """How strongly the root's outputs depend on each number of the tokens of a plan, in mean squares of gradients."""
        basis = self.basis(root)
        found = basis.strength
        values = torch.full((plan.n_tokens, plan.width), basis.new)
        for (_, slot), segments in zip(plan.tensors, plan.segments, strict=True):
            if slot.name in found and found[slot.name].shape == slot.shape:
                for segment in segments:
                    segment.of(values).copy_(segment.of_tensor(found[slot.name].contiguous()))
        return values

    def turn_back(self, coded: Mapping[str, Tensor], *, root: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Turns what tokens hold of each tensor out of the root's basis."""
        return self.basis(root).backward(coded)


def _key(weights: Mapping[str, Tensor]) -> str:
    """What tells roots apart: their weights."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(weights[name].detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
