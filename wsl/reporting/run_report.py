"""The report of a run: one HTML page about its zoo, training, embedding, probes and generated models."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from wsl.probes.targets import own_targets
from wsl.reporting import sections
from wsl.reporting.benchmark_rows import Rows
from wsl.reporting.page import page, text
from wsl.reporting.style import score_of
from wsl.run import Run
from zoo_gen import InputError, Zoo


@dataclass(frozen=True)
class Results:
    """Rows of a run: events of metrics.jsonl, rows of probe.json and of generate.json; a missing file has none."""

    metrics: Rows
    probes: Rows
    samples: Rows

    @classmethod
    def of(cls, run: Run) -> "Results":
        """Reads the results of a run. Raises `InputError` if a file is damaged."""
        metrics = read_rows(run.path / "metrics.jsonl", again=f"delete {run.path} and train the run again")
        again = {run.path / f"{command}.json": command_for(run, command) for command in ("probe", "generate")}
        return cls(metrics, *(read_rows(path, again=line) if path.exists() else [] for path, line in again.items()))


def command_for(run: Run, command: str) -> str:
    """Returns the command line that makes a result of a run."""
    return f"python -m wsl.{command} run={run.path}"


def read_rows(path: Path, *, again: str) -> Rows:
    """Returns the objects of a `.json` list or of a `.jsonl` file.

    Raises:
        InputError: the file is damaged; the message says how to make it `again`.
    """
    try:
        content = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in content.splitlines()] if path.suffix == ".jsonl" else json.loads(content)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); make it again: {again}") from error


def report(run: Run, results: Results, *, checkpoints: int) -> str:
    """Returns the page of a run, the same one, byte for byte, every time.

    The page names the command that makes a missing result. The map of the embedding has about `checkpoints` points.
    """
    children = run.zoo.select(stage="finetune")
    classes = children[0].architecture.get("num_classes")
    own = own_targets(children.frame)
    kinds = [name for name, is_number in own.items() if not is_number]
    varied = [name for name in ("root", *children[0].factors, *kinds) if len(set(children.frame[name].dropna())) > 1]
    measured = [name for name in (*children[0].results, *own) if len(children.frame[name].dropna())]
    first = filter(None, [score_of(children.frame)])
    colourings = dict.fromkeys([*first, *varied, "split", "epoch", *measured])
    chance = 1 / classes if classes else None
    points, explained = project(run, children, limit=checkpoints)
    return page(
        run.path.resolve().name,
        over="Report of a run",
        lead=sections.introduction(run, results.metrics),
        sections=[
            sections.zoo_section(children.frame, varied, chance=chance),
            sections.training_section(results.metrics),
            sections.embedding_section(points, list(colourings), explained=explained, total=len(children)),
            sections.probe_section(results.probes)
            if results.probes
            else sections.missing_section("Probes", command_for(run, "probe")),
            sections.generation_section(results.samples, chance=chance)
            if results.samples
            else sections.missing_section("Generation", command_for(run, "generate")),
        ],
        footer=f"Made by <code>{text(command_for(run, 'report'))}</code>. One file that loads nothing.",
    )


def project(run: Run, children: Zoo, *, limit: int) -> tuple[pd.DataFrame, list[float]]:
    """Embeds checkpoints and projects them on two principal components of the train models.

    Final checkpoints are all in the map; other epochs are thinned evenly to about `limit` rows in total. Diverged models are not in
    it.

    Returns:
        Rows of the zoo's frame with `x`, `y` and `split`, and the explained variance ratio of each component.
    """
    frame = children.frame
    stride = -(-len(frame) // limit)
    before_end = frame.groupby("model")["epoch"].transform("max") - frame["epoch"]
    shown = children.select(path=frame["path"][before_end % stride == 0].tolist())
    split_of = {model: name for name, zoo in run.split._asdict().items() for model in zoo.frame["model"]}
    features = run.embed(shown)
    finite = np.isfinite(features.sum(axis=1))
    points = shown.frame.assign(split=[split_of.get(model, "none") for model in shown.frame["model"]])[finite]

    scaler, pca = StandardScaler(), PCA(n_components=2, svd_solver="full")
    pca.fit(scaler.fit_transform(features[finite][points["split"] == "train"]))
    x, y = pca.transform(scaler.transform(features[finite])).T
    return points.assign(x=x, y=y), pca.explained_variance_ratio_.tolist()
