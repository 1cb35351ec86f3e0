"""Neighbours: the nearest train models of a model, of any root and any kept epoch, modulo symmetry and by predictions.

All models of a family are aligned to its first train model. A model is aligned to another root's models where its spectra are as
near to them as to those of its own root (`wsl.symmetry.forms`), and to the optimum where some sweeps bring it as near. Alignments
of two models to a third one may end in different optima, so it is aligned to the checkpoint of the nearest spectra by itself where
it may be a copy of that one. Scores of train and held-out models are kept on disk (`wsl.data.cache`).
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import numpy as np
from jaxtyping import Float, Int

from wsl.data.cache import cached_arrays, code_hash
from wsl.generators.family import Family
from wsl.generators.novelty import THRESHOLD, Distance, disagreement, euclidean
from wsl.generators.relatives import Relatives
from wsl.generators.scoring import Probes, Scored, State, as_they_are, content_of, layout_of_family, score_models, sketched
from wsl.generators.verdict import Measured
from wsl.symmetry.alignment import distance
from wsl.symmetry.forms import Forms
from wsl.symmetry.stacks import stack
from zoo_gen.images import Images
from zoo_gen.threads import batched, in_threads

AT_ONCE = 16
"""Models that are aligned to another root at once."""

SWEEPS, FAR = 2, 1.25
"""A model that is so many times as far from another root's models as from its own root's, after so many sweeps, is not aligned
further. Distances were at most 4 % above those of the optimum then (digits, six samplers)."""

EXACT = 1e-3
"""Copies whose alignment is beyond doubt are nearer than this, in units of their family."""


@dataclass(frozen=True)
class Checkpoints:
    """All kept epochs of the train models of a family, and the number of the train model that each is of."""

    scored: Scored
    models: Int[np.ndarray, " C"]
    unit: float = field(default=1.0)


Groups = Mapping[str, Mapping[int, Sequence[State]]]
"""Models by what they are of their family, and by the place of that."""


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
        self._references: dict[int, Forms | None] = {}
        self.probes = None if images is None else Probes.of(images, seed=seed)
        self.test = None if images is None else images.test
        self.alike = [[j for j, other in enumerate(families) if other.shapes == family.shapes] for family in families]
        self.relatives = relatives = relatives or [Relatives()] * len(families)
        finals, earlier, held_out = (dict[int, Sequence[State]](), dict[int, Sequence[State]](), dict[int, Sequence[State]]())
        for i, (family, kin) in enumerate(zip(families, relatives, strict=True)):
            finals[i] = family.states
            earlier |= {i: kin.earlier} if kin.earlier else {}
            held_out |= {i: kin.held_out} if kin.held_out else {}
        self.checkpoints: list[Checkpoints] = []
        self.held_out: dict[int, Scored] = {}
        groups = {"train": finals, "earlier": earlier, "held_out": held_out}
        known = cached_arrays(self._about(groups), lambda: self._judge(groups))
        found = {name: _from_arrays(known, name) for name in groups}
        self.train, self.held_out = found["train"], found["held_out"]
        self.checkpoints = self._all_epochs(found["train"], found["earlier"])

    def _about(self, groups: Groups) -> list[str]:
        """Returns texts that tell these models, and how they are judged, from all others."""
        families = [[family.name, dict(family.architecture)] for family in self.families]
        models = [[name, i, content_of(states)] for name, group in groups.items() for i, states in group.items()]
        numbers = [list(map(int, kin.models)) for kin in self.relatives]
        images = [] if self.probes is None or self.test is None else [self.probes.pixels, self.probes.labels, self.test.labels]
        hashes = [hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest() for tensor in images]
        return [json.dumps([families, models, numbers, hashes], default=repr), code_hash([__name__])]

    def _judge(self, groups: Groups) -> Mapping[str, np.ndarray]:
        """Scores all models, and returns the scores as arrays."""
        train, earlier = self._plain(groups["train"]), self._plain(groups["earlier"], tested=False)
        self.checkpoints = self._all_epochs(train, earlier)
        self.train = {i: self._elsewhere(i, models, groups["train"][i], own=True) for i, models in train.items()}
        self.held_out = self.score(groups["held_out"])
        found = {"train": self.train, "earlier": earlier, "held_out": self.held_out}
        return {
            f"{name}/{i}/{key}": values
            for name, group in found.items()
            for i, scored in group.items()
            for key, values in vars(scored).items()
        }

    def _all_epochs(self, train: Mapping[int, Scored], earlier: Mapping[int, Scored]) -> list[Checkpoints]:
        """Joins epochs of all families; the unit of a family without one is the median of the others."""
        found = [_checkpoints(train[i], earlier.get(i), np.array(kin.models, dtype=int)) for i, kin in enumerate(self.relatives)]
        units = [one.unit for one in found if np.isfinite(one.unit)]
        usual = float(np.median(units)) if units else 1.0
        return [one if np.isfinite(one.unit) else replace(one, unit=usual) for one in found]

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
        unit = self.checkpoints[i].unit
        by_spectra, here = (self.within(i, models, euclidean, what, own=own).min(axis=1) / unit for what in ("spectra", "vectors"))
        others = [j for j in self.alike[i] if j != i]
        bounds = [euclidean(models.spectra, (there := self.checkpoints[j]).scored.spectra).min(axis=1) / there.unit for j in others]
        near = np.array([(bound <= by_spectra) & np.isfinite(bound) for bound in bounds]).reshape(len(others), len(models))

        def one(some: list[int]) -> Float[np.ndarray, "2 k"]:
            chosen, found = np.array(some), np.full((2, len(some)), np.inf)
            weights = stack([states[k] for k in some])
            reference = self._reference(i)
            forms = None if reference is None else Forms.of(weights, reference.layout)
            for j, close in zip(others, near[:, chosen], strict=True):
                if (places := np.flatnonzero(close)).size:
                    rows = as_they_are(weights)[places] if forms is None else self._to(j, forms[places], here[chosen[places]])
                    targets = [self.checkpoints[j].scored, self.held_out[j]] if j in self.held_out else [self.checkpoints[j].scored]
                    for far, target in zip(found, targets, strict=False):
                        apart = euclidean(sketched(rows), target.vectors).min(axis=1) / self.checkpoints[j].unit
                        far[places] = np.minimum(far[places], apart)
            return found

        stacks = batched(np.flatnonzero(near.any(axis=0)).tolist(), AT_ONCE)
        found = np.full((2, len(models)), np.inf)
        if apart := [*in_threads(one, stacks)]:
            found[:, near.any(axis=0)] = np.concatenate(apart, axis=1)
        return self._directly(i, replace(models, elsewhere=found[0], unseen=found[1]), states, own=own)

    def _to(self, j: int, forms: Forms, here: Float[np.ndarray, " k"]) -> Float[np.ndarray, "k F"]:
        """Returns rows of models aligned to another root's family, to the end where they may be as near as their own root's."""
        reference, there = self._reference(j), self.checkpoints[j]
        assert reference is not None  # as it has forms
        rows = forms.vectors(reference, sweeps=SWEEPS)
        close = np.flatnonzero(euclidean(sketched(rows), there.scored.vectors).min(axis=1) <= FAR * there.unit * here)
        if len(close):
            rows[close] = forms[close].vectors(reference)
        return rows

    def _reference(self, i: int) -> Forms | None:
        """Returns the forms of the model that a family is aligned to; None where the symmetries are not known."""
        if i not in self._references:
            layout = layout_of_family(self.families[i])
            self._references[i] = None if layout is None else Forms.of(stack([self.families[i].states[0]]), layout)
        return self._references[i]

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


def _from_arrays(arrays: Mapping[str, np.ndarray], group: str) -> dict[int, Scored]:
    """Returns the scores of a group of models, by the places of their families."""
    found: dict[int, dict[str, np.ndarray]] = {}
    for name, values in arrays.items():
        of, place, key = name.split("/")
        if of == group:
            found.setdefault(int(place), {})[key] = values
    return {place: Scored(**found[place]) for place in sorted(found)}
