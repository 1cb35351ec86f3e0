"""Calibration of intervals and sets: hierarchical conformal prediction, in units that grow with the distance from the train models.

Checkpoints come in groups. For new models of known roots a group is a val model. For models of new roots a group is a root that was
left out; the probes that predict it are fitted without it. With K groups of N_k nonconformity scores, each score weighs
1 / (N_k (K + 1)), and one more group has an infinite score (Lee, Barber and Willett, 2306.06342). So K groups promise at most
K / (K + 1): 3 roots 75 %, 9 roots 90 %.

Scores of numbers are absolute errors over the error that is usual at a distance, a + b * distance (normalised conformal prediction,
Lei et al., 1604.04173; a, b >= 0 are fitted on val models). Scores of labels are 1 less the probability of the true label.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.optimize
import scipy.special
from jaxtyping import Bool, Float, Int, Shaped

from wsl.probes.inputs import Inputs
from wsl.probes.probe import Linear, Probe, Targets

_ROUNDING = 1e-9  # of sums of weights
_SMALLEST = 1e-12  # usual error


@dataclass(frozen=True)
class Part:
    """Checkpoints of a split: embeddings, rows of the zoo's frame, and distances from the train models over the limit."""

    features: Float[np.ndarray, "N F"]
    frame: pd.DataFrame
    distances: Float[np.ndarray, "N"]

    def where(self, chosen: Bool[np.ndarray, "N"]) -> "Part":
        """Returns some of the checkpoints."""
        return Part(self.features[chosen], self.frame[chosen], self.distances[chosen])

    def models(self) -> Int[np.ndarray, "N"]:
        """Returns the number of the model of each checkpoint."""
        return pd.factorize(self.frame["model"])[0]

    def roots(self) -> Shaped[np.ndarray, "N"]:
        """Returns the root of each checkpoint."""
        return self.frame["root"].to_numpy(dtype=object)


def fitted(probe: Probe, train: Part, val: Part, *, penalties: Sequence[float], memory: dict[Any, Inputs]) -> Linear | None:
    """Returns a probe of embeddings as they are; None where the target cannot be predicted.

    `memory` keeps decompositions of these two parts for targets that are known of the same checkpoints.
    """
    (truth, known), (val_truth, val_known) = probe.targets(train.frame), probe.targets(val.frame)
    if not known.any() or not val_known.any() or not probe.predictable(truth[known], val_truth[val_known]):
        return None
    key = (known.tobytes(), val_known.tobytes())
    if key not in memory:
        memory[key] = Inputs.of(train.features[known], val.features[val_known], val.features[:0])
    inputs = memory[key]
    targets = Targets(truth[known], train.models()[known]), Targets(val_truth[val_known], val.models()[val_known])
    turned = probe.fit(inputs, *targets, penalties=penalties)
    coefficients = (inputs.basis @ turned.coefficients) / inputs.standardize.scale[:, None]
    return Linear(coefficients, turned.intercepts - inputs.standardize.mean @ coefficients, turned.classes)


def roots_left_out(
    probes: Mapping[str, Probe],
    train: Part,
    val: Part,
    *,
    penalties: Sequence[float],
    advance: Callable[[], None] = lambda: None,
) -> Iterator[tuple[str, Float[np.ndarray, "N"], Part]]:
    """Yields a target, nonconformity scores by its probe fitted without a root, and whose they are: the root's val checkpoints,
    on which no encoder was trained, else those of train.

    A label that no other root has scores 1. `advance` is called after each root.
    """
    of_train, of_val = train.roots(), val.roots()
    for root in pd.unique(pd.Series([*of_train, *of_val], dtype=object).dropna()):
        own, own_val = of_train == root, of_val == root
        evaluated = val.where(own_val) if own_val.any() else train.where(own)
        rest, judges = train.where(~own), val if own_val.all() else val.where(~own_val)
        memory: dict[Any, Inputs] = {}
        for target, probe in probes.items() if len(rest.frame) else ():
            if _are_new_labels(probe, rest, evaluated):
                yield target, np.ones(len(evaluated.frame)), evaluated
            elif (linear := fitted(probe, rest, judges, penalties=penalties, memory=memory)) is not None:
                yield target, nonconformity(probe, linear, evaluated), evaluated
        advance()


def _are_new_labels(probe: Probe, rest: Part, evaluated: Part) -> bool:
    """Tells whether a target is a label, and none of the evaluated ones is in the rest."""
    (seen, of_rest), (truth, known) = probe.targets(rest.frame), probe.targets(evaluated.frame)
    return truth.dtype.kind == "U" and bool(known.any()) and not np.isin(truth[known], seen[of_rest]).any()


def nonconformity(probe: Probe, linear: Linear, part: Part) -> Float[np.ndarray, "N"]:
    """Returns absolute errors of numbers; of labels, 1 less the probability of the true one. NaN where the truth is not known."""
    truth, known = probe.targets(part.frame)
    if linear.classes:
        of_label = probabilities(linear(part.features), len(linear.classes))
        true = (np.array(linear.classes) == truth[:, None]) & known[:, None]
        return np.where(known, 1 - (of_label * true).sum(axis=1), np.nan)
    return np.where(known, np.abs(linear(part.features)[:, 0] - np.where(known, truth, 0)), np.nan)


def probabilities(scores: Float[np.ndarray, "N K"], classes: int) -> Float[np.ndarray, "N classes"]:
    """Returns the probabilities of labels from the scores of a `Linear`."""
    if classes == 2:
        scores = np.column_stack([np.zeros(len(scores)), scores])
    return scipy.special.softmax(scores, axis=1)


def usual_error(
    errors: Float[np.ndarray, "N"], distances: Float[np.ndarray, "N"], weights: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "2"]:
    """Returns a and b of the line a + b * distance that is nearest to the errors, neither below 0; 1 and 0 of no error at all."""
    root = np.sqrt(weights)
    line = scipy.optimize.nnls(np.column_stack([root, root * distances]), root * errors)[0]
    return line if line.max() > 0 else np.array([1.0, 0.0])


def at(line: Float[np.ndarray, "2"], distances: Float[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """Returns the usual error at some distances, above 0."""
    return np.maximum(line[0] + line[1] * distances, _SMALLEST)


def weights_of(groups: Shaped[np.ndarray, "N"]) -> Float[np.ndarray, "N"]:
    """Returns weights of scores, in sum the same for each group and for one that is new."""
    _, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / (counts[codes] * (len(counts) + 1))


def quantile(scores: Float[np.ndarray, "N"], weights: Float[np.ndarray, "N"], coverage: float) -> float:
    """Returns the smallest score that covers this share; infinite where these groups cannot promise it."""
    order = np.argsort(scores)
    reached = np.cumsum(weights[order]) >= coverage - _ROUNDING
    return float(scores[order][reached.argmax()]) if reached.any() else np.inf
