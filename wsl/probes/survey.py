"""A survey: probes put to features under one split, with intervals, ceilings and controls."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from wsl.metrics import Metric, bootstrap_counts, score, whole
from wsl.probes.inputs import Inputs
from wsl.probes.probe import Answers, Probe
from zoo_gen.splits import Split
from zoo_gen.streams import stream


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The circumstances under which probes are asked; equal for every kind of features, so their scores are paired.

    Attributes:
        frame: checkpoints to be split, rows of `zoo.frame`.
        split: which rows are train, val and test.
        families: what is resampled first, one label per row: the root for `leave_root_out`, the same for all for
            `by_model`.
        images: number of test images that the results were measured on.
        penalties: that val chooses from.
        draws: bootstraps of the test models behind an interval.
        shuffles: shuffled targets behind a control.
        seed: of bootstraps and shuffles.
    """

    frame: pd.DataFrame
    split: Split[Bool[np.ndarray, "N"]]
    families: Shaped[np.ndarray, "N"]
    images: int
    penalties: Sequence[float]
    draws: int
    shuffles: int
    seed: int

    def ask(
        self, probes: Mapping[str, Probe], features: Float[np.ndarray, "N F"], *, subset: Bool[np.ndarray, "N"]
    ) -> list[dict[str, Any]]:
        """Puts questions to one kind of features.

        Args:
            probes: the questions by name.
            features: of every row of `frame`.
            subset: the rows that take part.

        Returns:
            For each probe and each of its metrics a row of the real score, `control: None`, and where the probe has one
            a row of its control, `control: "shuffled targets"`. Where there is nothing to predict, the scores are None.
        """
        models = pd.factorize(self.frame["model"])[0]
        prepared: dict[bytes, Inputs] = {}  # most questions are known for the same rows
        found = []
        for target, probe in probes.items():
            targets, known = probe.targets(self.frame)
            rows = Split(*(np.flatnonzero(part & subset & known) for part in self.split))
            train, val, test = (Answers(targets[part], models[part]) for part in rows)
            about = {"target": target, "trivial": probe.trivial}
            about |= {"n_models": len(np.unique(test.models)), "n_checkpoints": len(test.models)}
            if all(map(len, rows)) and probe.answerable(train.targets, test.targets):
                key = known.tobytes()
                if key not in prepared:
                    prepared[key] = Inputs.of(features[rows.train], features[rows.val], features[rows.test])
                found += [about | row for row in self._answer(probe, prepared[key], train, val, test, rows.test)]
            else:
                nothing = dict.fromkeys(("value", "low", "high", "chance", "ceiling", "above_shuffled"))
                found += [about | {"control": None, "metric": metric} | nothing for metric in probe.metrics]
        return found

    def _answer(
        self, probe: Probe, inputs: Inputs, train: Answers, val: Answers, test: Answers, rows: Int[np.ndarray, "T"]
    ) -> Iterator[dict[str, Any]]:
        """Yields the scores of one probe, and of its control."""
        _, first, groups = np.unique(test.models, return_index=True, return_inverse=True)
        families = np.unique(self.families[rows][first], return_inverse=True)[1]
        counts = bootstrap_counts(families, draws=self.draws, rng=stream(self.seed, "probe", "bootstrap"))
        prediction = probe.predict(inputs, train, val, penalties=self.penalties)
        rng = stream(self.seed, "probe", "shuffle")
        shuffled = probe.predict_shuffled(inputs, train, val, penalties=self.penalties, shuffles=self.shuffles, rng=rng)
        for name, metric in probe.metrics.items():
            rng = stream(self.seed, "probe", "ceiling")
            ceiling = probe.ceiling(name, self.frame.iloc[rows], images=self.images, rng=rng)
            limits = {"metric": name, "chance": probe.chance(name, test.targets), "ceiling": _known(ceiling)}
            real = score(metric, test.targets, prediction, groups, counts)
            scores = {"value": _known(real.value), "low": _known(real.low), "high": _known(real.high)}
            control = _control(name, metric, test.targets, shuffled)
            above = None if control is None else bool(real.value > control["high"])
            yield {"control": None} | limits | scores | {"above_shuffled": above}
            if control is not None:
                yield {"control": "shuffled targets"} | limits | control | {"above_shuffled": None}


def _control(
    name: str,
    metric: Metric,
    truth: Shaped[np.ndarray, "N"],
    shuffled: Shaped[np.ndarray, "R N"],
) -> dict[str, Any] | None:
    """Returns the median of the scores (of Kendall's tau without its sign), and their 1st and 99th percentile."""
    if not len(shuffled):
        return None
    scores = np.array([whole(metric, truth, prediction) for prediction in shuffled])
    low, high = np.quantile(scores, [0.01, 0.99])
    value = np.median(np.abs(scores) if name == "kendall_tau" else scores)
    return {"value": float(value), "low": float(low), "high": float(high)}


def _known(value: float) -> float | None:
    """Returns None for NaN, which JSON does not have."""
    return float(value) if np.isfinite(value) else None
