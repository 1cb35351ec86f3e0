"""Reads properties of models off their weights: `python -m wsl.probe run=demo`.

Every question of `configs/probe` is put to some kinds of features of `configs/features`, on all checkpoints and on
final ones alone. The split is that of the run: its train models fit the probes, its val models choose the penalties,
its test models are asked. The rows go to `probe.json` in the run's folder, and as a table to the terminal. This is one fold:
`wsl.property_prediction` pools all of them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any, Protocol

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from wsl.data.leakage import refuse_leaks
from wsl.features.features import Features
from wsl.probes.cross_validation import CrossValidation, Finding
from wsl.probes.noise_ceiling import TestImages, sample_rows
from wsl.probes.probe import Probe
from wsl.reporting.probe_table import probe_table
from wsl.run import Run
from zoo_gen import Zoo
from zoo_gen.config import CONFIGS, command, instantiate
from zoo_gen.errors import InputError
from zoo_gen.files import write_json
from zoo_gen.splits import Split


class Settings(Protocol):
    """What a survey needs of a configuration."""

    penalties: list[float]
    n_bootstrap: int
    n_permutations: int
    noise_ceiling_checkpoints: int
    seed: int


@dataclass
class ProbeConfig:
    """The values of configs/probe.yaml."""

    run: str
    zoo: str | None
    targets: list[str]
    features: list[str]
    penalties: list[float]
    n_bootstrap: int
    n_permutations: int
    noise_ceiling_checkpoints: int
    seed: int


@command("probe", ProbeConfig)
def main(config: ProbeConfig) -> None:
    """Probes a run, writes probe.json and prints the table."""
    run = Run.open(config.run, zoo=config.zoo)
    rows = probe(run, config)
    write_json(run.path / "probe.json", rows)
    console = Console()
    console.print(probe_table(rows))
    console.print(f"wrote {run.path / 'probe.json'}", soft_wrap=True)


def probe(run: Run, config: ProbeConfig) -> list[dict[str, Any]]:
    """Puts every question to every kind of features.

    Raises:
        InputError: a card is unknown, or the run's split leaks.
    """
    probes, extractors = cards("probe", config.targets), cards("features", config.features)
    scheme, fold = run.config["split"], run.config["fold"]
    children = probed(run.zoo)
    survey = cross_validation_of(children, {fold: run.split}, scheme, config)
    rows = []
    with Progress(transient=True) as progress:
        bar = progress.add_task("probing", total=len(extractors))
        for name, extractor in extractors.items():
            progress.update(bar, description=name)
            for subset, finding in ask(survey, probes, tables_of(extractor, {fold: run}, scheme, children)):
                about = {"split": scheme, "fold": fold, "subset": subset, "smoke_test": True}
                control = finding.row["control"]
                rows.append(about | {"features": f"{name}, {control}" if control else name} | finding.row)
            progress.advance(bar)
    return rows


def probed(zoo: Zoo) -> Zoo:
    """Returns the checkpoints that probes are about: those of fine-tuned models whose loss is finite."""
    children = zoo.select(stage="finetune")
    return children.select(path=children.frame["path"][children.frame["test_loss"].notna()].tolist())  # the others diverged


def cross_validation_of(children: Zoo, splits: Mapping[int, Split[Zoo]], scheme: str, config: Settings) -> CrossValidation:
    """Returns the circumstances of a cross-fit over some folds.

    Raises:
        InputError: a fold leaks, or a model is tested twice.
    """
    for train, val, test in splits.values():
        refuse_leaks(train=train, val=val, test=test, scheme=scheme, seen=())
    frame = children.frame
    return CrossValidation(
        frame=frame,
        splits=[rows_of(frame, split) for split in splits.values()],
        families=frame["root"].to_numpy(dtype=str) if scheme == "leave_root_out" else np.full(len(frame), "all"),
        measured=TestImages().measure(children, sample_rows(frame, config.noise_ceiling_checkpoints)),
        penalties=config.penalties,
        n_bootstrap=config.n_bootstrap,
        n_permutations=config.n_permutations,
        seed=config.seed,
    )


def rows_of(frame: pd.DataFrame, split: Split[Zoo]) -> Split[Bool[np.ndarray, "N"]]:
    """Returns which rows belong to the models of each part."""
    return Split(*(frame["model"].isin(part.frame["model"].tolist()).to_numpy() for part in split))


def tables_of(extractor: Features, runs: Mapping[int, Run], scheme: str, children: Zoo) -> list[Float[np.ndarray, "N F"]]:
    """Returns one kind of features of all checkpoints, once per fold: by the representation of that fold.

    Raises:
        InputError: the features of a fold were fitted on models that it tests.
    """
    for fold, run in runs.items():
        train, val, test = children.split(scheme, fold=fold)
        refuse_leaks(train=train, val=val, test=test, scheme=scheme, seen=extractor.seen(run))
    return [extractor.extract(run, children).to_numpy(dtype=np.float64) for run in runs.values()]


def ask(
    survey: CrossValidation, probes: Mapping[str, Probe], tables: Sequence[Float[np.ndarray, "N F"]]
) -> Iterator[tuple[str, Finding]]:
    """Puts all questions to one kind of features, on all checkpoints and on final ones; yields the subset with each answer.

    Args:
        survey: the folds.
        probes: the questions.
        tables: the features of all checkpoints of `survey.frame`, once per fold.
    """
    final = survey.frame["final"].to_numpy(dtype=bool)
    for subset, chosen in {"all": np.full(len(final), True), "final": final}.items():
        with threadpool_limits(1):  # these matrices are small: threads would wait for one another
            yield from ((subset, finding) for finding in survey.ask(probes, tables, subset=chosen))


def cards(group: str, wanted: Sequence[str]) -> dict[str, Any]:
    """Builds the cards of a group by name or pattern, in the order of their names.

    Raises:
        InputError: nothing is wanted, or a name or pattern fits no card; the message lists them.
    """
    files = {path.stem: path for path in sorted((CONFIGS / group).glob("*.yaml"))}
    if not wanted:
        raise InputError(f"no card of {CONFIGS / group} was asked for; name some, or '*' for all: {', '.join(files)}")
    for pattern in wanted:
        if not any(fnmatch(name, pattern) for name in files):
            raise InputError(f"no card '{pattern}' in {CONFIGS / group}; there is {', '.join(files)}")
    chosen = [name for name in files if any(fnmatch(name, pattern) for pattern in wanted)]
    return {name: instantiate(OmegaConf.to_container(OmegaConf.load(files[name]))) for name in chosen}


if __name__ == "__main__":
    main()
