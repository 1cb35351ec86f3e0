r"""Task vectors of other roots: a train model moved by what fine-tuning changed in models of other roots.

With a train model :math:`w` of the own root, and a root :math:`r'` with its fine-tuned model :math:`w'`, both aligned by the whole
symmetry group, a sample is

.. math:: w + \lambda\, (g \cdot w' - h \cdot r') + \sigma\,\varepsilon .

The head stays that of :math:`w`. Models of another root make other errors, so a sample predicts more unlike its siblings, at the
same accuracy, than one with noise does. Task arithmetic within one root: Ilharco et al., arXiv 2212.04089. Alignment:
`wsl.symmetry.alignment`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from torch import Tensor

from wsl.generators.family import Family, FamilySampler, Sample, draw_families, others_of, with_noise
from wsl.generators.scoring import layout_of_family
from wsl.operations.merge import interpolate
from zoo_gen.errors import InputError


@dataclass(kw_only=True, eq=False)
class TaskVectors(FamilySampler):
    """A train model plus a share of the task vector of another root's train model, and white noise.

    Args:
        share: λ, of the task vector that is added.
        noise: standard deviation of the noise, in units of the root-mean-square of each tensor.
        anchors: how many train models per family are moved, as `Family.anchors` chooses them; None means all.
        others: how many train models per other family give task vectors, chosen in the same way.
    """

    share: float
    noise: float
    anchors: int | None
    others: int | None

    def fit(self, families: Sequence[Family]) -> Self:
        """Keeps families that have another root of their shapes beside them. Raises `InputError` if there are none."""
        rooted = [family for family in families if family.root_state is not None and layout_of_family(family) is not None]
        self._others = {family.name: others_of(family, rooted) for family in rooted}
        kept = [family for family in rooted if self._others[family.name]]
        if not kept:
            raise InputError("no two known roots have train models of one shape, so there is no task vector of another root")
        return super().fit(kept)

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n models: family, anchor, the other model, noise. Equal pairs of models are aligned once."""
        drawn = []
        for family in draw_families(self.families, n, rng):
            other = self._others[family.name][rng.integers(len(self._others[family.name]))]
            drawn.append(
                (family, int(rng.choice(family.anchors(self.anchors))), other, int(rng.choice(other.anchors(self.others))))
            )
        samples: list[Sample] = [(family, {}) for family, *_ in drawn]
        for name in dict.fromkeys(family.name for family, *_ in drawn):
            numbers = [number for number, (family, *_) in enumerate(drawn) if family.name == name]
            family = drawn[numbers[0]][0]
            for number, moved in zip(numbers, self._moved(family, [drawn[number][1:] for number in numbers]), strict=True):
                samples[number] = family, moved
        return [(family, with_noise(state, self.noise, rng)) for family, state in samples]

    def _moved(self, family: Family, chosen: Sequence[tuple[int, Family, int]]) -> list[dict[str, Tensor]]:
        """Returns train models of a family, each moved by the task vector of another family's model."""
        layout, root = layout_of_family(family), family.root_state
        assert layout is not None  # as `fit` has kept the family
        assert root is not None
        body = [name for name in family.states[0] if name in root and name not in layout.head]
        anchors = [family.states[anchor] for anchor, _, _ in chosen]
        children = [other.states[place] for _, other, place in chosen]
        # roots have no such heads, so they get those of the models that they are aligned beside
        roots = [{**child, **_only(other.root_state, body)} for child, (_, other, _) in zip(children, chosen, strict=True)]
        own = [{**anchor, **_only(root, body)} for anchor in anchors]
        ends, starts = interpolate(anchors, children, 1.0, layout), interpolate(own, roots, 1.0, layout)
        return [
            {**anchor, **{name: anchor[name] + self.share * (end[name] - start[name]) for name in body}}
            for anchor, end, start in zip(anchors, ends, starts, strict=True)
        ]


def _only(state: Mapping[str, Tensor] | None, names: Sequence[str]) -> dict[str, Tensor]:
    assert state is not None  # as `fit` has kept families with a root
    return {name: state[name] for name in names}
