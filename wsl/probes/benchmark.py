"""The benchmark of property prediction: every model of a zoo is tested exactly once per split.

In its fold, the representation and the probes are fitted on the other folds, one of which is val. Predictions are pooled over the
folds and scored once, with paired differences of each embedding to the best baseline and to the embeddings of other models.
"""

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from rich.console import Console

from wsl.probes.comparison import compare, marked
from wsl.probes.cross_validation import Finding
from wsl.probes.evaluate import cross_validation_of, evaluate_subsets, subsets, tables_of
from wsl.probes.fold_runs import ByModel, Pretrained, all_folds, variants
from wsl.probes.probe import probed_checkpoints
from wsl.probes.settings import BenchmarkConfig
from zoo_gen import Zoo
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
    probes, extractors = cards("probe", config.targets), cards("features", config.features)
    children = probed_checkpoints(zoo)
    rows = []
    for scheme, by_model in runs.items():
        there_are = FOLDS if scheme == "by_model" else children.frame["root"].nunique()
        folds = all_folds(by_model)
        validation = cross_validation_of(children, {fold: children.split(scheme, fold=fold) for fold in folds}, scheme, config)
        about = {"split": scheme, "fold": None, "folds": len(folds), "smoke_test": len(folds) < there_are}
        found: dict[tuple[str, int | None, str], list[Finding]] = defaultdict(list)
        kinds = {}
        for name, extractor, seed, by_fold in variants(extractors, by_model, pretrained):
            kinds[name] = extractor.kind
            with console.status(f"{scheme}: {name}" + ("" if seed is None else f", seed {seed}")):
                tables = tables_of(extractor, by_fold, scheme, children)
                for subset, finding in evaluate_subsets(validation, probes, tables):
                    found[name, seed, subset].append(marked(finding, extractor.reads, probes))
        rows += [about | row for row in compare(found, kinds)]
        for subset, chosen in subsets(validation.frame).items():
            about |= {"subset": subset, "features": "planted", "kind": "control", "seed": None}
            rows += [about | planted.row for planted in validation.planted(probes, subset=chosen)]
    return rows
