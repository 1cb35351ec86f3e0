"""Property prediction by few labels: `python -m wsl.few_labels zoo=digits runs=<folder>`.

The benchmark of `wsl.property_prediction`, `by_model`, with 8, 32, 128 or all models labelled: the probes of a fold are fitted on
so many of its train and val models. The representation is trained on all train models, without labels; hand-made features get their
scales from all of them likewise. Scores are means over random selections of the labelled models, the same for all features. The
rows go to a JSON file, beside it a table (`.md`) and a figure (`.svg`).
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from wsl.features.features import Features
from wsl.probe import Settings, ask, cards, cross_validation_of, probed, tables_of
from wsl.probes.comparison import compare, marked
from wsl.probes.cross_validation import CrossValidation, Finding
from wsl.probes.label_subsets import average, select
from wsl.property_prediction import PropertyPredictionConfig, find_pretrained, find_runs, variants
from wsl.reporting.label_curves import write_curves
from wsl.run import Run
from zoo_gen import Zoo
from zoo_gen.blueprint import FOLDS
from zoo_gen.config import command
from zoo_gen.errors import InputError
from zoo_gen.zoo import zoo_folder

SCHEME = "by_model"


class CurveSettings(Settings, Protocol):
    """What a curve needs of a configuration."""

    targets: list[str]
    labelled: list[int]
    selections: int


@dataclass
class FewLabelsConfig(PropertyPredictionConfig):
    """The values of configs/few_labels.yaml."""

    labelled: list[int]
    selections: int


@command("few_labels", FewLabelsConfig)
def main(config: FewLabelsConfig) -> None:
    """Writes the rows, the table and the figure."""
    console = Console()
    zoo = Zoo.open(zoo_folder(config.zoo))
    runs = runs_by_model(Path(config.runs), zoo)
    pretrained = {} if config.pretrained is None else find_pretrained(Path(config.pretrained), zoo)
    rows = curves(probed(zoo), runs, cards("features", config.features), config, console, pretrained=pretrained)
    write_curves(rows, Path(config.out), title=f"Few labels on {zoo.name} seed={zoo.seed}", command="wsl.few_labels")
    console.print(f"wrote {config.out}", soft_wrap=True)


def runs_by_model(folder: Path, zoo: Zoo) -> dict[int, dict[int, Run]]:
    """Returns the runs of the split by model: seed -> fold -> run.

    Raises:
        InputError: there are none; or see `find_runs`.
    """
    found = find_runs(folder, zoo)
    if SCHEME not in found:
        raise InputError(f"{folder} has no run of split {SCHEME}; train some with runs/property_prediction.sh")
    return found[SCHEME]


def curves(
    children: Zoo,
    by_seed: Mapping[int, Mapping[int, Run]],
    extractors: Mapping[str, Features],
    config: CurveSettings,
    console: Console,
    *,
    pretrained: Mapping[int, Run] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Asks all features all questions, by few labelled models and by all of them.

    Args:
        children: the checkpoints that are asked about.
        by_seed: runs that are on the zoo of `children`, seed -> fold -> run.
        extractors: the kinds of features by name.
        config: targets, labels and probes.
        console: where progress is shown.
        pretrained: runs that answer for all folds, by seed; see `wsl.property_prediction.find_pretrained`.

    Returns:
        Rows as of `wsl.property_prediction`, of R2 alone, with `labelled` (None: all train models fit and all val models choose),
        `selections` and `spread`, the deviation between selections.

    Raises:
        InputError: a target is no number, there are fewer models than labels, or the features of a fold leak.
    """
    if config.selections < 1:
        raise InputError(f"selections must be at least 1, not {config.selections}")
    probes = numeric(cards("probe", config.targets))
    folds = list(max(by_seed.values(), key=len))
    survey = cross_validation_of(children, {fold: children.split(SCHEME, fold=fold) for fold in folds}, SCHEME, config)
    surveys: dict[int | None, list[CrossValidation]] = {
        labelled: [select(survey, labelled, selection=i) for i in range(config.selections)] for labelled in config.labelled
    }
    surveys[None] = [survey]
    found: dict[int | None, dict[tuple[str, int | None, str], list[Finding]]] = {labelled: {} for labelled in surveys}
    features = list(variants(extractors, by_seed, pretrained))
    with Progress(console=console, transient=True) as progress, threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = progress.add_task("probing", total=len(features) * sum(map(len, surveys.values())))
        for name, extractor, seed, by_fold in features:
            progress.update(bar, description=name if seed is None else f"{name}, seed {seed}")
            tables = tables_of(extractor, by_fold, SCHEME, children)

            def answers(some: CrossValidation, tables: Sequence[Any] = tables) -> dict[str, list[Finding]]:
                by_subset = defaultdict(list)
                for subset, finding in ask(some, probes, tables):
                    by_subset[subset].append(finding)
                progress.advance(bar)
                return by_subset

            for labelled, some in surveys.items():
                answered = list(pool.map(answers, some))
                for subset in answered[0]:
                    averaged = average([one[subset] for one in answered], seed=config.seed)
                    found[labelled][name, seed, subset] = [marked(one, extractor.reads, probes) for one in averaged]
    about = {"split": SCHEME, "fold": None, "folds": len(folds), "smoke_test": len(folds) < FOLDS}
    kinds = {name: extractor.kind for name, extractor, *_ in features}
    return [
        about | {"labelled": labelled, "selections": len(surveys[labelled])} | row
        for labelled, findings in found.items()
        for row in compare(findings, kinds)
    ]


def numeric(probes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns probes of numbers, to be scored by R2 alone: Kendall's tau of every selection would take hours.

    Raises:
        InputError: a probe asks for a label.
    """
    labels = [name for name, probe in probes.items() if "r2" not in probe.metrics]
    if labels:
        raise InputError(f"{', '.join(labels)}: labels have no R2; ask for numbers, such as targets=[test_accuracy,epoch]")
    for probe in probes.values():
        probe.metrics = {"r2": probe.metrics["r2"]}
    return dict(probes)


if __name__ == "__main__":
    main()
