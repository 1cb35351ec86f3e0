"""A survey: probes put to features under one split, with intervals, ceilings and controls."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from wsl.metrics import Metric, bootstrap_counts, score
from wsl.probes.probe import Probe, Sample
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
        self, probe: Probe, features: Float[np.ndarray, "N F"], *, subset: Bool[np.ndarray, "N"]
    ) -> list[dict[str, Any]]:
        """Puts one question to one kind of features.

        Args:
            probe: the question.
            features: of every row of `frame`.
            subset: the rows that take part.

        Returns:
            For each metric of the probe a row of the real score, `control: None`, and where the probe has one a row of
            its control, `control: "shuffled targets"`. Where there is nothing to predict, the scores are None.
        """
        targets, known = probe.targets(self.frame)
        models = pd.factorize(self.frame["model"])[0]
        rows = Split(*(np.flatnonzero(part & subset & known) for part in self.split))
        train, val, test = (Sample(features[part], targets[part], models[part]) for part in rows)
        shape = {"n_models": len(np.unique(test.models)), "n_checkpoints": len(test.models), "trivial": probe.trivial}
        if not all(map(len, rows)) or not probe.answerable(train.targets, test.targets):
            nothing = dict.fromkeys(("value", "low", "high", "chance", "ceiling", "above_shuffled"))
            return [{"control": None, "metric": metric} | nothing | shape for metric in probe.metrics]

        _, first, groups = np.unique(test.models, return_index=True, return_inverse=True)
        families = np.unique(self.families[rows.test][first], return_inverse=True)[1]
        counts = bootstrap_counts(families, draws=self.draws, rng=stream(self.seed, "probe", "bootstrap"))
        prediction = probe.predict(train, val, test.features, penalties=self.penalties)
        shuffled = probe.predict_shuffled(
            train,
            val,
            test.features,
            penalties=self.penalties,
            shuffles=self.shuffles,
            rng=stream(self.seed, "probe", "shuffle"),
        )
        found = []
        for name, metric in probe.metrics.items():
            real = score(metric, test.targets, prediction, groups, counts)
            about = self.frame.iloc[rows.test]
            ceiling = probe.ceiling(name, about, images=self.images, rng=stream(self.seed, "probe", "ceiling"))
            limits = {"chance": probe.chance(name, test.targets), "ceiling": _known(ceiling)}
            control = _control(name, metric, test.targets, shuffled, groups)
            above = None if control is None else bool(real.value > control["high"])
            scores = {
                "value": _known(real.value),
                "low": _known(real.low),
                "high": _known(real.high),
                "above_shuffled": above,
            }
            found.append({"control": None, "metric": name} | scores | limits | shape)
            if control is not None:
                found.append(
                    {"control": "shuffled targets", "metric": name}
                    | control
                    | {"above_shuffled": None}
                    | limits
                    | shape
                )
        return found


def _control(
    name: str,
    metric: Metric,
    truth: Shaped[np.ndarray, "N"],
    shuffled: Shaped[np.ndarray, "R N"],
    groups: Int[np.ndarray, "N"],
) -> dict[str, Any] | None:
    """Returns the median of the scores (of Kendall's tau without its sign), and their 1st and 99th percentile."""
    if not len(shuffled):
        return None
    once = np.ones((1, groups.max() + 1), dtype=np.int64)
    scores = np.concatenate([metric(truth, prediction, groups, once) for prediction in shuffled])
    low, high = np.quantile(scores, [0.01, 0.99])
    value = np.median(np.abs(scores) if name == "kendall_tau" else scores)
    return {"value": float(value), "low": float(low), "high": float(high)}


def _known(value: float) -> float | None:
    """Returns None for NaN, which JSON does not have."""
    return float(value) if np.isfinite(value) else None
