"""Property prediction with few labelled models: the probes of a fold are fitted on so many of its train and val models.

The representation is trained on all train models, without labels; hand-made features get their scales from all of them likewise.
Scores are means over random selections of the labelled models, the same for all features.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from wsl.features.features import Features
from wsl.probes.comparison import compare, marked
from wsl.probes.cross_validation import CrossValidation, Finding
from wsl.probes.evaluate import cross_validation_of, evaluate_subsets, tables_of
from wsl.probes.fold_runs import SCHEME, ByModel, Pretrained, all_folds, find_runs, variants
from wsl.probes.label_subsets import average, select
from wsl.probes.settings import LabelEfficiencyConfig
from zoo_gen import InputError, Zoo
from zoo_gen.blueprint import FOLDS
from zoo_gen.config import cards


def runs_by_model(folders: Sequence[str], zoo: Zoo) -> ByModel:
    """Returns the runs of the split by model.

    Raises:
        InputError: there are none; or see `find_runs`.
    """
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
    """Evaluates all features on all targets, with few labelled models and with all of them.

    Args:
        children: the checkpoints of the zoo that probes are about.
        by_model: runs that are on the zoo of `children`.
        extractors: the kinds of features by name.
        config: targets, labels and probes.
        console: where progress is shown.
        pretrained: runs that serve all folds; see `wsl.probes.fold_runs.find_pretrained`.

    Returns:
        Rows as of `wsl.probes.benchmark`, of R2 alone, with `labelled` (None: all train models fit and all val models choose),
        `selections` and `spread`, the deviation between selections.

    Raises:
        InputError: a target is no number, there are fewer models than labels, or the features of a fold leak.
    """
    if config.selections < 1:
        raise InputError(f"selections must be at least 1, not {config.selections}")
    probes = numeric(cards("probe", config.targets))
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
                by_subset = defaultdict(list)
                for subset, finding in evaluate_subsets(some, probes, tables):
                    by_subset[subset].append(finding)
                progress.advance(bar)
                return by_subset

            for labelled, some in validations.items():
                evaluations = list(pool.map(evaluated, some))
                for subset in evaluations[0]:
                    averaged = average([one[subset] for one in evaluations], seed=config.seed)
                    found[labelled][name, seed, subset] = [marked(one, extractor.reads, probes) for one in averaged]
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
