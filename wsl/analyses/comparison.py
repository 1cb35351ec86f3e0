"""Comparison of two checkpoints: what they are equal up to, and how far apart they are, as they are and modulo each symmetry.

Distances modulo one kind of symmetry are between the weights as they are, once that kind is aligned or folded away. The distance
modulo all symmetries is that of the aligned standard forms (`wsl.symmetry.alignment`). Relative distances are over the geometric
mean of the two norms in the same form. Heads of other shapes are left out: the two bodies are compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from wsl.analyses.copies import relation
from wsl.analyses.models import OPAQUE, Model
from wsl.analyses.rounding import apart, in_float64, is_finite, norm, within_precision
from wsl.layout.slots import Layout
from wsl.symmetry.alignment import aligned_vectors
from wsl.symmetry.canonical import balance
from wsl.symmetry.group import MAPPED, MOVES, transform
from wsl.symmetry.null_directions import NULLS, fold
from wsl.symmetry.rotations import rotatable
from wsl.symmetry.stacks import stack, unstack
from wsl.symmetry.weight_matching import match
from zoo_gen.errors import InputError

WORDS = {
    "resid": "permutation of residual features",
    "mlp": "permutation of neurons",
    "head": "permutation of heads",
    "dim": "permutation of normed features of heads",
    "register": "permutation of registers",
    "qk": "maps of queries and keys",
    "vo": "maps of values and outputs",
    "factor": "factors of gated neurons and normed features",
    "sign": "signs of neurons",
    "rotation": "rotation of the residual stream",
    "norm": "scales and shifts of norms",
    "bias": "value and key biases",
    "scale": "layer scales",
    "sum": "sums of biases",
    "mean": "means that norms remove",
    "constant": "constants before a layer",
    "batch": "batch norms folded into convolutions",
    "positive": "positive factors of ReLU channels",
}
"""What the kinds of symmetry (`wsl.symmetry.group.MOVES`) are called."""

VERDICTS = {
    "bits": "equal to the bit",
    "precision": "equal up to precision",
    "symmetry": "the same function in disguise: equal up to symmetry",
}

SAME_BODY = "another head on the same body"


@dataclass(frozen=True)
class Far:
    """How far apart two checkpoints are in some form or part, and that over the geometric mean of their norms there."""

    what: str
    distance: float
    relative: float


@dataclass(frozen=True)
class Comparison:
    """What two checkpoints have in common.

    Attributes:
        verdict: one phrase.
        equal_up_to: `bits`, `precision`, `symmetry`, or None.
        body_equal_up_to: the same without the heads, where these differ.
        head: `same`, `different`, `of other shapes` or `none`.
        raw: the distance of the weights as they are.
        modulo: the distance modulo each kind of symmetry that the architecture has, by its name in `MOVES`.
        aligned: the distance modulo all symmetries; None where none are known.
        layers: (raw, aligned) by layer; aligned is raw where no symmetries are known.
        notes: what was assumed or left out.
    """

    verdict: str
    equal_up_to: str | None
    body_equal_up_to: str | None
    head: str
    raw: Far
    modulo: dict[str, Far]
    aligned: Far | None
    layers: list[tuple[Far, Far]]
    notes: list[str]

    def as_json(self) -> dict[str, Any]:
        """Returns plain data: texts, numbers, lists and objects."""

        def plain(far: Far | None) -> dict[str, float] | None:
            return None if far is None else {"distance": far.distance, "relative": far.relative}

        return {
            "verdict": self.verdict,
            "equal_up_to": self.equal_up_to,
            "body_equal_up_to": self.body_equal_up_to,
            "head": self.head,
            "raw": plain(self.raw),
            "modulo": {kind: plain(far) for kind, far in self.modulo.items()},
            "modulo_all": plain(self.aligned),
            "layers": [{"layer": raw.what, "raw": plain(raw), "modulo_all": plain(aligned)} for raw, aligned in self.layers],
            "notes": self.notes,
        }


def compare(a: Model, b: Model, console: Console) -> Comparison:
    """Compares two models; the console shows the progress.

    Raises:
        InputError: they are of different architectures or numbers of heads, or weights are not finite.
    """
    for model in (a, b):
        if not is_finite(model.weights):
            raise InputError(f"{model.name} has weights that are not finite; there is nothing to compare")
    one, other, layout, heads_fit = alike(a, b)
    head = b.head
    bodies = _without(one, head), _without(other, head)
    if not heads_fit:
        one, other = bodies
    found = relation(one, other, layout)
    same_head = heads_fit and (found.kind is not None or within_precision(_only(one, head), _only(other, head)))
    body = None if found.kind or same_head or not heads_fit or not head else relation(bodies[0], bodies[1], layout).kind
    body = body if heads_fit else found.kind
    kinds = _kinds(layout)
    modulo: dict[str, Far] = {}
    aligned, layers = None, [(far, far) for far in _layers(one, other, layout)]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        todo = [*kinds, *(["all"] if layout.family != OPAQUE else [])]
        for kind in progress.track(todo, description="aligning"):
            if kind == "all":
                ours, theirs = _standard(one, other, layout)
                aligned = _far(kind, ours, theirs)
                layers = list(zip(_layers(one, other, layout), _layers(ours, theirs, layout), strict=True))
            else:
                modulo[kind] = _far(kind, *_modulo(kind, one, other, layout))
    raw = _far("raw", one, other)
    return Comparison(
        verdict=_verdict(found.kind if heads_fit else None, body, aligned or raw),
        equal_up_to=found.kind if heads_fit else None,
        body_equal_up_to=body,
        head="none" if not a.head | b.head else "of other shapes" if not heads_fit else "same" if same_head else "different",
        raw=raw,
        modulo=modulo,
        aligned=aligned,
        layers=layers,
        notes=list(dict.fromkeys([*a.notes, *b.notes])),
    )


def alike(a: Model, b: Model) -> tuple[dict[str, Tensor], dict[str, Tensor], Layout, bool]:
    """Returns the weights of two models by the tensors of the second one, its layout, and whether their heads have equal shapes.

    If they have not, the first model's head is zero in the shapes of the second one's.

    Raises:
        InputError: the bodies are of different shapes, or the numbers of heads differ.
    """
    shapes = [{name: tuple(tensor.shape) for name, tensor in model.weights.items()} for model in (a, b)]
    heads = a.head, b.head
    bodies = [{name: shape for name, shape in each.items() if name not in head} for each, head in zip(shapes, heads, strict=True)]
    if bodies[0] != bodies[1]:
        name = min({name for name, _ in bodies[0].items() ^ bodies[1].items()})
        there = [
            f"{each[name]} in {model.name}" if name in each else f"not in {model.name}"
            for each, model in zip(bodies, (a, b), strict=True)
        ]
        raise InputError(f"the two are of different architectures: {name!r} is {' and '.join(there)}; no symmetry joins them")
    if a.heads and b.heads and a.heads != b.heads:
        raise InputError(
            f"{a.name} has {a.heads} attention heads and {b.name} {b.heads}; no symmetry joins them; heads=<number> says otherwise"
        )
    layout = b.layout
    if shapes[0] == shapes[1]:
        layout = max(b.layout, a.layout, key=lambda known: len(_kinds(known)))  # a config.json beside one tells of both
        return a.weights, {name: b.weights[name] for name in a.weights}, layout, True
    head = {name: torch.zeros_like(tensor) for name, tensor in b.weights.items() if name in b.head}
    return {name: head.get(name, a.weights.get(name, tensor)) for name, tensor in b.weights.items()}, b.weights, layout, False


def _without(weights: Mapping[str, Tensor], head: frozenset[str]) -> dict[str, Tensor]:
    """Returns weights with a head of zeros."""
    return {name: torch.zeros_like(tensor) if name in head else tensor for name, tensor in weights.items()}


def _only(weights: Mapping[str, Tensor], head: frozenset[str]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if name in head}


def _kinds(layout: Layout) -> list[str]:
    """Returns the kinds of symmetry that a layout has."""
    axes = {axis for slot in layout.slots for part in slot.parts for dim in part.axes for axis in dim}
    found = {axis.kind for axis in axes}
    found |= {rule.verb for rule in layout.rules if rule.targets or rule.verb not in ("norm", "scale")}
    found |= {"rotation"} if any(rotatable(layout, axis.name) for axis in axes if axis.kind == "resid") else set()
    return [kind for kind in MOVES if kind in found]


def _modulo(
    kind: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns two checkpoints in float64 after one kind of symmetry is aligned, or folded away."""
    one, other = (stack([in_float64(weights)]) for weights in (a, b))
    if kind in NULLS:
        verbs = ("scale", "mean") if kind == "mean" else (kind,)  # layers write to the stream what their scale makes of them
        some = replace(layout, rules=tuple(rule for rule in layout.rules if rule.verb in verbs))
        one, other = (fold(weights, some)[0] for weights in (one, other))
    else:
        if kind == "rotation":
            one, other = (fold(weights, layout)[0] for weights in (one, other))
        if kind in MAPPED:
            one, other = (_balanced(weights, layout, kind) for weights in (one, other))
        one = transform(one, match(one, other, layout, (kind,)), layout)
    return unstack(one)[0], unstack(other)[0]


def _balanced(weights: dict[str, Tensor], layout: Layout, kind: str) -> dict[str, Tensor]:
    maps = balance(weights, layout)
    return transform(weights, {name: maps[name] for name in maps if name.partition(".")[0] == kind}, layout)


def _standard(a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns two checkpoints in standard form, the first aligned to the second."""
    both = torch.from_numpy(aligned_vectors(stack([in_float64(a), in_float64(b)]), layout, to=stack([in_float64(b)])))
    pieces = both.split([int(np.prod(slot.shape)) for slot in layout.slots], dim=1)
    ours, theirs = ({slot.name: piece[k] for slot, piece in zip(layout.slots, pieces, strict=True)} for k in (0, 1))
    return ours, theirs


def _layers(a: Mapping[str, Tensor], b: Mapping[str, Tensor], layout: Layout) -> list[Far]:
    """Returns how far apart each layer is: the stem, the blocks by the beginning of their names, the tail, the head."""
    found = []
    for label, some in layout.layers().items():
        what = _beginning(some) or label if label.startswith("block ") else label
        found.append(_far(what, {name: a[name] for name in some}, {name: b[name] for name in some}))
    return found


def _beginning(names: list[str]) -> str:
    """Returns the modules that all names are below: `blocks.0`."""
    shared = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return ".".join(words[0] for words in takewhile(lambda words: len(set(words)) == 1, shared))


def _far(what: str, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> Far:
    distance, size = apart(a, b), (norm(a) * norm(b)) ** 0.5
    return Far(what, distance, distance / size if size else 0.0)


def _verdict(kind: str | None, body: str | None, far: Far) -> str:
    if kind is not None:
        return VERDICTS[kind]
    if body is not None:
        return f"{SAME_BODY}, which is {VERDICTS[body].removeprefix('the same function in disguise: ')}"
    return f"two models, {far.relative:.3g} of their norm apart" + ("" if far.what == "raw" else " modulo symmetry")
