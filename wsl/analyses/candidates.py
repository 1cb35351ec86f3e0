"""Candidates: checkpoints that may be copies of each other, as `wsl.analyses.duplicates` reads them, with layout and fingerprint.

What a config.json tells of heads, activations and norms is shared by all checkpoints of the same shapes, where these agree.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsl.analyses.fingerprints import ends, fingerprints
from wsl.analyses.models import Reading, described, heads_of, layout_for
from wsl.analyses.rounding import in_float64, is_finite, off
from wsl.layout.slots import Layout
from zoo_gen.errors import InputError
from zoo_gen.files import weights_sha256

DRAWS = 3
"""How often the rounding of a checkpoint is drawn to see what it does to its fingerprint."""


@dataclass
class Read:
    """A checkpoint that was read: its place, a hash of its weights, its shapes, and what is known of its heads.

    `facts` is the layout of the model that a config.json describes, None where there is none.
    """

    place: Path
    sha256: str
    shapes: frozenset[tuple[str, tuple[int, ...]]]
    is_finite: bool
    precision: float
    heads: int | None
    note: str
    facts: Layout | None = None
    layout: Layout | None = None
    fingerprint: Float[np.ndarray, "F"] = field(default_factory=lambda: np.zeros(0))
    noise: float = 0.0
    like: tuple[int, str] | None = None  # the number of the checkpoint that it is equal to, and up to what
    distance: tuple[bool, float] | None = None  # whether that one has no more digits, and how far it is, modulo symmetry
    is_settled: bool = False

    def take(self, number: int, other: "Read", kind: str, distance: float | None) -> None:
        """Takes another checkpoint as the one that it is equal to up to something, if it is nearer than any before.

        A rounded copy may be as near to a sibling of its model as rounding allows, so the nearest of all candidates counts. One
        of more digits goes before copies that are rounded themselves.
        """
        far = (other.precision >= self.precision, distance or 0.0)
        if self.distance is None or far < self.distance:
            self.like, self.distance = (number, kind), far
            self.is_settled = kind != "symmetry" or self.precision <= torch.finfo(torch.float32).eps


def read_one(place: Path, reading: Reading) -> Read | str:
    """Reads a checkpoint, or says why it cannot be read."""
    try:
        weights = in_order(reading.weights(place))
        heads, note = heads_of(place, weights, reading)
        layout_for(weights, heads, reading.opaque)
    except InputError as error:
        return " ".join(str(error).split())
    shapes = frozenset((name, tuple(tensor.shape)) for name, tensor in weights.items())
    precision = max((torch.finfo(w.dtype).eps for w in weights.values() if w.is_floating_point()), default=0.0)
    facts = described(place, weights, reading)
    return Read(place, weights_sha256(weights), shapes, is_finite(weights), precision, heads, note, facts)


def in_order(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns tensors in the order of their names: files of one model may have them in any order."""
    return {name: weights[name] for name in sorted(weights)}


def share_heads(read: list[Read]) -> None:
    """Gives checkpoints without a known number of heads that of the others of their shapes, where these agree."""
    for shapes in {one.shapes for one in read}:
        alike = [one for one in read if one.shapes == shapes]
        known = {one.heads for one in alike if one.heads is not None and not one.note}
        for one in alike:
            if one.note and len(known) == 1:
                one.heads, one.note = next(iter(known)), ""


def share_facts(read: list[Read]) -> None:
    """Gives checkpoints the one layout that the models of their shapes and heads have, if these are described and agree.

    Where they do not agree, no checkpoint of these shapes has facts: a loose file may be a copy of any.
    """
    for alike in {(one.shapes, one.heads) for one in read}:
        some = [one for one in read if (one.shapes, one.heads) == alike]
        known = {one.facts for one in some if one.facts is not None}
        for one in some:
            one.facts = next(iter(known)) if len(known) == 1 else None


def describe(one: Read, reading: Reading) -> None:
    """Fills in the layout of a checkpoint, its fingerprint, and what rounding makes of that."""
    weights = in_order(reading.weights(one.place))
    one.layout = one.facts or layout_for(weights, one.heads, reading.opaque)[0]
    outer = ends(one.layout)
    some = {slot.name: weights[slot.name] for slot in outer.slots}
    values = fingerprints([in_float64(some), *(off(some, draw=draw) for draw in range(DRAWS))], outer)
    one.fingerprint = values[0]
    one.noise = float(np.linalg.norm(values[1:] - values[0], axis=1).max())
