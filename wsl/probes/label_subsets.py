"""Few labels: a cross-validation by some of the labelled models, and its mean over selections of them.

Models are put in a random order per fold, the same for every kind of features, and the first are labelled: more labels are the
same models and others beside them. Every fourth of them chooses the penalty. All checkpoints of a labelled model have labels.

The scales of features need no labels, and are those of all train and val models. By scales of the six models that fit a probe of
eight labels, hand-made features would be far off (R2 of test accuracy, digits seed 1: -2e4 in place of .38).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from wsl.probes.cross_validation import CrossValidation, Finding
from wsl.probes.metrics import interval
from zoo_gen.errors import InputError
from zoo_gen.splits import Split
from zoo_gen.streams import stream

FEWEST = 8
"""Labelled models of which every fourth are two: one would have no standard error."""


def select(everything: CrossValidation, labelled: int, *, selection: int) -> CrossValidation:
    """Returns the cross-validation by so many of the train and val models of each fold.

    Args:
        everything: the folds with all their models.
        labelled: how many models have labels.
        selection: number of the random order.

    Raises:
        InputError: a fold has fewer models, or they are too few to choose a penalty by.
    """
    if labelled < FEWEST:
        raise InputError(f"{labelled} labelled models are too few: every fourth chooses the penalty; take {FEWEST} or more")
    names, splits = everything.frame["model"].to_numpy(dtype=str), []
    for number, split in enumerate(everything.splits):
        models = np.unique(names[split.train | split.val])
        if labelled > len(models):
            raise InputError(f"fold {number} has {len(models)} models to label, not {labelled}; take fewer: labelled=[8,32]")
        chosen = stream(everything.settings.seed, "few labels", number, selection).permutation(models)[:labelled]
        val = np.isin(names, chosen[3::4])
        splits.append(Split(np.isin(names, chosen) & ~val, val, split.test))
    return replace(everything, splits=splits, unlabelled=[split.train | split.val for split in everything.splits])


def average(selections: Sequence[Sequence[Finding]], *, seed: int) -> list[Finding]:
    """Returns the mean of each score over selections, with an interval over selections and test models.

    Each resample of the test models is the mean over as many selections, drawn with replacement; the same ones for all features, so
    that differences are paired. Of a control, the median and percentiles over permutations are averaged. `spread` is the standard
    deviation between selections. A target that cannot be predicted in each of them has no score.
    """
    found: dict[tuple[str, str, str | None], list[Finding]] = {}
    for finding in (finding for findings in selections for finding in findings):
        found.setdefault((finding.row["target"], finding.row["metric"], finding.row["control"]), []).append(finding)
    scored = {key: all(finding.row["value"] is not None for finding in alike) for key, alike in found.items()}
    means = {key: _mean(alike, seed=seed) for key, alike in found.items() if scored[*key[:2], None]}
    for (target, metric, control), mean in means.items():
        if control is None and (permuted := means.get((target, metric, "permuted targets"))):
            mean.row["above_permuted"] = bool(mean.row["value"] > permuted.row["high"])
    unscored = [Finding({**found[key][0].row, **_NOTHING}, None) for key in found if key[2] is None and not scored[key]]
    return [*means.values(), *unscored]


_NOTHING = dict.fromkeys(("value", "low", "high", "above_permuted", "spread"))


def _mean(findings: Sequence[Finding], *, seed: int) -> Finding:
    means = {key: float(np.mean([finding.row[key] for finding in findings])) for key in ("value", "low", "high")}
    row = {**findings[0].row, **means, "spread": float(np.std([finding.row["value"] for finding in findings]))}
    resampled = [finding.resampled for finding in findings if finding.resampled is not None]
    if not resampled:
        return Finding(row, None)
    scores = np.stack(resampled)
    drawn = stream(seed, "few labels", "resample").multinomial(len(scores), np.full(len(scores), 1 / len(scores)), scores.shape[1])
    mean = np.einsum("rs,sr->r", drawn / len(scores), scores)
    low, high = interval(mean)
    return Finding({**row, "low": low, "high": high}, mean)
