"""Views of the checkpoints that windows are drawn from: as they are stored, or moved by random symmetries (`wsl.symmetry.group`).

A checkpoint that tokens code by its difference to the root moves along with the root, by one and the same element, so that the
difference of the moved weights is the moved difference. Null directions act on each in its own way, and would make a difference
where there is none; they are for tokens of raw weights.
"""

import json
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float
from numpy.random import SeedSequence
from torch import Tensor

from wsl.data.sources import Source, Stored, sums_in, values_in
from wsl.data.standardizer import Sums
from wsl.layout import layout_of
from wsl.layout.slots import Layout
from wsl.symmetry.group import MOVES, apply, random_view, sample
from wsl.symmetry.null_directions import NULLS
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.window import Window
from zoo_gen import Checkpoint
from zoo_gen.architecture import skeleton
from zoo_gen.errors import InputError

Weights = dict[str, Tensor]


class View(Protocol):
    """Makes a source of a stored checkpoint."""

    def __call__(self, stored: Stored) -> Source:
        """Returns what windows are drawn from."""
        ...


class AsStored:
    """Checkpoints as they are stored."""

    def __call__(self, stored: Stored) -> Source:
        """Returns the checkpoint itself."""
        return stored


class RandomView:
    """Checkpoints moved by random symmetries, anew in every epoch: the same functions in other weights.

    Args:
        moves: which of `wsl.symmetry.group.MOVES`.
        maps: of queries and keys, values and outputs: "orthogonal", "diagonal" or "general".
        strength: of null directions.
    """

    def __init__(self, *, moves: list[str], maps: str, strength: float):
        if unknown := sorted(set(moves) - set(MOVES)):
            raise InputError(f"unknown view.moves {', '.join(unknown)}; choose among {', '.join(MOVES)}")
        self.moves, self.maps, self.strength = tuple(moves), maps, strength
        self._heads: dict[str, int | None] = {}

    def __call__(self, stored: Stored) -> Source:
        """Returns the checkpoint moved as it is read. Raises `InputError` for null directions of differences to a root."""
        if stored.tokenizer.reference == "root" and (nulls := sorted(set(self.moves) & set(NULLS))):
            raise InputError(
                f"the null directions {', '.join(nulls)} cannot move differences to a root; leave them out of view.moves, or "
                "choose tokenizer.reference=none"
            )
        return Viewed(stored, self)

    def move(self, stored: Stored, key: tuple[int, ...]) -> tuple[Weights, Weights]:
        """Returns weights of a checkpoint moved by the element that `key` names, and its root's by the same (if it is needed)."""
        generator = torch.Generator().manual_seed(int(SeedSequence(key).generate_state(1, "uint64")[0] >> 1))
        weights, layout = _stack(stored.checkpoint), self._layout(stored.checkpoint)
        if stored.tokenizer.reference != "root":
            moved = random_view(weights, layout, generator, moves=self.moves, maps=self.maps, strength=self.strength)
            return _only(moved), {}
        dtype = next(iter(weights.values())).dtype
        element = sample(layout, 1, generator, moves=self.moves, maps=self.maps, dtype=dtype)
        root = apply(element, _stack(stored.root), self._layout(stored.root))
        return _only(apply(element, weights, layout)), _only(root)

    def _layout(self, checkpoint: Checkpoint) -> Layout:
        """Layout with the number of heads, which is the architecture's to tell."""
        architecture = checkpoint.architecture
        key = json.dumps(architecture, sort_keys=True)
        if key not in self._heads:
            sizes = layout_of(skeleton(architecture)).sizes
            self._heads[key] = next((size for name, size in sizes if name.startswith("head.")), None)
        return layout_of(checkpoint.state_dict(), heads=self._heads[key])


@dataclass(frozen=True)
class Viewed:
    """A stored checkpoint that is moved by a random symmetry whenever a window is drawn.

    This takes the whole model: its bytes for what has been moved and, in between, about as much again; the root's likewise if
    tokens are differences to it; and the time to move all of it and to sum up its parts, for every window.
    """

    stored: Stored
    view: RandomView
    lasting: ClassVar[bool] = False

    @property
    def plan(self) -> Plan:
        """Plan of its tokens: symmetries keep names, shapes and types."""
        return self.stored.plan

    @property
    def sums(self) -> Sums:
        """Sums of the checkpoint as it is stored."""
        return self.stored.sums

    def draw(self, window: Window, key: tuple[int, ...]) -> tuple[Float[Tensor, "T D"], Sums]:
        """Moves the checkpoint and reads a window of what has come out."""
        weights, root = self.view.move(self.stored, key)
        tokenizer = self.stored.tokenizer
        return values_in(tokenizer, window, weights, root), sums_in(tokenizer, self.plan, weights, root)


def _stack(checkpoint: Checkpoint) -> Weights:
    """A checkpoint as a stack of one."""
    return {name: tensor[None] for name, tensor in checkpoint.state_dict().items()}


def _only(stack: Weights) -> Weights:
    """The one checkpoint of a stack."""
    return {name: tensor[0].contiguous() for name, tensor in stack.items()}
