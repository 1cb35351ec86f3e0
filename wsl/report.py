"""`python -m wsl.report run=demo`: one self-contained HTML page about a run, written to its folder as `report.html`.

The page shows the zoo, the training, the embedding, the probes and the generated models; a part that is not there yet
is a line that says which command makes it. The same run gives the same page, byte for byte.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from wsl.reporting.page import Section, page, text
from wsl.reporting.sections import (
    embedding_section,
    generation_section,
    introduction,
    missing_section,
    probe_section,
    training_section,
    zoo_section,
)
from wsl.reporting.summary import summary_table
from wsl.run import Run
from zoo_gen import InputError, Zoo
from zoo_gen.config import command
from zoo_gen.files import write_atomically


@dataclass
class ReportConfig:
    """Values of configs/report.yaml."""

    run: str
    zoo: str | None
    checkpoints: int


@command("report", ReportConfig)
def main(config: ReportConfig) -> None:
    """Reads a run and writes its page."""
    console = Console()
    run = Run.open(config.run, zoo=config.zoo)
    with console.status("drawing the report"):
        html = report(run, checkpoints=config.checkpoints)
    target = run.path / "report.html"
    write_atomically(target, lambda beside: _write_text(beside, html))
    console.print(summary_table(run, **_results(run)))
    console.print(f"report: {target}", soft_wrap=True)


def report(run: Run, *, checkpoints: int) -> str:
    """The page of a run; `checkpoints` limits the points in the map of its embedding."""
    children = run.zoo.select(stage="finetune")
    frame, first = children.frame, children[0]
    chance = 1 / first.architecture["num_classes"]
    factors = [name for name in ("root", *first.factors) if len(set(frame[name].dropna())) > 1]
    results = [name for name in first.results if len(frame[name].dropna())]
    found = _results(run)
    points, explained = project(run, children, limit=checkpoints)
    colourings = list(dict.fromkeys(["test_accuracy", *factors, "split", "epoch", *results]))

    def optional(
        title: str, module: str, rows: list[dict[str, Any]], section: Callable[[list[dict[str, Any]]], Section]
    ) -> Section:
        return section(rows) if rows else missing_section(title, f"python -m wsl.{module} run={run.path}")

    return page(
        run.path.resolve().name,
        over="Report of a run",
        lead=introduction(run, found["metrics"]),
        sections=[
            zoo_section(frame, factors, chance=chance),
            training_section(found["metrics"]),
            embedding_section(points, colourings, explained=explained, total=len(children)),
            optional("Probes", "probe", found["probes"], probe_section),
            optional("Generation", "generate", found["samples"], lambda rows: generation_section(rows, chance=chance)),
        ],
        footer=f"Made by <code>python -m wsl.report run={text(run.path)}</code>. One file that loads nothing.",
    )


def _results(run: Run) -> dict[str, list[dict[str, Any]]]:
    """What the folder of a run holds: events of its training, rows of its probes and samples if there are any."""
    found = {"metrics": read_rows(run.path / "metrics.jsonl", again=f"delete {run.path} and train the run again")}
    for key, module in (("probes", "probe"), ("samples", "generate")):
        path, again = run.path / f"{module}.json", f"python -m wsl.{module} run={run.path}"
        found[key] = read_rows(path, again=again) if path.exists() else []
    return found


def project(run: Run, children: Zoo, *, limit: int) -> tuple[pd.DataFrame, list[float]]:
    """Embeds checkpoints and projects them on two principal components of the train models.

    Returns:
        Rows of the zoo's frame with `x`, `y` and `split`, and the share of variance that each component explains.
        Final checkpoints are all there; other epochs are thinned evenly to about `limit` rows in total. Models that
        diverged have no place.
    """
    frame = children.frame
    stride = -(-len(frame) // limit)
    before_end = frame.groupby("model")["epoch"].transform("max") - frame["epoch"]
    shown = children.select(path=frame["path"][before_end % stride == 0].tolist())
    part = {model: name for name, zoo in run.split._asdict().items() for model in zoo.frame["model"]}
    features = run.embed(shown)
    finite = np.isfinite(features.sum(axis=1))
    points = shown.frame.assign(split=[part[model] for model in shown.frame["model"]])[finite]

    scaler, pca = StandardScaler(), PCA(n_components=2, svd_solver="full")
    pca.fit(scaler.fit_transform(features[finite][points["split"] == "train"]))
    x, y = pca.transform(scaler.transform(features[finite])).T
    return points.assign(x=x, y=y), pca.explained_variance_ratio_.tolist()


def read_rows(path: Path, *, again: str) -> list[dict[str, Any]]:
    """Objects of a JSON list, or of a file with one per line.

    Raises `InputError` if the file is damaged; `again` says how to make it again.
    """
    try:
        content = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in content.splitlines()] if path.suffix == ".jsonl" else json.loads(content)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); make it again: {again}") from error


def _write_text(path: Path, content: str) -> None:
    path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
