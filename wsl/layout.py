"""Layouts: where the weights of an architecture live, what they are for, and how each axis transforms.

A layout is read off a table of axis names (`wsl.architectures`), one row per tensor:

    blocks.{b}.attn.qkv.weight   q: (head.{b} qk.{b}) resid | k: (head.{b} qk.{b}*) resid | v: (head.{b} vo.{b}) resid
    blocks.{b}.attn.proj.weight  o: resid (head.{b} vo.{b}*)
    head.bias                    head: class

`|` splits the first axis into equal parts, each `role: axes`; parentheses make one axis of several (the first varies
slowest); `{b}` is the index of the block. Rows before the first `{b}` are the stem, rows after the last one the tail.

Equal names mean the same group element, hence the same size. An element g acts on an axis by g, on one
marked `*` by its dual g^-T. What is before the first dot of a name is its kind:

    resid  residual stream, permuted       mlp     hidden neurons, permuted       head  attention heads, permuted
    qk     features of queries and keys of a head, any invertible map             vo    the same of values and outputs

Every other kind (`class`, `position`, `dim`, ...) carries no symmetry, and `1` is an axis of size one.
"""

import functools
import importlib
import math
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from wsl import architectures
from zoo_gen.errors import InputError

ROLES = ("patch", "embed", "q", "k", "v", "o", "fc1", "fc2", "vectors", "head")
"""What a part is for. A role's id is its place in this tuple, for every architecture."""


class Axis(NamedTuple):
    """Name of an axis and whether it transforms with the dual of the group element of that name."""

    name: str
    dual: bool

    @property
    def kind(self) -> str:
        """What is before the first dot: `qk` of `qk.3`."""
        return self.name.partition(".")[0]


@dataclass(frozen=True)
class Part:
    """An equal share of a tensor's first axis: its role, its block, and the axes of each dimension."""

    role: str
    block: int
    axes: tuple[tuple[Axis, ...], ...]


@dataclass(frozen=True)
class Slot:
    """One tensor of a checkpoint: its name, its shape, its row in the table, and its parts along the first axis."""

    name: str
    shape: tuple[int, ...]
    row: str
    parts: tuple[Part, ...]


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

    def groups(self) -> dict[tuple[int, str], list[tuple[int, int]]]:
        """Returns (block, role) -> [(slot, part), ...], sorted by block, then by role as in `ROLES`."""
        found: dict[tuple[int, str], list[tuple[int, int]]] = {}
        for s, slot in enumerate(self.slots):
            for p, part in enumerate(slot.parts):
                found.setdefault((part.block, part.role), []).append((s, p))
        return {key: found[key] for key in sorted(found, key=lambda key: (key[0], ROLES.index(key[1])))}


def layout_of(source: Mapping[str, Tensor] | nn.Module, *, heads: int | None = None) -> Layout:
    """Finds the architecture of a state dict or model and returns its layout.

    Args:
        source: a model or its state dict; only names and shapes are read.
        heads: number of attention heads per block, which no state dict tells. Tokens do not need it, symmetries do.

    Raises:
        InputError: no table of `wsl.architectures` has all its tensors with consistent sizes.
    """
    tensors = source.state_dict() if isinstance(source, nn.Module) else source
    return _layout(tuple((name, tuple(tensor.shape)) for name, tensor in tensors.items()), heads)


class _Mismatch(Exception):
    """A table does not fit: how many tensors it does not know, and why."""

    def __init__(self, unknown: int, reason: str):
        super().__init__(unknown, reason)
        self.unknown, self.reason = unknown, reason


@functools.lru_cache(maxsize=256)
def _layout(shapes: tuple[tuple[str, tuple[int, ...]], ...], heads: int | None) -> Layout:
    if not shapes:
        raise InputError("the checkpoint has no tensors; pass the state dict of a model")
    if empty := [name for name, shape in shapes if 0 in shape]:
        raise InputError(f"tensor {empty[0]!r} of the checkpoint is empty; remove it")
    misses: list[tuple[str, _Mismatch]] = []
    for module in pkgutil.iter_modules(architectures.__path__):
        for table in importlib.import_module(f"{architectures.__name__}.{module.name}").TABLES:
            try:
                return _fit(module.name, _parse(table), shapes, heads)
            except _Mismatch as miss:
                misses.append((module.name, miss))
    family, closest = min(misses, key=lambda item: item[1].unknown)
    raise InputError(
        f"no architecture of wsl.architectures fits the checkpoint's {len(shapes)} tensors; the closest, {family!r}, "
        f"does not because {closest.reason}. Add a table for it (one file in wsl/architectures), or remove what is no "
        "weight of the model"
    )


class _Row(NamedTuple):
    name: str
    pattern: re.Pattern[str]
    parts: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]  # (role, axes of each dimension) of each part
    tail: bool


@functools.cache
def _parse(table: str) -> tuple[_Row, ...]:
    """Reads a table; a malformed one is a bug of its module (ValueError), not bad input."""
    rows: list[_Row] = []
    for line in filter(None, map(str.strip, table.splitlines())):
        name, text = line.split(maxsplit=1)
        parts = []
        for part in text.split("|"):
            role, _, axes = part.partition(":")
            if role.strip() not in ROLES:
                raise ValueError(f"row {line!r}: role {role.strip()!r} is not one of {', '.join(ROLES)}")
            dimensions = re.findall(r"\(([^()]+)\)|(\S+)", axes)
            parts.append((role.strip(), tuple(tuple((product or single).split()) for product, single in dimensions)))
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>\\d+)", re.escape(name))
        tail = "{b}" not in name and any("{b}" in row.name for row in rows)
        rows.append(_Row(name, re.compile(pattern), tuple(parts), tail))
    return tuple(rows)


def _fit(family: str, rows: tuple[_Row, ...], shapes: tuple[tuple[str, tuple[int, ...]], ...], heads: int | None) -> Layout:
    matches = []
    unknown = []
    for name, shape in shapes:
        hit = next(((i, match) for i, row in enumerate(rows) if (match := row.pattern.fullmatch(name))), None)
        if hit:
            matches.append((*hit, name, shape))
        else:
            unknown.append(name)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise _Mismatch(len(unknown), f"it has no row for {', '.join(unknown[:3])}{more}")

    depth = 1 + max((int(match["b"]) for i, match, *_ in matches if "{b}" in rows[i].name), default=-1)
    keyed = []
    for i, match, name, shape in matches:
        row = rows[i]
        block = int(match["b"]) + 1 if "{b}" in row.name else (depth + 1 if row.tail else 0)
        parts = []
        for role, dimensions in row.parts:
            named = [[axis.format(**match.groupdict()) for axis in dimension] for dimension in dimensions]
            axes = tuple(tuple(Axis(name.removesuffix("*"), name.endswith("*")) for name in names) for names in named)
            parts.append(Part(role, block, axes))
        keyed.append(((block, i, name), Slot(name, shape, row.name, tuple(parts))))
    slots = tuple(slot for _, slot in sorted(keyed, key=lambda item: item[0]))
    return Layout(family, depth, slots, _solve(slots, heads))


def _solve(slots: tuple[Slot, ...], heads: int | None) -> tuple[tuple[str, int], ...]:
    """Finds the size of every axis from the shapes; equal names that would need different sizes are a mismatch."""
    products: dict[tuple[str, ...], tuple[int, str]] = {("1",): (1, "by definition")}

    def equate(names: tuple[str, ...], size: int, where: str) -> None:
        known, first = products.setdefault(names, (size, where))
        if known != size:
            raise _Mismatch(0, f"axis '{' '.join(names)}' has size {known} ({first}) and size {size} ({where})")

    for slot in slots:
        n = len(slot.parts)
        for part in slot.parts:
            if len(part.axes) != len(slot.shape) or slot.shape[0] % n:
                raise _Mismatch(0, f"{slot.name} of shape {slot.shape} is not {n} equal part(s) of {len(part.axes)} dimension(s)")
            for axes, size in zip(part.axes, (slot.shape[0] // n, *slot.shape[1:]), strict=True):
                equate(tuple(axis.name for axis in axes), size, slot.name)
    if heads is not None:
        for name in {axis.name for slot in slots for part in slot.parts for axes in part.axes for axis in axes}:
            if name.startswith("head."):
                equate((name,), heads, "the given number of heads")
    for names, (size, where) in list(products.items()):
        missing = [name for name in names if (name,) not in products]
        product = math.prod(products[(name,)][0] for name in names if (name,) in products)
        if (not missing and product != size) or (len(missing) == 1 and size % product):
            raise _Mismatch(0, f"axis '{' '.join(names)}' of {where} has size {size}, which {product} does not fit")
        if len(missing) == 1:
            equate((missing[0],), size // product, where)
    return tuple((names[0], size) for names, (size, _) in products.items() if len(names) == 1)
