r"""Duplicates: which of many checkpoints are one model, to the bit, up to precision, or up to symmetry; and which are near.

Not all pairs are aligned. In standard form (`wsl.symmetry.canonical.standardize`), the remaining symmetries keep the norm of each
part of each tensor. So these norms are a fingerprint :math:`f` of the orbit, and

.. math:: \|f(a) - f(b)\| \le d(a, b)

for the distance d modulo symmetry. Only pairs whose fingerprints are as near as rounding allows are aligned
(`wsl.analyses.copies.relation`). The fingerprint reads the stem, the last block and the tail alone, which keeps the inequality.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress
from scipy.spatial import KDTree
from torch import Tensor

from wsl.analyses.copies import KINDS, Relation, apart, in_float64, is_finite, norm, off, relation
from wsl.analyses.fingerprints import ends, fingerprints
from wsl.analyses.models import OPAQUE, Reading, heads_of, layout_for
from wsl.layout.slots import Layout
from wsl.symmetry.alignment import aligned_vectors
from wsl.symmetry.stacks import stack
from zoo_gen.errors import InputError
from zoo_gen.files import weights_sha256
from zoo_gen.threads import in_threads
from zoo_gen.wording import counted

DRAWS = 3
"""How often the rounding of a checkpoint is drawn to see what it does to its fingerprint."""

MARGIN = 16
"""Largest difference of the fingerprints of copies, in units of the largest of those draws."""


@dataclass
class Read:
    """A checkpoint that was read: its place, a hash of its weights, its shapes, and what is known of its heads."""

    place: Path
    sha256: str
    shapes: frozenset[tuple[str, tuple[int, ...]]]
    is_finite: bool
    precision: float
    heads: int | None
    note: str
    layout: Layout | None = None
    fingerprint: Float[np.ndarray, "F"] = field(default_factory=lambda: np.zeros(0))
    noise: float = 0.0
    like: tuple[int, str] | None = None  # the number of the checkpoint that it is equal to, and up to what
    distance: tuple[bool, float] | None = None  # whether that one has no more digits, and how far it is, modulo symmetry
    is_settled: bool = False

    def take(self, number: int, other: "Read", found: Relation) -> None:
        """Takes another checkpoint as the one that it is equal to, if it is, and is so more than to any before.

        A rounded copy may be as near to a sibling of its model as rounding allows, so the nearest of all candidates counts. One
        of more digits goes before copies that are rounded themselves.
        """
        if found.kind is None:
            return
        far = (other.precision >= self.precision, found.distance or 0.0)
        if self.distance is None or far < self.distance:
            self.like, self.distance = (number, found.kind), far
            self.is_settled = found.kind != "symmetry" or self.precision <= torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Duplicates:
    """Groups of equal checkpoints, pairs of near ones, and what was not compared.

    Attributes:
        groups: lists of (place, kind): the first is what the others are equal to, and its kind is ""; the others' are of `KINDS`.
        near: pairs of places with their distance over the norm, the nearest first.
        opaque: places of checkpoints that no table knows, compared as they are.
        headless: places of checkpoints whose number of heads is not known, compared without symmetries of heads.
        broken: places of checkpoints that are not finite, compared by their bits alone.
        unread: place -> why it could not be read.
        count: number of checkpoints that were read.
    """

    groups: list[list[tuple[Path, str]]]
    near: list[tuple[Path, Path, float]]
    opaque: list[Path]
    headless: list[Path]
    broken: list[Path]
    unread: dict[Path, str]
    count: int

    def as_json(self) -> dict[str, Any]:
        """Returns plain data: texts, numbers, lists and objects."""
        return {
            "checkpoints": self.count,
            "groups": [[{"checkpoint": str(place), "equal_up_to": kind or None} for place, kind in group] for group in self.groups],
            "near": [{"a": str(a), "b": str(b), "relative_distance": far} for a, b, far in self.near],
            "without_symmetries": list(map(str, self.opaque)),
            "without_symmetries_of_heads": list(map(str, self.headless)),
            "not_finite": list(map(str, self.broken)),
            "unread": {str(place): why for place, why in self.unread.items()},
        }


def duplicates(places: Iterable[Path], reading: Reading, *, near: float, console: Console) -> Duplicates:
    """Finds the duplicates among checkpoints.

    Args:
        places: what to read, each as `read_checkpoint` takes it.
        reading: how.
        near: pairs of unequal checkpoints are listed, each with its nearest, where their distance over their norm is at most this;
            0 for none.
        console: shows the progress.

    Raises:
        InputError: none of several checkpoints can be read.
    """
    places = list(places)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:

        def shown(what: str, items: Iterable[Any], total: int) -> Iterator[Any]:
            return iter(progress.track(items, total=total, description=what))

        found = list(shown("reading", in_threads(lambda place: _read(place, reading), places), len(places)))
        unread = {place: one for place, one in zip(places, found, strict=True) if isinstance(one, str)}
        read = [one for one in found if isinstance(one, Read)]
        if not read:
            raise InputError(f"none of {counted(len(places), 'checkpoint')} can be read, such as {places[0]}: {unread[places[0]]}")
        read.sort(key=lambda one: (one.precision, str(one.place)))  # the most precise of a group is its first
        _same_bits(read)
        unique = [number for number, one in enumerate(read) if one.like is None and one.is_finite]
        _share_heads([read[number] for number in unique])
        work = in_threads(lambda number: _describe(read[number], reading), unique)
        for _ in shown("comparing", work, len(unique)):
            pass
        equal: list[tuple[int, int, str]] = []
        for pairs in _rounds(read, unique):
            checks = in_threads(lambda pair: _relation(read[pair[0]], read[pair[1]], reading), pairs)
            for (a, b), found in zip(pairs, shown("aligning", checks, len(pairs)), strict=True):
                read[a].take(b, read[b], found)
                equal += [(a, b, found.kind)] if found.kind is not None else []
        _join(read, equal)
        left = [number for number in unique if read[number].like is None]
        pairs = _neighbours(read, left) if near > 0 else []
        distances = in_threads(lambda pair: _relative(read[pair[0]], read[pair[1]], reading, near), pairs)
        far = list(shown("near models", distances, len(pairs)))
    close = [(read[a].place, read[b].place, far) for (a, b), far in zip(pairs, far, strict=True) if far <= near]
    known = [read[number] for number in unique]
    return Duplicates(
        groups=_groups(read),
        near=sorted(close, key=lambda item: item[2]),
        opaque=[one.place for one in known if one.layout is not None and one.layout.family == OPAQUE],
        headless=[one.place for one in known if one.note and one.heads is None],
        broken=[one.place for one in read if not one.is_finite],
        unread=unread,
        count=len(read),
    )


def _read(place: Path, reading: Reading) -> Read | str:
    """Reads a checkpoint, or says why it cannot be read."""
    try:
        weights = _sorted(reading.weights(place))
        heads, note = heads_of(place, weights, reading)
        layout_for(weights, heads, reading.opaque)
    except InputError as error:
        return " ".join(str(error).split())
    shapes = frozenset((name, tuple(tensor.shape)) for name, tensor in weights.items())
    precision = max((torch.finfo(w.dtype).eps for w in weights.values() if w.is_floating_point()), default=0.0)
    return Read(place, weights_sha256(weights), shapes, is_finite(weights), precision, heads, note)


def _sorted(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors in the order of their names: files of one model may have them in any order."""
    return {name: weights[name] for name in sorted(weights)}


def _same_bits(read: list[Read]) -> None:
    first: dict[str, int] = {}
    for number, one in enumerate(read):
        if (same := first.setdefault(one.sha256, number)) != number:
            one.like = (same, "bits")


def _share_heads(read: list[Read]) -> None:
    """Gives checkpoints without a known number of heads that of the others of their shapes, where these agree."""
    for shapes in {one.shapes for one in read}:
        alike = [one for one in read if one.shapes == shapes]
        known = {one.heads for one in alike if one.heads is not None and not one.note}
        for one in alike:
            if one.note and len(known) == 1:
                one.heads, one.note = next(iter(known)), ""


def _describe(one: Read, reading: Reading) -> None:
    """Fills in the layout of a checkpoint, its fingerprint, and what rounding makes of that."""
    weights = _sorted(reading.weights(one.place))
    one.layout, _ = layout_for(weights, one.heads, reading.opaque)
    outer = ends(one.layout)
    some = {slot.name: weights[slot.name] for slot in outer.slots}
    values = fingerprints([in_float64(some), *(off(some, draw=draw) for draw in range(DRAWS))], outer)
    one.fingerprint = values[0]
    one.noise = float(np.linalg.norm(values[1:] - values[0], axis=1).max())


def _rounds(read: list[Read], numbers: list[int]) -> Iterator[list[tuple[int, int]]]:
    """Yields pairs that may be copies, first all nearest ones, until each checkpoint is settled or has no candidate left."""
    candidates: dict[int, list[int]] = {}
    for alike in _by_layout(read, numbers):
        tree = KDTree(np.stack([read[number].fingerprint for number in alike]))
        largest = max(read[number].noise for number in alike)
        for i, number in enumerate(alike):
            one = read[number]
            far = {
                alike[j]: float(np.linalg.norm(one.fingerprint - read[alike[j]].fingerprint))
                for j in tree.query_ball_point(one.fingerprint, MARGIN * (one.noise + largest))
                if j < i
            }
            near = sorted((distance, other) for other, distance in far.items())
            candidates[number] = [other for distance, other in near if distance <= MARGIN * (one.noise + read[other].noise)]
    while any(candidates.values()):
        yield [(number, others.pop(0)) for number, others in candidates.items() if others]
        candidates = {number: others for number, others in candidates.items() if others and not read[number].is_settled}


def _join(read: list[Read], equal: list[tuple[int, int, str]]) -> None:
    """Lets a checkpoint that is equal to none before it follow one of no more digits that was found equal to it.

    So a copy that was rounded twice is in the group of one that was rounded once.
    """
    for a, b, kind in equal:
        root = a
        while (like := read[root].like) is not None:
            root = like[0]
        if read[b].like is None and root != b and read[b].precision >= read[a].precision:
            read[b].like = (a, kind)


def _by_layout(read: list[Read], numbers: list[int]) -> list[list[int]]:
    """Returns checkpoints that may be compared, together: equal shapes and heads."""
    found: dict[Layout | None, list[int]] = {}
    for number in numbers:
        found.setdefault(read[number].layout, []).append(number)
    return list(found.values())


def _neighbours(read: list[Read], numbers: list[int]) -> list[tuple[int, int]]:
    """Returns each checkpoint with the one whose fingerprint is nearest, every pair once."""
    pairs: set[tuple[int, int]] = set()
    for alike in _by_layout(read, numbers):
        if len(alike) > 1:
            points = np.stack([read[number].fingerprint for number in alike])
            nearest = np.asarray(KDTree(points).query(points, k=2)[1]).tolist()
            for i, both in enumerate(nearest):
                j = next(k for k in both if k != i)
                pairs.add((min(alike[i], alike[j]), max(alike[i], alike[j])))
    return sorted(pairs)


def _relation(a: Read, b: Read, reading: Reading) -> Relation:
    assert a.layout is not None
    return relation(_sorted(reading.weights(a.place)), _sorted(reading.weights(b.place)), a.layout)


def _relative(a: Read, b: Read, reading: Reading, near: float) -> float:
    """Returns the distance of two checkpoints over their norm, as they are, or modulo symmetry where that may be near."""
    assert a.layout is not None
    one, other = (in_float64(_sorted(reading.weights(each.place))) for each in (a, b))
    size = (norm(one) * norm(other)) ** 0.5
    as_they_are = apart(one, other) / size if size else 0.0
    if as_they_are <= near or a.layout.family == OPAQUE:
        return as_they_are
    first, second = aligned_vectors(stack([other, one]), a.layout, to=stack([other]))
    return float(np.linalg.norm(first - second) / np.linalg.norm(first))


def _groups(read: list[Read]) -> list[list[tuple[Path, str]]]:
    """Returns the groups of equal checkpoints; of a chain of equal ones, the weakest kind counts."""
    groups: dict[int, list[tuple[Path, str]]] = {}
    for number, one in enumerate(read):
        kind, root = -1, number
        while (like := read[root].like) is not None:
            root, kind = like[0], max(kind, KINDS.index(like[1]))
        if root != number:
            groups.setdefault(root, [(read[root].place, "")]).append((one.place, KINDS[kind]))
    return list(groups.values())
