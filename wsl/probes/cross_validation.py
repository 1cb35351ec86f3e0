"""Cross-validation of probes over the folds of one split, with intervals, noise ceilings and controls.

Every fold fits on its own train models, chooses on its val models and predicts its test models. The predictions of all folds are
pooled, and the score is computed once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from wsl.probes.inputs import Inputs
from wsl.probes.metrics import Metric, Values, bootstrap_counts, interval, whole
from wsl.probes.probe import Measured, Probe, Targets
from wsl.probes.settings import Settings
from zoo_gen.errors import InputError
from zoo_gen.splits import Split
from zoo_gen.streams import stream

_NOTHING = dict.fromkeys(("value", "low", "high", "chance", "noise_ceiling", "above_permuted"))


@dataclass(frozen=True)
class Finding:
    """A row of the table, and its score over the resamples that lie behind its interval (None for controls and unknown scores)."""

    row: dict[str, Any]
    resampled: Float[np.ndarray, "R"] | None


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """The folds, resamples and controls that probes are evaluated by; equal for all features, so their scores are paired.

    Attributes:
        frame: checkpoints to be split, rows of `zoo.frame`.
        splits: the folds: which rows are train, val and test. No row is tested twice.
        families: what is resampled first, one label per row: the root for `leave_root_out`, the same for all for
            `by_model`.
        measured: results image by image, for the noise ceilings.
        settings: penalties that val chooses from, the number of bootstraps and of permuted targets, and their seed.
        unlabelled: per fold, the rows that the scales of features are taken from; None: train, as of everything else.
        memory: noise ceilings and resamples found so far, the same for all features and for other train models (`replace`).
    """

    frame: pd.DataFrame
    splits: Sequence[Split[Bool[np.ndarray, "N"]]]
    families: Shaped[np.ndarray, "N"]
    measured: Measured
    settings: Settings
    unlabelled: Sequence[Bool[np.ndarray, "N"]] | None = None
    memory: dict[tuple, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuses folds that test a model twice."""
        models = [frozenset(self.frame["model"][split.test]) for split in self.splits]
        twice = sorted(model for i, some in enumerate(models) for model in some if any(model in others for others in models[:i]))
        if twice:
            raise InputError(
                f"the folds of a cross-validation test some models twice ({', '.join(twice[:5])}); name each fold once"
            )

    def evaluate(
        self, probes: Mapping[str, Probe], features: Iterable[Float[np.ndarray, "N F"]], *, subset: Bool[np.ndarray, "N"]
    ) -> list[Finding]:
        """Evaluates probes on the features of every row of `frame`, once per fold: what is fitted differs from fold to fold.

        Only rows of the subset are trained on, validated on and tested.

        Returns:
            For each probe and each of its metrics a row of the real score, `control: None`, and where the probe has one
            a row of its control, `control: "permuted targets"`. Where there is nothing to predict, the scores are None.
        """
        settings = self.settings
        pooled = {target: _Pool(probe, self.frame, subset) for target, probe in probes.items()}
        for number, (split, table) in enumerate(zip(self.splits, features, strict=True)):
            prepared: dict[bytes, Inputs] = {}  # most targets are known for the same rows
            for pool in pooled.values():
                rows = Split(*(np.flatnonzero(part & subset & pool.known) for part in split))
                train, val, test = (Targets(pool.values[chosen], self._models[chosen]) for chosen in rows)
                pool.rows.append(rows.test)
                if not all(map(len, rows)) or not pool.probe.predictable(train.values, test.values):
                    pool.predictable = False
                    continue
                key = pool.known.tobytes()
                if key not in prepared:
                    scales = None if self.unlabelled is None else table[self.unlabelled[number] & subset]
                    prepared[key] = Inputs.of(table[rows.train], table[rows.val], table[rows.test], unlabelled=scales)
                known, penalties = (prepared[key], train, val), settings.penalties
                pool.predictions.append(pool.probe.fit(*known, penalties=penalties).predict(prepared[key].test))
                rng = stream(settings.seed, "probe", "shuffle", number)
                options = {"penalties": penalties, "n_permutations": settings.n_permutations, "rng": rng}
                pool.permuted.append(pool.probe.predict_permuted(*known, **options))
        return [finding for target, pool in pooled.items() for finding in self._score(target, pool)]

    def planted(self, probes: Mapping[str, Probe], *, subset: Bool[np.ndarray, "N"]) -> list[Finding]:
        """Returns the control of a planted feature: the target itself (one column per class of a label), which has to score 1."""
        found, bare = [], replace(self, settings=replace(self.settings, n_permutations=0))
        for target, probe in probes.items():
            values, known = probe.targets(self.frame)
            column = (values[:, None] == np.unique(values[known])) if values.dtype.kind == "U" else values[:, None]
            for finding in bare.evaluate({target: probe}, [np.asarray(column, dtype=float)] * len(self.splits), subset=subset):
                found.append(Finding({**finding.row, "control": "planted feature"}, None))
        return found

    @cached_property
    def _models(self) -> Int[np.ndarray, "N"]:
        return pd.factorize(self.frame["model"])[0]

    def _score(self, target: str, pool: "_Pool") -> list[Finding]:
        """Scores the pooled predictions of one target."""
        rows = np.concatenate(pool.rows)
        truth, models = pool.values[rows], self._models[rows]
        about = {"target": target, "trivial": pool.probe.trivial}
        about |= {"n_models": len(np.unique(models)), "n_checkpoints": len(models)}
        if not pool.predictable or len(np.unique(truth)) < 2:
            return [Finding(about | {"control": None, "metric": metric} | _NOTHING, None) for metric in pool.probe.metrics]
        predictions, permuted = np.concatenate(pool.predictions), np.concatenate(pool.permuted, axis=1)
        _, first, groups = np.unique(models, return_index=True, return_inverse=True)
        families = np.unique(self.families[rows][first], return_inverse=True)[1]
        n_bootstrap, seed = self.settings.n_bootstrap, self.settings.seed
        resamples = ("resamples", n_bootstrap, seed, families.tobytes())
        if resamples not in self.memory:
            rng = stream(seed, "probe", "bootstrap")
            self.memory[resamples] = bootstrap_counts(families, n_bootstrap=n_bootstrap, rng=rng)
        counts = self.memory[resamples]
        measured = Measured(self.measured.loss[rows], self.measured.accuracy[rows])
        found = []
        for name, metric in pool.probe.metrics.items():
            key = (target, name, rows.tobytes())
            if key not in self.memory:
                rng = stream(seed, "probe", "noise_ceiling")
                self.memory[key] = pool.probe.noise_ceiling(name, self.frame.iloc[rows], measured, rng=rng)
            limits = {"metric": name, "chance": pool.probe.chance(name, truth), "noise_ceiling": _known(self.memory[key])}
            value, resampled = whole(metric, truth, predictions), metric(truth, predictions, groups, counts)
            low, high = interval(resampled)
            scores = {"value": _known(value), "low": _known(low), "high": _known(high)}
            control = _control(name, metric, truth, permuted)
            above = None if control is None else bool(value > control["high"])
            found.append(Finding(about | {"control": None} | limits | scores | {"above_permuted": above}, resampled))
            if control is not None:
                about_control = about | {"control": "permuted targets"} | limits | control | {"above_permuted": None}
                found.append(Finding(about_control, None))
        return found


class _Pool:
    """The predictions of one target, fold by fold."""

    def __init__(self, probe: Probe, frame: pd.DataFrame, subset: Bool[np.ndarray, "N"]) -> None:
        self.probe = probe
        self.values, known = probe.targets(frame)
        self.known = known & subset
        self.predictable = True
        self.rows: list[Int[np.ndarray, "T"]] = []
        self.predictions: list[Shaped[np.ndarray, "T"]] = []
        self.permuted: list[Shaped[np.ndarray, "R T"]] = []


def _control(name: str, metric: Metric, truth: Values, permuted: Shaped[np.ndarray, "R N"]) -> dict[str, Any] | None:
    """Returns the median of the scores (of Kendall's tau without its sign), and their 1st and 99th percentile."""
    if not len(permuted):
        return None
    predictions = permuted + truth.mean()  # they are relative to the mean
    scores = np.array([whole(metric, truth, prediction) for prediction in predictions])
    low, high = np.quantile(scores, [0.01, 0.99])
    value = np.median(np.abs(scores) if name == "kendall_tau" else scores)
    return {"value": float(value), "low": float(low), "high": float(high)}


def _known(value: float) -> float | None:
    """Returns None for NaN, which JSON does not have."""
    return float(value) if np.isfinite(value) else None
