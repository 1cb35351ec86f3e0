r"""Duplicates: which of many checkpoints are one model, to the bit, up to precision, or up to symmetry; and which are near.

Not all pairs are aligned. In standard form (`wsl.symmetry.canonical.standardize`), the remaining symmetries keep the norm of each
part of each tensor. So these norms are a fingerprint :math:`f` of the orbit, and

.. math:: \|f(a) - f(b)\| \le d(a, b)

for the distance d modulo symmetry. Only pairs whose fingerprints are as near as rounding allows are aligned
(`wsl.analyses.copies.relation`). The fingerprint reads the stem, the last block and the tail alone, which keeps the inequality.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from scipy.spatial import KDTree

from wsl.analyses.candidates import Read, describe, in_order, read_one, share_facts, share_heads
from wsl.analyses.copies import KINDS, Relation, relation
from wsl.analyses.models import OPAQUE, Reading
from wsl.analyses.rounding import apart, in_float64, norm
from wsl.layout.slots import Layout
from wsl.symmetry.alignment import aligned_vectors
from wsl.symmetry.stacks import stack
from zoo_gen.errors import InputError
from zoo_gen.threads import in_threads
from zoo_gen.wording import counted

MARGIN = 16
"""Largest difference of the fingerprints of copies, in units of what rounding makes of them (`wsl.analyses.candidates`)."""


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

        found = list(shown("reading", in_threads(lambda place: read_one(place, reading), places), len(places)))
        unread = {place: one for place, one in zip(places, found, strict=True) if isinstance(one, str)}
        read = [one for one in found if isinstance(one, Read)]
        if not read:
            raise InputError(f"none of {counted(len(places), 'checkpoint')} can be read, such as {places[0]}: {unread[places[0]]}")
        read.sort(key=lambda one: (one.precision, str(one.place)))  # the most precise of a group is its first
        _same_bits(read)
        unique = [number for number, one in enumerate(read) if one.like is None and one.is_finite]
        share_heads(finite := [read[number] for number in unique])
        share_facts(finite)
        work = in_threads(lambda number: describe(read[number], reading), unique)
        for _ in shown("comparing", work, len(unique)):
            pass
        equal: list[tuple[int, int, str]] = []
        for pairs in _rounds(read, unique):
            checks = in_threads(lambda pair: _relation(read[pair[0]], read[pair[1]], reading), pairs)
            for (a, b), found in zip(pairs, shown("aligning", checks, len(pairs)), strict=True):
                if found.kind is not None:
                    read[a].take(b, read[b], found.kind, found.distance)
                    equal.append((a, b, found.kind))
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


def _same_bits(read: list[Read]) -> None:
    first: dict[str, int] = {}
    for number, one in enumerate(read):
        if (same := first.setdefault(one.sha256, number)) != number:
            one.like = (same, "bits")


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
    return relation(in_order(reading.weights(a.place)), in_order(reading.weights(b.place)), a.layout)


def _relative(a: Read, b: Read, reading: Reading, near: float) -> float:
    """Returns the distance of two checkpoints over their norm, as they are, or modulo symmetry where that may be near."""
    assert a.layout is not None
    one, other = (in_float64(in_order(reading.weights(each.place))) for each in (a, b))
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
