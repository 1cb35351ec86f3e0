"""Slots, parts, axes and rules: the pieces of a layout, which say where each weight lies and how it transforms.

`wsl.layout.lookup` reads them off tables and explains them.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from zoo_gen.wording import counted

ROLES = ("patch", "embed", "q", "k", "v", "o", "fc1", "fc2", "vectors", "head")
"""What a part is for. A role's id is its place in this tuple, for every architecture."""

PERMUTED = ("resid", "mlp", "head", "dim", "register")
"""Kinds of axes whose entries are permuted."""

MAPPED = ("qk", "vo", "factor", "sign")
"""Kinds of axes with a map for each entry of another axis, their owner: features of heads, factors and signs of neurons."""

OWNERS = ("head", "mlp", "dim")
"""Kinds of axes that own such features."""

SINGLE = ("factor", "sign")
"""Kinds of features that have one entry for each entry of their owner."""


class Axis(NamedTuple):
    """Name of an axis and whether it transforms with the dual of the group element of that name."""

    name: str
    dual: bool

    @property
    def kind(self) -> str:
        """The part of the name before the first dot: `qk` of `qk.3`."""
        return self.name.partition(".")[0]


Axes = tuple[tuple[Axis, ...], ...]
"""The axes of each dimension of a part."""


@functools.lru_cache(maxsize=1024)
def owners(axes: Axes) -> dict[int, int]:
    """Returns the owner of each axis of kind `MAPPED` of a part, as places among all axes of the part.

    An axis of heads, neurons or dims owns the features beside it in a dimension. If there is none in the dimension, the only one of
    the part does.

    Raises:
        ValueError: there is none, or more than one could be meant, or a name stands twice, or two invertible maps act on one part,
            whose canonical form would be that of neither: a mistake in a table.
    """
    places = [(d, axis) for d, dim in enumerate(axes) for axis in dim]
    if len(maps := [axis.name for _, axis in places if axis.kind in MAPPED and axis.kind != "sign"]) > 1:
        raise ValueError(
            f"axes {' and '.join(map(repr, maps))} are of one part, and the canonical form balances one invertible map at a time; "
            "give one of them a kind without symmetry"
        )
    found = {}
    for i, (d, axis) in enumerate(places):
        if axis.kind in MAPPED:
            able = [j for j, (_, other) in enumerate(places) if other.kind in OWNERS]
            able = [j for j in able if places[j][0] == d] or able
            names = [other.name for _, other in places]
            if len(able) != 1 or names.count(axis.name) > 1 or names.count(names[able[0]]) > 1:
                raise ValueError(
                    f"axis {axis.name!r} of '{' '.join(names)}' must stand once, with one axis of kind {', '.join(OWNERS)} "
                    "that stands once, in its dimension or in the part: its maps differ along that axis"
                )
            found[i] = able[0]
    return found


@dataclass(frozen=True)
class Part:
    """A run of a tensor's first axis: its role, its block, its size along that axis, and the axes of each dimension."""

    role: str
    block: int
    size: int
    axes: Axes


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
    """A null direction: the tensor or layer `source`, one of its parts, and the layers that it passes into.

    `form` of a norm says which it is: "layer" removes the mean, "rms" does not, "unknown" may do either. A mean over the features
    of normed queries and keys has its norm as target; the targets of other means are empty. The source of a positive factor is an
    axis, its targets are the tensors that write it; the form of a batch norm is its epsilon, empty where that is not known.
    """

    verb: str
    source: str
    part: int | None
    targets: tuple[str, ...]
    form: str = ""


@dataclass(frozen=True, repr=False)
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

    def __hash__(self) -> int:
        return hash((self.family, self.depth, self.sizes, len(self.slots), self.slots[-1:]))  # all slots would take far longer

    def __repr__(self) -> str:
        return (
            f"Layout({self.family}, depth {self.depth}: {counted(len(self.slots), 'tensor')}, {counted(len(self.rules), 'rule')})"
        )

    @functools.cached_property
    def owners(self) -> dict[str, str]:
        """The axis that owns each axis of features: `qk.0` -> `head.0`."""
        found = {}
        for slot in self.slots:
            for part in slot.parts:
                flat = [axis.name for dim in part.axes for axis in dim]
                found |= {flat[i]: flat[owner] for i, owner in owners(part.axes).items()}
        return found

    @functools.cached_property
    def head(self) -> frozenset[str]:
        """Names of the tensors of the classifier."""
        return frozenset(slot.name for slot in self.slots if any(part.role == "head" for part in slot.parts))

    def layers(self) -> dict[str, list[str]]:
        """Returns the names of the tensors of `stem`, `block 0`, `block 1`, ..., `tail` and `head`, as far as there are any."""
        found: dict[str, list[str]] = {}
        for slot in self.slots:
            block = slot.parts[0].block
            name = "stem" if block == 0 else f"block {block - 1}" if block <= self.depth else "tail"
            found.setdefault("head" if slot.name in self.head else name, []).append(slot.name)
        return found

    def turn(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns views of tensors (... *shape) of the checkpoint as the table has them, and the other way round."""
        return {slot.name: slot.turn(weights[slot.name]) for slot in self.slots}

    def pieces(self, weights: Mapping[str, Tensor]) -> list[Tensor]:
        """Returns views of all parts of the tensors of a stack (K, *shape), as the table has them."""
        return [piece for slot in self.slots for piece in slot.pieces(weights[slot.name])]

    def groups(self) -> dict[tuple[int, str], list[tuple[int, int]]]:
        """Returns (block, role) -> [(slot, part), ...], sorted by block, then by role as in `ROLES`."""
        found: dict[tuple[int, str], list[tuple[int, int]]] = {}
        for s, slot in enumerate(self.slots):
            for p, part in enumerate(slot.parts):
                found.setdefault((part.block, part.role), []).append((s, p))
        return {key: found[key] for key in sorted(found, key=lambda key: (key[0], ROLES.index(key[1])))}
