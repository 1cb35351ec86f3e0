"""Property prediction with few labelled models: the probes of a fold are fitted on so many of its train and val models.

The representation is trained on all train models, without labels. Scores are means over random selections of the labelled models.
Models are put in a random order per fold, the same for every kind of features, and the first are labelled: more labels are the
same models and others beside them. Every fourth of them chooses the penalty. All checkpoints of a labelled model have labels.

The scales of features need no labels, and are those of all train and val models. By scales of the six models that fit a probe of
eight labels, hand-made features would be far off (R2 of test accuracy, digits seed 1: -2e4 in place of .38).
"""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from wsl.features.features import Features
from wsl.probes.comparison import compare, marked
from wsl.probes.cross_validation import CrossValidation, Finding
from wsl.probes.evaluate import cross_validation_of, evaluate_subsets, tables_of
from wsl.probes.fold_runs import SCHEME, ByModel, Pretrained, all_folds, find_runs, variants
from wsl.probes.metrics import interval
from wsl.probes.settings import LabelEfficiencyConfig
from wsl.probes.targets import targets_of
from zoo_gen import InputError, Zoo
from zoo_gen.blueprint import FOLDS
from zoo_gen.splits import Split
from zoo_gen.streams import stream
from zoo_gen.wording import counted

FEWEST = 8
"""Labelled models of which every fourth are two: one would have no standard error."""

_NOTHING = dict.fromkeys(("value", "low", "high", "above_permuted", "spread"))


def runs_by_model(folders: Sequence[str], zoo: Zoo) -> ByModel:
    """Returns the runs of the split by model. Raises `InputError` if there are none, and as `find_runs` does."""
    found = find_runs([Path(folder) for folder in folders], zoo)
    if SCHEME not in found:
        raise InputError(f"{', '.join(folders)}: no run of split {SCHEME}; train some with runs/property_prediction.sh")
    return found[SCHEME]


def curves(
    children: Zoo,
    by_model: ByModel,
    extractors: Mapping[str, Features],
    config: LabelEfficiencyConfig,
    console: Console,
    *,
    pretrained: Pretrained = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Evaluates all features of `children`, whose zoo the runs are on, with few labelled models and with all of them.

    Returns:
        Rows as of `wsl.probes.benchmark`, of R2 alone, with `labelled` (None: all train models fit and all val models choose),
        `selections` and `spread`, the deviation between selections.

    Raises:
        InputError: a target is no number, there are fewer models than labels, or the features of a fold leak.
    """
    if config.selections < 1:
        raise InputError(f"selections must be at least 1, not {config.selections}")
    probes = numeric(targets_of(children, config.targets))
    folds = all_folds(by_model)
    everything = cross_validation_of(children, {fold: children.split(SCHEME, fold=fold) for fold in folds}, SCHEME, config)
    validations: dict[int | None, list[CrossValidation]] = {
        labelled: [select(everything, labelled, selection=i) for i in range(config.selections)] for labelled in config.labelled
    }
    validations[None] = [everything]
    found: dict[int | None, dict[tuple[str, int | None, str], list[Finding]]] = {labelled: {} for labelled in validations}
    features = list(variants(extractors, by_model, pretrained))
    with Progress(console=console, transient=True) as progress, threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = progress.add_task("probing", total=len(features) * sum(map(len, validations.values())))
        for name, extractor, seed, by_fold in features:
            progress.update(bar, description=name if seed is None else f"{name}, seed {seed}")
            tables = tables_of(extractor, by_fold, SCHEME, children)

            def evaluated(some: CrossValidation, tables: Sequence[Any] = tables) -> dict[str, list[Finding]]:
                findings = evaluate_subsets(some, probes, tables)
                progress.advance(bar)
                return findings

            for labelled, some in validations.items():
                evaluations = list(pool.map(evaluated, some))
                for subset in evaluations[0]:
                    averaged = average([one[subset] for one in evaluations], seed=config.seed)
                    found[labelled][name, seed, subset] = marked(averaged, extractor.reads, probes)
    about = {"split": SCHEME, "fold": None, "folds": len(folds), "smoke_test": len(folds) < FOLDS}
    kinds = {name: extractor.kind for name, extractor, *_ in features}
    return [
        about | {"labelled": labelled, "selections": len(validations[labelled])} | row
        for labelled, findings in found.items()
        for row in compare(findings, kinds)
    ]


def numeric(probes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns probes of numbers, to be scored by R2 alone: Kendall's tau of every selection would take hours.

    Raises:
        InputError: a target is a label.
    """
    labels = [name for name, probe in probes.items() if "r2" not in probe.metrics]
    if labels:
        raise InputError(f"{', '.join(labels)}: labels have no R2; name numbers, such as targets=[test_accuracy,epoch]")
    for probe in probes.values():
        probe.metrics = {"r2": probe.metrics["r2"]}
    return dict(probes)


def select(everything: CrossValidation, labelled: int, *, selection: int) -> CrossValidation:
    """Returns the cross-validation by so many of the train and val models of each fold, the first in a numbered random order.

    Raises:
        InputError: a fold has fewer models, or they are too few to choose a penalty by.
    """
    if labelled < FEWEST:
        raise InputError(f"{labelled} labelled models are too few: every fourth chooses the penalty; take {FEWEST} or more")
    names, splits = everything.frame["model"].to_numpy(dtype=str), []
    for number, split in enumerate(everything.splits):
        models = np.unique(names[split.train | split.val])
        if labelled > len(models):
            raise InputError(
                f"fold {number} has {counted(len(models), 'model')} to label, not {labelled}; take fewer: labelled=[8,32]"
            )
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
