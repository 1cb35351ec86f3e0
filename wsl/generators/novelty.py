r"""Novelty and diversity: how far generated models are from the train models, and from one another.

Models are compared within one family (one root, one shape), by distances in two spaces: weights, and behaviour (the fraction of
images on which two models predict different classes). With :math:`d` a distance, :math:`x` a sample and :math:`t` the train models
of its family,

.. math::
    \mathrm{novelty}(x) = \frac{\min_t d(x, t)}{\mathrm{median}_t \min_{t' \ne t} d(t, t')}
    \qquad
    \mathrm{diversity} = \mathrm{median}_x \frac{\min_{x' \ne x} d(x, x')}{\mathrm{median}_t \min_{t' \ne t} d(t, t')},

so that both are about 1 for new models of the population. Copies of train models have novelty 0; equal samples have diversity 0.
The nearest of many is nearer than the nearest of few, so diversity compares as many samples as train models. In both, the smaller
of the two spaces counts, sample by sample. The effective-rank ratio (exponential of the entropy of the normalised singular values,
Roy & Vetterli 2007) stands beside them.

A novelty or diversity without a scale is null, and a note says why: the family has one train model, or its train models coincide.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy.spatial.distance import cdist

THRESHOLD = 0.25
"""Samples of a lower median novelty are flagged `copied`, samples of a lower median diversity `collapsed`."""

COPIED, COLLAPSED, LEAKED = "copied", "collapsed", "leaked"

SUBSETS = 32
"""Random subsets over which nearest neighbours among equally many samples and train models are averaged."""

Distance = Callable[[Shaped[np.ndarray, "A F"], Shaped[np.ndarray, "B F"]], Float[np.ndarray, "A B"]]


def euclidean(a: Shaped[np.ndarray, "A F"], b: Shaped[np.ndarray, "B F"]) -> Float[np.ndarray, "A B"]:
    """Returns distances between weights; infinite where either has weights that are not finite.

    Computed from differences and not from inner products, which would put a copy at the square root of the round-off.
    """
    return np.nan_to_num(cdist(a, b), nan=np.inf, posinf=np.inf)


def disagreement(a: Shaped[np.ndarray, "A F"], b: Shaped[np.ndarray, "B F"]) -> Float[np.ndarray, "A B"]:
    """Returns the fraction of images on which two models predict different classes."""
    return cdist(a, b, "hamming")


@dataclass(frozen=True)
class Distances:
    """Distances of one family in one space: among samples, from samples to train models, among train models."""

    samples: Float[np.ndarray, "S S"]
    to_train: Float[np.ndarray, "S N"]
    train: Float[np.ndarray, "N N"]

    @classmethod
    def between(cls, samples: np.ndarray, train: np.ndarray, *, distance: Distance) -> "Distances":
        """Measures samples (S F) against train models (N F)."""
        return cls(distance(samples, samples), distance(samples, train), distance(train, train))

    @classmethod
    def among(cls, train: np.ndarray, *, distance: Distance) -> "Distances":
        """Measures train models (N F) as if they were samples, each against the others: the negative control."""
        own = distance(train, train)
        return cls(own, own + np.diag(np.full(len(own), np.inf)), own)


def nearest_other(distances: Float[np.ndarray, "N N"]) -> Float[np.ndarray, " N"]:
    """Returns the distance of each of N models to its nearest other model; infinite for a single one."""
    return (distances + np.diag(np.full(len(distances), np.inf))).min(axis=1)


def effective_rank(distances: Float[np.ndarray, "N N"]) -> float:
    """Returns the number of dimensions, up to N - 1, that N points at these Euclidean distances fill: 0 if they coincide.

    NaN if a distance is not finite.
    """
    if not np.isfinite(distances).all():
        return float("nan")
    centring = np.eye(len(distances)) - 1 / len(distances)
    gram = -0.5 * centring @ np.square(distances) @ centring
    singular = np.sqrt(np.clip(np.linalg.eigvalsh(gram), 0, None))
    if (total := singular.sum()) == 0:
        return 0.0
    share = singular[singular > 1e-6 * total] / total
    return float(np.exp(-(share * np.log(share)).sum()))


@dataclass(frozen=True)
class Judgement:
    """Novelty and diversity of the samples of one family by space, NaN where they are undefined, and notes that say why."""

    novelty: dict[str, Float[np.ndarray, " S"]]
    diversity: dict[str, Float[np.ndarray, " X"]]
    effective_rank_ratio: float
    dispersion_ratio: float
    notes: tuple[str, ...]


def judge(spaces: Mapping[str, Distances], rng: np.random.Generator) -> Judgement:
    """Judges the samples of one family by distances in "weights" and "behaviour"; `rng` chooses the subsets for diversity."""
    n_samples, n_train = spaces["weights"].to_train.shape
    size = min(n_samples, n_train)
    subsets = [(rng.permutation(n_samples)[:size], rng.permutation(n_train)[:size]) for _ in range(SUBSETS)]
    novelty, diversity = {}, {}
    for name, space in spaces.items():
        novelty[name] = _over_median(space.to_train.min(axis=1), nearest_other(space.train))
        among_samples = [nearest_other(_within(space.samples, chosen)) for chosen, _ in subsets]
        among_train = [nearest_other(_within(space.train, chosen)) for _, chosen in subsets]
        diversity[name] = _over_median(np.concatenate(among_samples), np.concatenate(among_train))
    weights = spaces["weights"]
    train_rank = np.mean([effective_rank(_within(weights.train, chosen)) for _, chosen in subsets])
    sample_rank = np.mean([effective_rank(_within(weights.samples, chosen)) for chosen, _ in subsets])
    ratio = float(sample_rank / train_rank) if train_rank > 0 else float("nan")
    notes = []
    if n_train == 1:
        notes.append("one train model has no neighbour, so novelty and diversity have no scale")
    elif n_samples == 1:
        notes.append("one sample has no neighbour, so diversity is undefined")
    for name, space in spaces.items():
        if n_train > 1 and np.median(nearest_other(space.train)) == 0:
            notes.append(f"half of the train models or more coincide in {name}, which leaves no scale")
    wide, usual = _dispersion(weights.samples), _dispersion(weights.train)
    return Judgement(novelty, diversity, ratio, wide / usual if usual > 0 else float("nan"), tuple(notes))


def _dispersion(distances: Float[np.ndarray, "N N"]) -> float:
    """Returns the root mean square of the distances of different models; NaN for a single one."""
    finite = distances[~np.eye(len(distances), dtype=bool)]
    finite = finite[np.isfinite(finite)]
    return float(np.sqrt(np.square(finite).mean())) if len(finite) else float("nan")


def _within(distances: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    return distances[np.ix_(chosen, chosen)]


def _over_median(distances: np.ndarray, reference: np.ndarray) -> np.ndarray:
    scale = np.median(reference)
    return distances / scale if 0 < scale < np.inf else np.full(len(distances), np.nan)


def pool(judgements: Mapping[str, Judgement]) -> dict[str, Any]:
    """Returns medians over the samples of all families (whose names are the keys), NaN where undefined, flags, and notes.

    One space suffices for a flag, also where the other is undefined. `novelties` are those of the samples, one by one.
    """
    each = list(judgements.values())
    found: dict[str, Any] = {}
    flags = []
    for name, flag in (("novelty", COPIED), ("diversity", COLLAPSED)):
        ratios = {space: np.concatenate([getattr(one, name)[space] for one in each]) for space in each[0].novelty}
        by_space = {space: median_of(values) for space, values in ratios.items()}
        found |= {name: median_of(smaller(ratios)), f"{name}_by_space": by_space}
        if any(median < THRESHOLD for median in (found[name], *by_space.values())):
            flags.append(flag)
    return {
        **found,
        **{key: median_of(np.array([getattr(one, key) for one in each])) for key in ("effective_rank_ratio", "dispersion_ratio")},
        "flags": flags,
        "notes": [f"{name}: {note}" for name, judgement in judgements.items() for note in judgement.notes],
        "novelties": np.concatenate([smaller(one.novelty) for one in each]),
    }


def smaller(ratios: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns the smaller ratio of each sample; NaN where one is undefined, as it might have been the smaller."""
    return np.minimum.reduce(list(ratios.values()))


def median_of(values: np.ndarray) -> float:
    """Returns the median of the values that are defined; NaN where none is."""
    defined = values[~np.isnan(values)]
    return float(np.median(defined)) if len(defined) else float("nan")


def null_if_undefined(value: Any) -> Any:
    """Returns a value with None, JSON's null, for NaN and infinities, in nested lists, tuples, mappings and arrays too."""
    if isinstance(value, Mapping):
        return {key: null_if_undefined(item) for key, item in value.items()}
    if isinstance(value, Sequence | np.ndarray) and not isinstance(value, str):
        return [null_if_undefined(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return value
