"""The alignments that benchmarks/barriers.py measures: the rows of its table, and ideas that were tried for the full group.

Each brings the first stack of some pairs to the second. Those by weights and by what outputs feel need no label; `images` are the
first train images, `noise` is normal noise of the pixels' mean and deviation, which needs no data at all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast
from unittest import mock

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from wsl.layout.slots import Layout
from wsl.symmetry import weight_matching
from wsl.symmetry.alignment import activations, align, align_by_activations, align_by_felt, align_by_loss, centre_of, output_layout
from wsl.symmetry.canonical import canonicalize
from wsl.symmetry.fisher import felt
from wsl.symmetry.group import MAPPED, MOVES, PERMUTED, transform
from wsl.symmetry.learned_alignment import Loss
from wsl.symmetry.weight_matching import match
from zoo_gen.images import ImageSplit

Stack = dict[str, Tensor]
ORTHOGONAL = (*PERMUTED, *MAPPED)
COMPACT = (*ORTHOGONAL, "rotation")
IMAGES = 128
"""Train images (or images of noise) that activations, gradients and losses are taken on."""

STEPS, RATE = 60, 0.02
"""Of the descent on a loss."""


@dataclass(frozen=True)
class Pairs:
    """Two stacks of K roots, what runs them, and train images of their task."""

    a: Stack
    b: Stack
    layout: Layout
    model: nn.Module
    train: ImageSplit

    @property
    def images(self) -> Float[Tensor, "N C H W"]:
        """The first train images."""
        return self.train.pixels[:IMAGES]

    @property
    def noise(self) -> Float[Tensor, "N C H W"]:
        """Normal noise."""
        generator = torch.Generator().manual_seed(0)
        return torch.randn(self.images.shape, generator=generator) * self.train.pixels.std() + self.train.pixels.mean()


@dataclass(frozen=True)
class Way:
    """How pairs are aligned, and the row that it is one step from."""

    previous: str
    align: Callable[[Pairs], tuple[Stack, Stack]]
    """Returns the first stack, and the second in the form that it was aligned to."""

    beside: tuple[str, ...] = ()
    """Other rows that it is compared to."""


def by_weights(*moves: str) -> Callable[[Pairs], tuple[Stack, Stack]]:
    """By weight matching."""
    return lambda pairs: (align(pairs.a, pairs.layout, to=pairs.b, moves=moves).weights, pairs.b)


def by_activations(*moves: str) -> Callable[[Pairs], tuple[Stack, Stack]]:
    """By activations on train images."""

    def run(pairs: Pairs) -> tuple[Stack, Stack]:
        found = align_by_activations(pairs.a, pairs.layout, to=pairs.b, moves=moves, model=pairs.model, inputs=pairs.images)
        return found.weights, pairs.b

    return run


def by_felt(inputs: Callable[[Pairs], Tensor], *moves: str) -> Callable[[Pairs], tuple[Stack, Stack]]:
    """By weights as outputs feel them."""

    def run(pairs: Pairs) -> tuple[Stack, Stack]:
        found = align_by_felt(pairs.a, pairs.layout, to=pairs.b, moves=moves, model=pairs.model, inputs=inputs(pairs))
        return found.weights, pairs.b

    return run


def by_loss(loss: Callable[[Pairs], Loss], *moves: str) -> Callable[[Pairs], tuple[Stack, Stack]]:
    """By weight matching, then by descent on a loss half way."""

    def run(pairs: Pairs) -> tuple[Stack, Stack]:
        found = align_by_loss(pairs.a, pairs.layout, to=pairs.b, moves=moves, loss=loss(pairs), steps=STEPS, rate=RATE)
        return found.weights, pairs.b

    return run


def labels(pairs: Pairs) -> Loss:
    """Mean cross-entropy of labelled train images."""
    run, truth = _running(pairs, pairs.images), pairs.train.labels[:IMAGES]

    def loss(weights: Mapping[str, Tensor]) -> Float[Tensor, "K"]:
        outputs = run(weights)
        return cross_entropy(outputs.mT, truth.expand(len(outputs), -1), reduction="none").mean(1)

    return loss


def mean_outputs(inputs: Callable[[Pairs], Tensor]) -> Callable[[Pairs], Loss]:
    """Squared difference to the mean of the two models' outputs: no labels."""

    def losses(pairs: Pairs) -> Loss:
        run = _running(pairs, inputs(pairs))
        with torch.no_grad():
            target = (run(pairs.a) + run(pairs.b)) / 2
        return lambda weights: (run(weights) - target).square().flatten(1).mean(1)

    return losses


def _running(pairs: Pairs, inputs: Tensor) -> Callable[[Mapping[str, Tensor]], Float[Tensor, "K N classes"]]:
    for module in pairs.model.modules():
        if hasattr(module, "fused_attn"):
            cast(Any, module).fused_attn = False  # has no rule for stacks
    run = vmap(lambda weights: functional_call(pairs.model, weights, (inputs,)))
    return lambda weights: run({name: tensor.float() for name, tensor in weights.items()})


def ridges(*values: float) -> Callable[[Pairs], tuple[Stack, Stack]]:
    """By weights, the nearest of several starts: the ridge of the first step is what tells them apart."""

    def run(pairs: Pairs) -> tuple[Stack, Stack]:
        a, b = (canonicalize(w, pairs.layout) for w in (pairs.a, pairs.b))
        found = []
        for value in values:
            with mock.patch.object(weight_matching, "RIDGE", value):
                found.append(_matched(a, b, a, b, pairs.layout, pairs.layout))
        apart = torch.stack([_squares({name: w[name] - b[name] for name in b}) for w in found])
        nearest, rows = apart.argmin(0), torch.arange(apart.shape[1])
        return {name: torch.stack([w[name] for w in found])[nearest, rows] for name in b}, b

    return run


def centre(pairs: Pairs) -> tuple[Stack, Stack]:
    """By weights, both to a common centre of all roots (a generalised Procrustes of ten rounds)."""
    a, b = (canonicalize(w, pairs.layout) for w in (pairs.a, pairs.b))
    everyone = {name: torch.cat([pairs.a[name], pairs.b[name]]) for name in pairs.a}
    middle = centre_of(everyone, pairs.layout, rounds=10)
    middle = {name: tensor.expand(len(a[name]), *tensor.shape[1:]) for name, tensor in middle.items()}
    first, second = (_matched(w, middle, w, middle, pairs.layout, pairs.layout) for w in (a, b))
    return first, second


def staged(pairs: Pairs) -> tuple[Stack, Stack]:
    """By weights, permutations and orthogonal maps of heads first, rotations from there."""
    a, b = (canonicalize(w, pairs.layout) for w in (pairs.a, pairs.b))
    a = transform(a, match(a, b, pairs.layout, pairs.layout, ORTHOGONAL), pairs.layout)
    return _matched(a, b, a, b, pairs.layout, pairs.layout), b


def joined(inputs: Callable[[Pairs], Tensor], *, share: float, weigh: bool) -> Callable[[Pairs], tuple[Stack, Stack]]:
    """By weights (or felt weights) and centred activations at once, the latter with a share of the former's squared norm."""

    def run(pairs: Pairs) -> tuple[Stack, Stack]:
        layout, seen = pairs.layout, inputs(pairs)
        a, b = (canonicalize(w, layout) for w in (pairs.a, pairs.b))
        evidence = []
        for w in (a, b):
            own = felt(w, layout, pairs.model, seen) if weigh else w
            out = {name: rows - rows.mean(-1, keepdim=True) for name, rows in activations(w, layout, pairs.model, seen).items()}
            scale = (share * _squares(own) / _squares(out)).sqrt()
            evidence.append({**own, **{f"{name}:out": rows * scale.view(-1, 1, 1) for name, rows in out.items()}})
        outputs = tuple(replace(slot, name=f"{slot.name}:out") for slot in output_layout(layout, out).slots)
        return _matched(a, b, evidence[0], evidence[1], replace(layout, slots=layout.slots + outputs), layout), b

    return run


def _matched(a: Stack, b: Stack, a_evidence: Stack, b_evidence: Stack, evidence: Layout, layout: Layout) -> Stack:
    return transform(a, match(a_evidence, b_evidence, evidence, layout, COMPACT), layout)


def _squares(weights: Mapping[str, Tensor]) -> Float[Tensor, "K"]:
    return torch.stack([tensor.flatten(1).square().sum(1) for tensor in weights.values()]).sum(0)


def _images(pairs: Pairs) -> Tensor:
    return pairs.images


def _noise(pairs: Pairs) -> Tensor:
    return pairs.noise


ROWS = {
    "naive": Way("naive", lambda pairs: (pairs.a, pairs.b)),
    "permutation": Way("naive", by_weights(*PERMUTED)),
    "permutation + orthogonal": Way("permutation", by_weights(*ORTHOGONAL)),
    "full": Way("permutation + orthogonal", by_weights(*MOVES)),
    "loss: permutation + orthogonal": Way("permutation", by_loss(labels, *ORTHOGONAL)),
    "loss: full": Way("loss: permutation + orthogonal", by_loss(labels, *MOVES), ("full",)),
    "felt: permutation": Way("naive", by_felt(_images, *PERMUTED)),
    "felt: permutation + orthogonal": Way("felt: permutation", by_felt(_images, *ORTHOGONAL)),
    "felt: full": Way("felt: permutation + orthogonal", by_felt(_images, *MOVES), ("permutation + orthogonal", "full")),
    "activations: permutation": Way("naive", by_activations(*PERMUTED)),
    "activations: full": Way("activations: permutation", by_activations(*MOVES)),
}
"""The rows of the table. Descent moves no permutations, which are discrete: its chain begins at those by weights."""

IDEAS = {
    "felt by noise: full": Way("permutation + orthogonal", by_felt(_noise, *MOVES)),
    "full: ridge 1e-6": Way("permutation + orthogonal", ridges(1e-6)),
    "full: ridge 1e-1": Way("permutation + orthogonal", ridges(1e-1)),
    "full: nearest of three ridges": Way("permutation + orthogonal", ridges(1e-6, 1e-3, 1e-1)),
    "full: common centre": Way("permutation + orthogonal", centre),
    "full: heads first": Way("permutation + orthogonal", staged),
    "full: and activations": Way("permutation + orthogonal", joined(_images, share=0.3, weigh=False)),
    "full: and activations of noise": Way("permutation + orthogonal", joined(_noise, share=0.3, weigh=False)),
    "felt: full, and activations of noise": Way("permutation + orthogonal", joined(_noise, share=0.3, weigh=True)),
    "outputs: permutation + orthogonal": Way("permutation", by_loss(mean_outputs(_images), *ORTHOGONAL)),
    "outputs: full": Way("outputs: permutation + orthogonal", by_loss(mean_outputs(_images), *MOVES)),
    "outputs of noise: full": Way("permutation + orthogonal", by_loss(mean_outputs(_noise), *MOVES)),
}
"""Ideas for the full group that need no label; what they gave is in docs/log.md."""
