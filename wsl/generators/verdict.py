"""Verdict: novelty, diversity, flags and the share of good and new samples, from distances and a scale."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from jaxtyping import Float

from wsl.generators.fresh_scale import FreshScale, Ratios
from wsl.generators.novelty import COLLAPSED, COPIED, LEAKED, THRESHOLD, median_of

ENOUGH = 1.0
"""Novelty and diversity from which a sample is new: those of a fresh model."""

Scales = tuple[FreshScale, FreshScale]
"""Of novelty and of diversity."""

ByScale = Mapping[str, Float[np.ndarray, " S"]]


@dataclass(frozen=True)
class Bars:
    """Test accuracies that good samples exceed: medians over train models; NaN where accuracies are not known.

    Attributes:
        median: over all of them.
        top_quartile: over the best quarter of each family by val accuracy.
        best: over the best of each family by val accuracy.
    """

    median: float
    top_quartile: float
    best: float

    @classmethod
    def of(cls, val: Sequence[Float[np.ndarray, " N"]], test: Sequence[Float[np.ndarray, " N"]]) -> Self:
        """Finds the bars from accuracies by family."""

        def middle(share: float) -> float:
            chosen = []
            for by_val, by_test in zip(val, test, strict=True):
                order = np.argsort(-by_val, kind="stable")[: int(np.isfinite(by_val).sum())]
                chosen.append(by_test[order[: max(1, round(share * len(order)))]])
            every = np.concatenate(chosen)
            return float(np.median(every)) if len(every) else float("nan")

        return cls(float(np.median(np.concatenate(test))), middle(0.25), middle(0))


@dataclass(frozen=True)
class Measured:
    """What was measured of S samples.

    Attributes:
        accuracy, val_accuracy: on test images, and on val images.
        here, there: distance to the nearest train model of the own root, and of another one, by space.
        unseen: distance of weights to the nearest held-out model; infinite where samples are real models.
        apart: distance to the nearest other samples, by space.
        family: of each sample.
    """

    accuracy: Float[np.ndarray, " S"]
    val_accuracy: Float[np.ndarray, " S"]
    here: ByScale
    there: ByScale
    unseen: Float[np.ndarray, " S"]
    apart: ByScale = field(default_factory=dict)
    family: Sequence[str] = ()

    @property
    def distances(self) -> dict[str, Float[np.ndarray, " S"]]:
        """Distance to the nearest train model of any root, by space."""
        return {space: np.minimum(values, self.there[space]) for space, values in self.here.items()}

    @classmethod
    def joined(cls, parts: Sequence["Measured"]) -> "Measured":
        """Returns the samples of all parts."""

        def by_space(name: str) -> dict[str, np.ndarray]:
            return {space: np.concatenate([getattr(part, name)[space] for part in parts]) for space in getattr(parts[0], name)}

        accuracy, val_accuracy, unseen = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("accuracy", "val_accuracy", "unseen")
        )
        family = [one for part in parts for one in part.family]
        return cls(accuracy, val_accuracy, by_space("here"), by_space("there"), unseen, by_space("apart"), family)


def verdict(
    measured: Measured, scales: Scales, replicates: Sequence[Scales], bars: Bars, rng: np.random.Generator
) -> dict[str, Any]:
    """Returns what is said of samples: medians, flags, shares with 95 % intervals, and the figures of each sample.

    Intervals are over families, drawn by `rng`, and over `replicates` of the scales.
    """
    (novelties, novelty), (diversities, diversity) = _both(measured, scales)
    unseen = scales[0].ratios({"weights": measured.unseen}, measured.val_accuracy)
    judged = {
        COPIED: (novelty, *novelties.values()),
        COLLAPSED: (diversity, *diversities.values()),
        LEAKED: (*unseen.values(),),
    }
    flagged = {flag: np.any([values < THRESHOLD for values in every], axis=0) for flag, every in judged.items()}
    medians = {flag: [median_of(values) for values in every] for flag, every in judged.items()}
    elsewhere = np.any([measured.there[space] < measured.here[space] for space in measured.here], axis=0)
    known = measured.accuracy[np.isfinite(measured.accuracy)]
    quartiles = np.quantile(known, [0.25, 0.5, 0.75]) if len(known) else np.full(3, np.nan)
    return {
        "n": len(measured.accuracy),
        "accuracy": dict(zip(("q25", "median", "q75"), quartiles, strict=True)),
        "novelty": medians[COPIED][0],
        "novelty_by_space": dict(zip(novelties, medians[COPIED][1:], strict=True)),
        "novelty_by_root": {
            name: median_of(scales[0].smaller(scales[0].ratios(values, measured.val_accuracy)))
            for name, values in (("own", measured.here), ("other", measured.there))
        },
        "nearest_is_of_another_root": float(elsewhere.mean()),
        "diversity": medians[COLLAPSED][0],
        "diversity_by_space": dict(zip(diversities, medians[COLLAPSED][1:], strict=True)),
        "flags": [flag for flag, found in medians.items() if any(value < THRESHOLD for value in found)],
        "flagged": {flag: float(found.mean()) for flag, found in flagged.items()},
        "good_and_new": _good_and_new(measured, ~flagged[LEAKED], scales, replicates, bars, rng),
        "notes": [] if np.isfinite(diversity).any() else ["no sample has another one of its family, or diversity has no scale"],
        "samples": {
            "family": list(measured.family),
            "accuracy": measured.accuracy,
            "val_accuracy": measured.val_accuracy,
            "novelty": novelty,
            "diversity": diversity,
            **{flag: found.tolist() for flag, found in flagged.items()},
        },
    }


def _both(measured: Measured, scales: Scales) -> list[tuple[Ratios, Float[np.ndarray, " S"]]]:
    """Returns ratios by space and verdicts, of novelty and of diversity; a sample without another one has no diversity."""
    apart = {space: np.where(np.isfinite(values), values, np.nan) for space, values in measured.apart.items()}
    found = []
    for scale, distances in zip(scales, (measured.distances, apart), strict=True):
        ratios = scale.ratios(distances, measured.val_accuracy)
        found.append((ratios, scale.smaller(ratios)))
    return found


def _good_and_new(
    measured: Measured, honest: np.ndarray, scales: Scales, replicates: Sequence[Scales], bars: Bars, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    names, family = np.unique(np.array(measured.family), return_inverse=True)

    def shares(some: Scales, weights: np.ndarray) -> list[float]:
        (_, novelty), (_, diversity) = _both(measured, some)
        new = honest & (novelty >= ENOUGH) & (diversity >= ENOUGH)
        each = [weights[new & (measured.accuracy > bar)].sum() / weights.sum() for bar in vars(bars).values()]
        return [share if np.isfinite(bar) else np.nan for share, bar in zip(each, vars(bars).values(), strict=True)]

    drawn = [np.bincount(rng.integers(len(names), size=len(names)), minlength=len(names)) for _ in replicates]
    each = np.array([shares(some, counts[family]) for some, counts in zip(replicates, drawn, strict=True)])
    value = shares(scales, np.ones(len(family)))
    low, high = np.quantile(each, [0.025, 0.975], axis=0)
    return {bar: {"share": value[i], "low": low[i], "high": high[i]} for i, bar in enumerate(vars(bars))}
