"""Slots, parts, axes and rules: the pieces of a layout, which say where each weight lies and how it transforms.

`wsl.layout.lookup` reads them off tables and explains them.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

ROLES = ("patch", "embed", "q", "k", "v", "o", "fc1", "fc2", "vectors", "head")
"""What a part is for. A role's id is its place in this tuple, for every architecture."""


class Axis(NamedTuple):
    """Name of an axis and whether it transforms with the dual of the group element of that name."""

    name: str
    dual: bool

    @property
    def kind(self) -> str:
        """The part of the name before the first dot: `qk` of `qk.3`."""
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Part:
    """A run of a tensor's first axis: its role, its block, its size along that axis, and the axes of each dimension."""

    role: str
    block: int
    size: int
    axes: tuple[tuple[Axis, ...], ...]


@dataclass(frozen=True)
class Slot:
    """One tensor of a checkpoint: its name, its shape, its row in the table, and its parts along the first axis.

    `shape` and `parts` are as in the table; the checkpoint has the last two dimensions the other way round where `transposed`.
    """

    name: str
    shape: tuple[int, ...]
    row: str
    parts: tuple[Part, ...]
    transposed: bool = False

    def turn(self, tensor: Tensor) -> Tensor:
        """Returns a view of a tensor (... *shape) of the checkpoint as the table has it, and the other way round."""
        return tensor.mT if self.transposed else tensor

    def pieces(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Returns views of the parts of a stacked tensor (K, *shape) of the checkpoint, as the table has them."""
        turned = self.turn(tensor)
        return (turned,) if len(self.parts) == 1 else turned.split([part.size for part in self.parts], dim=1)

    def start(self, part: int) -> int:
        """Returns the first row of a part."""
        return sum(one.size for one in self.parts[:part])


def opaque_slot(name: str, shape: tuple[int, ...], *, block: int, role: str = "vectors") -> Slot:
    """Returns the slot of a tensor of one part whose axes are its own."""
    axes = tuple((Axis(f"opaque.{name}.{i}", False),) for i in range(len(shape)))
    return Slot(name, shape, name, (Part(role, block, shape[0] if shape else 1, axes),))


class Rule(NamedTuple):
    """A null direction: the tensor or layer `source`, one of its parts, and the layers that it passes into."""

    verb: str
    source: str
    part: int | None
    targets: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """The slots of an architecture, in the order of its table: every weight exactly once.

    Blocks count from 1; the stem is block 0, the tail block `depth + 1`. `sizes` has every axis whose size the shapes
    (and the number of heads, where given) determine: without the number of heads, `head.3` and `qk.3` are missing
    from it.
    """

    family: str
    depth: int
    slots: tuple[Slot, ...]
    sizes: tuple[tuple[str, int], ...]
    rules: tuple[Rule, ...] = ()

    @functools.cached_property
    def heads(self) -> dict[str, str]:
        """The axis of heads of each axis of features of a head: `qk.0` -> `head.0`."""
        dims = [dim for slot in self.slots for part in slot.parts for dim in part.axes]
        pairs = [(axis, head) for dim in dims for axis in dim for head in dim if head.kind == "head" and axis.kind in ("qk", "vo")]
        return {axis.name: head.name for axis, head in pairs}

    def turn(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns views of tensors (... *shape) of the checkpoint as the table has them, and the other way round."""
        return {slot.name: slot.turn(weights[slot.name]) for slot in self.slots}

    def groups(self) -> dict[tuple[int, str], list[tuple[int, int]]]:
        """Returns (block, role) -> [(slot, part), ...], sorted by block, then by role as in `ROLES`."""
        found: dict[tuple[int, str], list[tuple[int, int]]] = {}
        for s, slot in enumerate(self.slots):
            for p, part in enumerate(slot.parts):
                found.setdefault((part.block, part.role), []).append((s, p))
        return {key: found[key] for key in sorted(found, key=lambda key: (key[0], ROLES.index(key[1])))}
