r"""The Fisher eigenbasis of a root: where its outputs depend on few numbers, and how strongly on each.

Along each dimension of a tensor of the root the gradients of its outputs have a second moment (`wsl.symmetry.fisher`), whose
eigenvectors, strongest first, are a basis U. In it a change of the weights has the numbers :math:`U_1^T (w - root) U_2`, and
outputs depend on each with a strength, the mean square of their gradient. The outputs are those on fixed noise: the basis is a
function of the root's weights alone. Kronecker-factored eigenbases of the Fisher matrix: George et al., 1806.03884.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wsl.layout import layout_of
from wsl.layout.slots import Slot
from wsl.symmetry.fisher import moments
from zoo_gen import Checkpoint
from zoo_gen.architecture import build
from zoo_gen.errors import InputError

Bases = tuple[tuple[Tensor | None, ...], ...]
"""Of a tensor: an orthogonal matrix for each dimension of each part, None where it stays as it is."""

NEW = 0.9
"""Outputs depend on a head, which a root does not have, as strongly as on this quantile of the root's weights."""


@dataclass(frozen=True)
class RootBasis:
    """Orthogonal bases of the tensors of a root, and how strongly outputs depend on numbers in them; in the shapes of the table."""

    slots: Mapping[str, Slot]
    bases: Mapping[str, Bases]
    strength: Mapping[str, Tensor]

    @classmethod
    def of(cls, root: Checkpoint, *, images: int, seed: int) -> "RootBasis":
        """Runs a root on noise. Raises `InputError` if its architecture does not say how large its images are."""
        weights = {name: tensor.detach().float() for name, tensor in root.state_dict().items()}
        layout = layout_of(weights)
        body = [slot for slot in layout.slots if slot.name not in layout.head]
        noise = torch.randn(images, *input_size(root), generator=torch.Generator().manual_seed(seed))
        found = moments(weights, body, build(root.architecture).eval(), noise)
        slots, bases, strength = {}, {}, {}
        for slot in body:
            if sum(n > 1 for n in slot.shape) > 1:  # a vector stays as it is
                slots[slot.name] = slot
                bases[slot.name] = tuple(tuple(map(_basis, part)) for part in found[slot.name])
            turned = slot.name in slots
            strength[slot.name] = torch.cat([_strength(part, turned=turned) for part in found[slot.name]])
        return cls(slots, bases, strength)

    @property
    def new(self) -> float:
        """How strongly outputs depend on a number of a tensor that the root does not have."""
        return float(torch.cat([one.flatten() for one in self.strength.values()]).quantile(NEW))

    def forward(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turns tensors (... *shape) into the basis; those of other shapes than the root's stay as they are."""
        return {name: self._turned(name, tensor, back=False) for name, tensor in weights.items()}

    def backward(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turns tensors (... *shape) back; gradients flow."""
        return {name: self._turned(name, tensor, back=True) for name, tensor in weights.items()}

    def _turned(self, name: str, tensor: Tensor, *, back: bool) -> Tensor:
        slot = self.slots.get(name)
        if slot is None or slot.turn(tensor).shape[-len(slot.shape) :] != slot.shape:
            return tensor
        stacked = tensor.view(-1, *tensor.shape[tensor.ndim - len(slot.shape) :])
        pieces = []
        for piece, part in zip(slot.pieces(stacked), self.bases[name], strict=True):
            for i, basis in enumerate(part):
                if basis is not None:
                    turn = basis.to(piece)
                    piece = (piece.movedim(i + 1, -1) @ (turn.mT if back else turn)).movedim(-1, i + 1)
            pieces.append(piece)
        return slot.turn(torch.cat(pieces, dim=1)).reshape(tensor.shape)


def input_size(root: Checkpoint) -> Sequence[int]:
    """Channels, height and width of a root's images. Raises `InputError` if its architecture does not say them."""
    size = root.architecture.get("pretrained_cfg", {}).get("input_size")
    if size is None:
        raise InputError(
            f"the architecture of root {root.model} has no input_size, the shape of the images that a basis runs it on; choose "
            "tokenizer=residual, which needs none, or noise without a basis"
        )
    return size


def _basis(moment: Tensor) -> Tensor | None:
    """Eigenvectors, strongest first, of a moment that is no diagonal."""
    return torch.linalg.eigh(moment).eigenvectors.flip(-1).float().contiguous() if moment.ndim > 1 and len(moment) > 1 else None


def _strength(part: Sequence[Tensor], *, turned: bool) -> Tensor:
    """Mean squares of the gradients of a part, as of their Kronecker factors."""
    along = [
        moment if moment.ndim == 1 else torch.linalg.eigvalsh(moment).flip(-1).clamp(min=0) if turned else moment.diagonal()
        for moment in part
    ]
    total = along[0].sum().clamp(min=torch.finfo(torch.float64).tiny)
    product = along[0]
    for values in along[1:]:
        product = product[..., None] * values / total
    return product.float()
