"""Reads properties of models off their weights: `python -m wsl.probe run=demo`.

Every question of `configs/probe` is put to every kind of features of `configs/features`, on all checkpoints and on
final ones alone. The split is that of the run: its train models fit the probes, its val models choose the penalties,
its test models are asked. The rows go to `probe.json` in the run's folder, and as a table to the terminal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from rich.console import Console
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from wsl.probes.leaks import refuse_leaks
from wsl.probes.survey import Survey
from wsl.probes.table import probe_table
from wsl.run import Run
from zoo_gen.config import CONFIGS, command, instantiate
from zoo_gen.errors import InputError
from zoo_gen.files import write_json
from zoo_gen.splits import Split


@dataclass
class ProbeConfig:
    """The values of configs/probe.yaml."""

    run: str
    zoo: str | None
    targets: list[str]
    inputs: list[str]
    penalties: list[float]
    draws: int
    shuffles: int
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
    probes, extractors = cards("probe", config.targets), cards("features", config.inputs)
    scheme, fold = run.config["split"], run.config["fold"]
    train, val, test = run.split
    refuse_leaks(train=train, val=val, test=test, scheme=scheme, seen={*train.frame["model"], *val.frame["model"]})

    children = run.zoo.select(stage="finetune")
    children = children.select(path=children.frame["path"][children.frame["test_loss"].notna()].tolist())  # the others diverged
    frame = children.frame
    survey = Survey(
        frame=frame,
        split=Split(*(frame["model"].isin(part.frame["model"].tolist()).to_numpy() for part in run.split)),
        families=frame["root"].to_numpy(dtype=str) if scheme == "leave_root_out" else np.full(len(frame), "all"),
        images=len(run.zoo.images("finetune").test.labels),
        penalties=config.penalties,
        draws=config.draws,
        shuffles=config.shuffles,
        seed=config.seed,
    )
    subsets = {"all": np.full(len(frame), True), "final": frame["final"].to_numpy(dtype=bool)}
    rows = []
    with Progress(transient=True) as progress:
        bar = progress.add_task("probing", total=len(extractors) * len(subsets))
        for name, extractor in extractors.items():
            progress.update(bar, description=name)
            features = extractor.extract(run, children).to_numpy(dtype=np.float64)
            for subset, chosen in subsets.items():
                about = {"split": scheme, "fold": fold, "subset": subset, "smoke_test": True}
                with threadpool_limits(1):  # these matrices are small: threads would wait for one another
                    scores = survey.ask(probes, features, subset=chosen)
                labels = (f"{name}, {row['control']}" if row["control"] else name for row in scores)
                rows += [about | {"features": label} | row for label, row in zip(labels, scores, strict=True)]
                progress.advance(bar)
    return rows


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
