"""Neighbours: the nearest train models of a model, of any root and any kept epoch, modulo symmetry and by predictions.

All models of a family are aligned to its first train model. A model is compared with another root's models, aligned to theirs,
where its spectra are as near to them as to its own root's (`wsl.symmetry.spectra`). Alignments of two models to a third one may end
in different optima, so it is aligned to the checkpoint of the nearest spectra by itself where it may be a copy of that one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
from jaxtyping import Float, Int

from wsl.generators.family import Family
from wsl.generators.novelty import THRESHOLD, Distance, disagreement, euclidean
from wsl.generators.relatives import Relatives
from wsl.generators.scoring import Probes, Scored, State, layout_of_family, score_models, sketched, vectors_of
from wsl.generators.verdict import Measured
from wsl.symmetry.alignment import distance
from wsl.symmetry.stacks import stack
from zoo_gen.images import Images
from zoo_gen.threads import batched, in_threads

AT_ONCE = 16
"""Models that are aligned to another root at once."""

EXACT = 1e-3
"""Copies whose alignment is beyond doubt are nearer than this, in units of their family."""


@dataclass(frozen=True)
class Checkpoints:
    """All kept epochs of the train models of a family, and the number of the train model that each is of."""

    scored: Scored
    models: Int[np.ndarray, " C"]
    unit: float = field(default=1.0)


class Neighbours:
    """Train models at all kept epochs, and held-out models, of some families.

    Args:
        families, images, seed, relatives, advance: see `wsl.generators.evaluation.Bench`.

    Attributes:
        alike: for each family, the places of those of its shapes, with its own.
        train, held_out: the models at their final epochs, by the place of their family.
        checkpoints: train models at all kept epochs.
    """

    def __init__(
        self,
        families: Sequence[Family],
        images: Images | None,
        *,
        seed: int,
        relatives: Sequence[Relatives] | None,
        advance: Callable[[int], None],
    ):
        self.families, self.advance = families, advance
        self.probes = None if images is None else Probes.of(images, seed=seed)
        self.test = None if images is None else images.test
        self.alike = [[j for j, other in enumerate(families) if other.shapes == family.shapes] for family in families]
        self.relatives = relatives = relatives or [Relatives()] * len(families)
        finals, earlier, held_out = (dict[int, Sequence[State]](), dict[int, Sequence[State]](), dict[int, Sequence[State]]())
        for i, (family, kin) in enumerate(zip(families, relatives, strict=True)):
            finals[i] = family.states
            earlier |= {i: kin.earlier} if kin.earlier else {}
            held_out |= {i: kin.held_out} if kin.held_out else {}
        self.train = self._plain(finals)
        before = self._plain(earlier, tested=False)
        self.checkpoints = [
            _checkpoints(self.train[i], before.get(i), np.array(relatives[i].models, dtype=int)) for i in range(len(families))
        ]
        units = [one.unit for one in self.checkpoints]
        usual = float(np.median(defined)) if (defined := [unit for unit in units if np.isfinite(unit)]) else 1.0
        self.checkpoints = [one if np.isfinite(one.unit) else replace(one, unit=usual) for one in self.checkpoints]
        self.held_out: dict[int, Scored] = {}
        self.train = {i: self._elsewhere(i, models, finals[i], own=True) for i, models in self.train.items()}
        self.held_out = self.score(held_out)

    def _plain(self, work: Mapping[int, Sequence[State]], *, tested: bool = True) -> dict[int, Scored]:
        """Scores models by family, without a comparison to other roots."""

        def one(i: int) -> Scored:
            test = self.test if tested else None
            return score_models(work[i], family=self.families[i], probes=self.probes, test=test, advance=self.advance)

        return dict(zip(work, in_threads(one, work), strict=True))

    def score(self, work: Mapping[int, Sequence[State]]) -> dict[int, Scored]:
        """Scores models by family, with their distances to other roots."""
        return {i: self._elsewhere(i, models, work[i], own=False) for i, models in self._plain(work).items()}

    def _elsewhere(self, i: int, models: Scored, states: Sequence[State], *, own: bool) -> Scored:
        """Returns the models with their distance to the nearest train model of another root, aligned to that one's family."""
        here = self.within(i, models, euclidean, "spectra", own=own).min(axis=1) / self.checkpoints[i].unit
        found, unseen, work = models.elsewhere.copy(), models.unseen.copy(), []
        for j in self.alike[i]:
            there = self.checkpoints[j]
            bound = euclidean(models.spectra, there.scored.spectra).min(axis=1) / there.unit if j != i else np.inf
            near = np.flatnonzero((bound <= here) & np.isfinite(bound))
            work += [(j, near[start : start + AT_ONCE]) for start in range(0, len(near), AT_ONCE)]

        def one(item: tuple[int, np.ndarray]) -> list[np.ndarray]:
            j, chosen = item
            other, there = self.families[j], self.checkpoints[j]
            alike = stack([states[k] for k in chosen])
            rows = sketched(vectors_of(alike, layout_of_family(other), to=stack([other.states[0]])))
            targets = [there.scored, self.held_out[j]] if j in self.held_out else [there.scored]
            return [euclidean(rows, target.vectors).min(axis=1) / there.unit for target in targets]

        for (_, chosen), distances in zip(work, in_threads(one, work), strict=True):
            for far, nearer in zip((found, unseen), distances, strict=False):
                far[chosen] = np.minimum(far[chosen], nearer)
        return self._directly(i, replace(models, elsewhere=found, unseen=unseen), states, own=own)

    def _directly(self, i: int, models: Scored, states: Sequence[State], *, own: bool) -> Scored:
        """Returns the models with distances to the checkpoint of the nearest spectra, aligned to that one itself.

        Alignment finds a local optimum, and a little noise may lead to another one than that of the copied model.
        """
        layout = layout_of_family(self.families[i])
        if layout is None:
            return models
        directly, elsewhere = models.directly.copy(), models.elsewhere.copy()
        aligned = self.within(i, models, euclidean, "vectors", own=own).min(axis=1) / self.checkpoints[i].unit
        units = {j: self.checkpoints[j].unit for j in self.alike[i]}
        bounds = {j: self.within(j, models, euclidean, "spectra", own=own and j == i) / unit for j, unit in units.items()}
        nearest = np.stack([bounds[j].min(axis=1) for j in self.alike[i]])
        doubtful = (np.minimum(aligned, elsewhere) > EXACT) & (nearest.min(axis=0) < THRESHOLD)
        pairs = [(int(k), self.alike[i][int(nearest[:, k].argmin())]) for k in np.flatnonzero(doubtful)]

        def one(some: list[tuple[int, int]]) -> list[float]:
            there = stack([self._state(j, int(bounds[j][k].argmin())) for k, j in some])
            return distance(stack([states[k] for k, _ in some]), there, layout).tolist()

        distances = chain.from_iterable(in_threads(one, batched(pairs, AT_ONCE)))
        for (k, j), apart in zip(pairs, distances, strict=True):
            far = directly if j == i else elsewhere
            far[k] = min(far[k], apart / units[j])
        return replace(models, directly=directly, elsewhere=elsewhere)

    def _state(self, j: int, place: int) -> State:
        """Returns the weights of a checkpoint of a family, by its place among `checkpoints`."""
        finals = self.families[j].states
        return finals[place] if place < len(finals) else self.relatives[j].earlier[place - len(finals)]

    def within(self, i: int, models: Scored, metric: Distance, what: str, *, own: bool) -> Float[np.ndarray, "S C"]:
        """Returns distances to all checkpoints of the family; a model's own epochs are infinitely far."""
        there = self.checkpoints[i]
        found = metric(getattr(models, what), getattr(there.scored, what))
        return np.where(own & (np.arange(len(models))[:, None] == there.models), np.inf, found)

    def nearest(self, i: int, models: Scored, *, own: bool) -> Measured:
        """Returns the distances of models to their nearest train models, in their own root and in others."""
        aligned = self.within(i, models, euclidean, "vectors", own=own).min(axis=1) / self.checkpoints[i].unit
        here = {"weights": np.minimum(aligned, models.directly)}
        there = {"weights": models.elsewhere}
        if self.probes is not None:
            others = [self.checkpoints[j].scored.predictions for j in self.alike[i] if j != i]
            far = [disagreement(models.predictions, predictions).min(axis=1) for predictions in others]
            here["behaviour"] = self.within(i, models, disagreement, "predictions", own=own).min(axis=1)
            there["behaviour"] = np.min([np.full(len(models), np.inf), *far], axis=0)
        unseen = np.full(len(models), np.inf)
        if i in self.held_out and not any(models is one for one in (self.train[i], self.held_out[i])):
            unseen = euclidean(models.vectors, self.held_out[i].vectors).min(axis=1) / self.checkpoints[i].unit
        return Measured(models.accuracy, models.val_accuracy, here, there, np.minimum(unseen, models.unseen))


def _checkpoints(finals: Scored, earlier: Scored | None, models: np.ndarray) -> Checkpoints:
    """Joins epochs; the unit is the median distance of a train model to the nearest checkpoint of another one."""
    every = finals if earlier is None else Scored.joined([finals, earlier])
    numbers = np.concatenate([np.arange(len(finals)), models])
    distances = euclidean(finals.vectors, every.vectors)
    nearest = np.where(np.arange(len(finals))[:, None] == numbers, np.inf, distances).min(axis=1)
    unit = float(np.median(nearest))
    return Checkpoints(every, numbers, unit if 0 < unit < np.inf else float("nan"))
