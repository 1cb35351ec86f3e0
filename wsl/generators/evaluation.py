"""Bench: measures generated models by their accuracy without training, their novelty and their diversity.

Train models (every kept epoch) are what samples may have copied; held-out models give the scale, and are seen by no sampler.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from wsl.generators.family import Family, Sample
from wsl.generators.fresh_scale import FEWEST, FreshScale, describe, expected_nearest
from wsl.generators.names import HELD_OUT, NEAREST, TRAIN
from wsl.generators.neighbours import Neighbours
from wsl.generators.novelty import Distance, Distances, disagreement, euclidean, judge, null_if_undefined, pool
from wsl.generators.relatives import Relatives
from wsl.generators.scoring import Scored, layout_of_family
from wsl.generators.verdict import Bars, Measured, verdict
from zoo_gen.images import Images
from zoo_gen.streams import stream

REPLICATES = 100
"""Resamples of held-out models, and of families, that intervals are of."""


class Bench:
    """Families of train models, scored once, against which any number of generators are measured.

    Args:
        families: the train models.
        images: of the zoo; None where models cannot be run.
        relatives: of each family; None for none.
        seed: of the images that behaviour is measured on, and of resamples.
        advance: called with the number of models whenever some are scored.
    """

    def __init__(
        self,
        families: Sequence[Family],
        images: Images | None,
        *,
        seed: int,
        relatives: Sequence[Relatives] | None = None,
        advance: Callable[[int], None] = lambda done: None,
    ):
        self.families, self.seed = families, seed
        self.neighbours = Neighbours(families, images, seed=seed, relatives=relatives, advance=advance)
        self.train, self.held_out, self.probes = self.neighbours.train, self.neighbours.held_out, self.neighbours.probes
        self.aligned = [layout_of_family(family) is not None for family in families]
        self.bars = Bars.of([family.val_accuracy for family in families], [self.train[i].accuracy for i in range(len(families))])
        self.is_fresh = self.probes is not None and sum(map(len, self.held_out.values())) >= FEWEST
        self.reference = self.held_out if self.is_fresh else self.train
        rng, count = stream(seed, "resampled models"), sum(map(len, self.reference.values()))
        self.resampled = [rng.integers(count, size=count) for _ in range(REPLICATES)]
        apart = [self.neighbours.nearest(i, models, own=not self.is_fresh) for i, models in self.reference.items()]
        self.novelty_scale = self._scale([one.distances for one in apart])
        self.novelty_scales = [self.novelty_scale.resampled(chosen) for chosen in self.resampled]

    @property
    def scale_note(self) -> str:
        """Why the scale is not that of held-out models, for people; nothing where it is."""
        if self.is_fresh:
            return ""
        why = "models cannot be run" if self.probes is None else f"there are fewer than {FEWEST} held-out models of these families"
        return f"novelty and diversity are on the scale of train models, whatever their accuracy, as {why}"

    def about(self) -> dict[str, Any]:
        """Returns what all rows share: the accuracy bars and the scale of novelty."""
        known = null_if_undefined({"bars": vars(self.bars)})
        if self.is_fresh:
            accuracy = np.concatenate([models.val_accuracy for models in self.reference.values()])
            known["scale_by_accuracy"] = null_if_undefined(describe(self.novelty_scale, self.novelty_scales, accuracy))
        return known

    def score(self, samples: Sequence[Sample]) -> dict[int, Scored]:
        """Scores samples; the keys are the places of their families."""
        of_family = {i: [state for owner, state in samples if owner.name == family.name] for i, family in enumerate(self.families)}
        return self.neighbours.score({i: states for i, states in of_family.items() if states})

    def measure_train(self) -> dict[str, Any]:
        """Judges each train model against the others: the row that shows what models of the population score."""
        return self.measure(TRAIN, {}, self.train)

    def measure_held_out(self) -> dict[str, Any]:
        """Judges held-out models as if they were samples: what a perfect sampler scores."""
        return self.measure(HELD_OUT, {}, self.held_out)

    def measure_nearest(self, name: str, scored: Mapping[int, Scored]) -> dict[str, Any]:
        """Measures the train model nearest to each sample of the generator `name`, which retrieves if it is no better."""
        nearest = {i: euclidean(models.vectors, self.train[i].vectors).argmin(axis=1) for i, models in scored.items()}
        return self.measure(NEAREST, {"of": name}, {i: self.train[i][chosen] for i, chosen in nearest.items()})

    def measure(self, name: str, settings: Mapping[str, Any], scored: Mapping[int, Scored]) -> dict[str, Any]:
        """Judges scored samples: a row of generate.json."""
        parts, counts = [], {i: len(models) - 1 for i, models in scored.items()}
        for i, models in scored.items():
            near = self.neighbours.nearest(i, models, own=models is self.train[i])
            parts.append(
                replace(near, apart=self._apart(i, models, models, counts, own=True), family=[self.families[i].name] * len(models))
            )
        apart = [self._apart(i, models, self.train[i], counts, own=not self.is_fresh) for i, models in self.reference.items()]
        diversity = self._scale(apart)
        scales = [
            (novelty, diversity.resampled(chosen)) for novelty, chosen in zip(self.novelty_scales, self.resampled, strict=True)
        ]
        found = verdict(Measured.joined(parts), (self.novelty_scale, diversity), scales, self.bars, stream(self.seed, "families"))
        old = {
            self.families[i].name: judge(_distances(models, self.train[i]), stream(self.seed, "judge", i))
            for i, models in scored.items()
        }
        row = {
            "generator": name,
            "settings": dict(settings),
            **found,
            "scale": "held-out models" if self.is_fresh else "train models",
        }
        on_train_scale = pool(old)
        shape = {key: on_train_scale.pop(key) for key in ("effective_rank_ratio", "dispersion_ratio")}
        on_train_scale.pop("novelties")
        row |= {**shape, "on_train_scale": on_train_scale, "aligned": all(self.aligned[i] for i in scored)}
        return null_if_undefined(row)

    def _scale(self, distances: Sequence[Mapping[str, np.ndarray]]) -> FreshScale:
        """Returns the scale of the reference models, of which each family has its distances."""
        accuracy = np.concatenate([models.val_accuracy for models in self.reference.values()]) if self.is_fresh else None
        return FreshScale(accuracy, {space: np.concatenate([one[space] for one in distances]) for space in distances[0]})

    def _apart(
        self, i: int, models: Scored, others: Scored, counts: Mapping[int, int], *, own: bool
    ) -> dict[str, Float[np.ndarray, " S"]]:
        """Returns the distance of models to the nearest of as many others of the family as both samples and train models have."""
        within = models is others
        there = len(self.train[i])
        count = min(counts.get(i, there), there - (0 if self.is_fresh else 1))
        found = {"weights": euclidean(models.vectors, others.vectors) / self.neighbours.checkpoints[i].unit}
        if self.probes is not None:
            found["behaviour"] = disagreement(models.predictions, others.predictions)
        rows = {space: _without_diagonal(values) if within else values for space, values in found.items()}
        return {space: expected_nearest(values, count) for space, values in rows.items()}


def _without_diagonal(square: Float[np.ndarray, "S S"]) -> Float[np.ndarray, "S R"]:
    return square[~np.eye(len(square), dtype=bool)].reshape(len(square), -1)


def _distances(models: Scored, train: Scored) -> dict[str, Distances]:
    """Distances in both spaces, or of weights alone where there are no predictions.

    Train models themselves are measured each against the others.
    """
    pairs: dict[str, tuple[np.ndarray, np.ndarray, Distance]] = {"weights": (models.vectors, train.vectors, euclidean)}
    if train.predictions.shape[1]:
        pairs["behaviour"] = (models.predictions, train.predictions, disagreement)
    if models is train:
        return {space: Distances.among(b, distance=distance) for space, (_, b, distance) in pairs.items()}
    return {space: Distances.between(a, b, distance=distance) for space, (a, b, distance) in pairs.items()}
