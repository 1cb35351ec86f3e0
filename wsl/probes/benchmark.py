"""The benchmark of property prediction: every model of a zoo is tested exactly once per split.

In its fold, the representation and the probes are fitted on the other folds, one of which is val. Predictions are pooled over the
folds and scored once, with paired differences of each embedding to the best baseline and to the embeddings of other models. The
runs of a single fold are evaluated alone by `evaluate_runs`.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float
from rich.console import Console
from rich.progress import Progress

from wsl.features.features import Features
from wsl.probes.comparison import compare, difference, marked
from wsl.probes.evaluate import cross_validation_of, evaluate_subsets, subsets, tables_of
from wsl.probes.fold_runs import ByModel, Pretrained, all_folds, usable, variants
from wsl.probes.probe import Probe, probed_checkpoints
from wsl.probes.settings import BenchmarkConfig, Settings
from wsl.probes.targets import targets_of
from wsl.run import Run
from zoo_gen import InputError, Zoo
from zoo_gen.blueprint import FOLDS
from zoo_gen.config import cards


def benchmark(
    zoo: Zoo,
    runs: Mapping[str, ByModel],
    config: BenchmarkConfig,
    console: Console,
    *,
    pretrained: Pretrained = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Evaluates all features on all targets, under every split that `find_runs` has found runs of.

    Raises:
        InputError: a card is unknown, or a split or the features of a fold leak.
    """
    probes, extractors = targets_of(zoo, config.targets), usable(cards("features", config.features), zoo, console)
    children = probed_checkpoints(zoo)
    rows = []
    for scheme, by_model in runs.items():
        there_are = FOLDS if scheme == "by_model" else children.frame["root"].nunique()
        folds = all_folds(by_model)
        validation = cross_validation_of(children, {fold: children.split(scheme, fold=fold) for fold in folds}, scheme, config)
        about = {"split": scheme, "fold": None, "folds": len(folds), "smoke_test": len(folds) < there_are}
        found, kinds = {}, {}
        for name, extractor, seed, by_fold in variants(extractors, by_model, pretrained):
            kinds[name] = extractor.kind
            with console.status(f"{scheme}: {name}" + ("" if seed is None else f", seed {seed}")):
                tables = tables_of(extractor, by_fold, scheme, children)
                for subset, findings in evaluate_subsets(validation, probes, tables).items():
                    found[name, seed, subset] = marked(findings, extractor.reads, probes)
        rows += [about | row for row in compare(found, kinds)]
        for subset, chosen in subsets(validation.frame).items():
            about |= {"subset": subset, "features": "planted", "kind": "control", "seed": None}
            rows += [about | planted.row for planted in validation.planted(probes, subset=chosen)]
    return rows


def evaluate_runs(
    runs: Sequence[Run], probes: Mapping[str, Probe], extractors: Mapping[str, Features], settings: Settings, console: Console
) -> list[dict[str, Any]]:
    """Evaluates features on the fold of some runs: its train models fit the probes, its val models choose penalties.

    The runs are of one zoo, split and fold, each of another model. Features that are made by a model come once for each of them.

    Raises:
        InputError: the runs are of different folds, two are of one model, or the split leaks.
    """
    first = runs[0]
    scheme, fold = (first.config[key] for key in ("split", "fold"))
    for number, run in enumerate(runs):
        if (run.config["split"], run.config["fold"], run.zoo.content_hash) != (scheme, fold, first.zoo.content_hash):
            raise InputError(f"runs {first.path} and {run.path} are of different zoos, splits or folds; probe them one by one")
        if run.model_name in [other.model_name for other in runs[:number]]:
            raise InputError(
                f"two of the runs are of model={run.model_name}, and rows are named after the model; probe them one by one"
            )
    children = probed_checkpoints(first.zoo)
    folds = cross_validation_of(children, {fold: first.split}, scheme, settings)
    features = list(variants(extractors, {run.model_name: {0: {fold: run}} for run in runs}, {}))
    rows = []
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("probing", total=len(features))
        for name, extractor, _, by_fold in features:
            progress.update(bar, description=name)
            for subset, findings in evaluate_subsets(folds, probes, tables_of(extractor, by_fold, scheme, children)).items():
                about = {"split": scheme, "fold": fold, "subset": subset, "smoke_test": True}
                for row in (finding.row for finding in marked(findings, extractor.reads, probes)):
                    rows.append(about | {"features": f"{name}, {row['control']}" if row["control"] else name} | row)
            progress.advance(bar)
    return rows


def beside(
    own: Float[np.ndarray, "N F"],
    run: Run,
    settings: Settings,
    *,
    name: str,
    tables: Mapping[str, Float[np.ndarray, "N G"]] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Evaluates features of the probed checkpoints on the fold of a run, beside other features: tables by name, and cards.

    Returns a row for each target, subset and kind of features, with the paired difference of `own` to it; by the first metric of
    each probe. Targets that cannot be predicted have no row.

    Raises:
        InputError: a card or column is unknown, no target can be predicted, or the split leaks.
    """
    scheme, fold = (run.config[key] for key in ("split", "fold"))
    probes, children = targets_of(run.zoo, settings.targets), probed_checkpoints(run.zoo)
    folds = cross_validation_of(children, {fold: run.split}, scheme, settings)
    found = {label: evaluate_subsets(folds, probes, [table]) for label, table in {name: own, **tables}.items()}
    for label, extractor, _, by_fold in variants(cards("features", settings.features), {run.model_name: {0: {fold: run}}}, {}):
        found[label] = evaluate_subsets(folds, probes, tables_of(extractor, by_fold, scheme, children))
    rows = []
    for target, probe in probes.items():
        metric = next(iter(probe.metrics))
        for subset in found[name]:
            alike = {
                label: next(one for one in of[subset] if (one.row["target"], one.row["metric"]) == (target, metric))
                for label, of in found.items()
            }
            for label, finding in alike.items():
                if finding.resampled is None:
                    continue
                row = {"target": target, "checkpoints": subset, "features": label, "score": finding.row["value"]}
                row |= {key: finding.row[key] for key in ("low", "high")}
                compared = label != name and alike[name].resampled is not None
                told = difference(alike[name], finding) if compared else dict.fromkeys(("difference", "low", "high"), np.nan)
                rows.append(
                    row | {"difference": told["difference"], "difference_low": told["low"], "difference_high": told["high"]}
                )
    if not rows:
        raise InputError(f"{', '.join(probes)} cannot be predicted on this split: too few models, or all have one value")
    return rows
