"""Refinement of another sampler's models: last layers fitted convexly, then some steps of descent, on train images.

Towards the labels, or, without them, each towards a mixture of its own of the predictions of train models (distillation). It gives
every sampler the same gradient steps, so rivals of equal cost are cards alone.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from wsl.generators.family import Family, Generator, Sample
from wsl.generators.names import CLASSES
from wsl.operations.head_fit import HeadFit
from wsl.operations.refine import Refinement
from wsl.operations.targets import Targets, predictions
from zoo_gen.errors import InputError

TOWARDS = {"labels": "labels", "teachers": "unlabelled images"}
"""What models are refined towards, and the class of samplers that this is of."""


ADAMW: dict[str, Any] = {"optimizer": "adamw", "warmup": 0.1, "schedule": "cosine", "weight_decay": 0.0}


@dataclass(kw_only=True, eq=False)
class Refined:
    """The models of a sampler after a head fit and a refinement.

    Args:
        generator: whose models are refined.
        towards: `labels`, or `teachers`: random mixtures of the predictions of train models.
        teachers: how many train models of each family teach, and tell how much predictions may agree; as `Family.anchors` chooses.
        penalty: of the fit of last layers (`HeadFit`); None for no fit.
        steps: of AdamW, with a tenth of them to warm up, and a cosine to zero; 0 for none.
        batch_size, learning_rate, repulsion: of these steps (`wsl.operations.refine.Refinement`).

    Attributes:
        gradient_evaluations: of the sampler, of the steps, and of heads: one of a head, on all images, counts as much as a step.
    """

    generator: Generator
    towards: str
    teachers: int
    penalty: float | None
    steps: int
    batch_size: int
    learning_rate: float
    repulsion: float

    def __post_init__(self) -> None:
        """Raises `InputError` for targets that are none, and for a sampler that uses more than the refinement may."""
        if self.towards not in TOWARDS:
            raise InputError(f"models are refined towards {' or '.join(TOWARDS)}, not {self.towards}")
        uses = getattr(self.generator, "uses", "weights")
        self.uses = CLASSES[max(CLASSES.index(uses), CLASSES.index(TOWARDS[self.towards]))]
        self.head_fit = None if self.penalty is None else HeadFit(penalty=self.penalty, tolerance=1e-5, steps=100)
        self.refinement = None if self.steps == 0 else Refinement(**self._descent, **ADAMW)
        self.gradient_evaluations = 0.0

    @property
    def _descent(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("steps", "batch_size", "learning_rate", "repulsion")}

    def fit(self, families: Sequence[Family]) -> Self:
        """Fits the sampler. Raises `InputError` as it does, or where images, or their labels, are not known."""
        needed = ("pixels", "labels") if self.towards == "labels" else ("pixels",)
        if any(getattr(family, what) is None for family in families for what in needed):
            raise InputError(f"models cannot be refined towards {self.towards}, as the train images of the zoo are not known")
        self.generator.fit(families)
        return self

    def sample(self, n: int, rng: np.random.Generator) -> list[Sample]:
        """Draws n models, and refines those of one architecture together."""
        before = getattr(self.generator, "gradient_evaluations", 0.0)
        samples = self.generator.sample(n, rng)
        self.gradient_evaluations += getattr(self.generator, "gradient_evaluations", 0.0) - before
        alike: dict[str, list[int]] = {}
        for number, (family, _) in enumerate(samples):
            alike.setdefault(json.dumps(family.architecture, sort_keys=True, default=repr), []).append(number)
        for numbers in alike.values():
            for number, state in zip(numbers, self._refined([samples[number] for number in numbers], rng), strict=True):
                samples[number] = samples[number][0], state
        return samples

    def _refined(self, samples: Sequence[Sample], rng: np.random.Generator) -> Sequence[dict[str, Tensor]]:
        architecture, pixels, states = samples[0][0].architecture, samples[0][0].pixels, [state for _, state in samples]
        assert pixels is not None  # or `fit` would have raised
        targets = self._targets(samples, pixels, rng)
        if self.head_fit is not None:
            fitted = self.head_fit(architecture, states, pixels, targets)
            states, self.gradient_evaluations = fitted.states, self.gradient_evaluations + fitted.cost.head_gradients * len(states)
        if self.refinement is not None:
            refined = self.refinement(architecture, states, pixels, targets, rng)
            states, self.gradient_evaluations = refined.states, self.gradient_evaluations + refined.cost.gradients * len(states)
        return states

    def _targets(self, samples: Sequence[Sample], pixels: Float[Tensor, "N C H W"], rng: np.random.Generator) -> Targets:
        """Returns labels, or for each model a mixture of the best train models of its family."""
        families = {family.name: family for family, _ in samples}
        chosen = {name: family.anchors(self.teachers) for name, family in families.items()}
        architecture = samples[0][0].architecture
        models = [family.states[place] for name, family in families.items() for place in chosen[name]]
        if self.towards == "labels":
            labels = samples[0][0].labels
            assert labels is not None  # or `fit` would have raised
            repels = self.refinement is not None and self.repulsion > 0
            teachers = predictions(architecture, models, pixels) if repels else None
            return Targets.labels(labels, architecture["num_classes"], teachers=teachers)
        teachers = predictions(architecture, models, pixels)
        first = dict(zip(families, np.cumsum([0, *map(len, chosen.values())]), strict=False))
        shares = np.zeros((len(samples), len(models)))
        for row, (family, _) in enumerate(samples):
            count = len(chosen[family.name])
            shares[row, first[family.name] : first[family.name] + count] = rng.dirichlet(np.ones(count))
        return Targets.mixtures(teachers, torch.from_numpy(shares))
