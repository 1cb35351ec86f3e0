"""The report of a run: one HTML page about its zoo, training, embedding, probes and generated models."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Group
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from wsl.analyses.stored import read_findings
from wsl.probes.targets import own_targets
from wsl.reporting import sections
from wsl.reporting.analysis_section import FOLDER, RESULT, analysis_sections
from wsl.reporting.benchmark_rows import Rows
from wsl.reporting.page import Section, page, text
from wsl.reporting.style import score_of
from wsl.reporting.terminal_tables import summary
from wsl.run import Run
from zoo_gen import InputError, Zoo
from zoo_gen.reader import shortened

METRICS, PROBES, SAMPLES = "metrics.jsonl", "probe.json", "generate.json"
"""The files of results in the folder of a run."""

WRONG = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What drawing rows of another form raises."""


@dataclass(frozen=True)
class Results:
    """Rows of a run: events of metrics.jsonl, rows of probe.json and of generate.json; a missing file has none."""

    run: Run
    metrics: Rows
    probes: Rows
    samples: Rows

    @classmethod
    def of(cls, run: Run) -> "Results":
        """Reads the results of a run. Raises `InputError` if a file is damaged."""
        files = {name: again for name, again in _again(run).items() if name == METRICS or (run.path / name).exists()}
        found = {name: read_rows(run.path / name, again=again) for name, again in files.items()}
        return cls(run, *(found.get(name, []) for name in _again(run)))

    def introduction(self) -> str:
        """Returns the origin of the run, and its main figures in large print. Raises `InputError` as `parts`."""
        with self._drawn(METRICS):
            return sections.introduction(self.run, self.metrics)

    def parts(self, *, chance: float | None) -> dict[str, Section]:
        """Returns the sections that results are drawn in, with the command for each that is missing.

        Raises `InputError` for rows that the run's commands do not write.
        """
        missing = {
            "probes": sections.missing_section("Probes", command_for(self.run, "probe")),
            "generation": sections.missing_section("Generation", command_for(self.run, "generate")),
        }
        with self._drawn(METRICS):
            training = sections.training_section(self.metrics, decodes=self.run.inputs.reads == "tokens")
        with self._drawn(PROBES):
            probes = sections.probe_section(self.probes) if self.probes else missing["probes"]
        with self._drawn(SAMPLES):
            samples = sections.generation_section(self.samples, chance=chance) if self.samples else missing["generation"]
        return {"training": training, "probes": probes, "generation": samples}

    def summary(self) -> Group:
        """Returns the summary for the terminal. Raises `InputError` as `parts`."""
        with self._drawn(METRICS, PROBES, SAMPLES):
            return summary(self.run, metrics=self.metrics, probes=self.probes, samples=self.samples)

    @contextmanager
    def _drawn(self, *names: str) -> Iterator[None]:
        """A context in which rows that cannot be drawn are an `InputError` that names their file; `--traceback` shows the row."""
        try:
            yield
        except WRONG as error:
            files = " or ".join(str(self.run.path / name) for name in names)
            again = " or ".join(_again(self.run)[name] for name in names)
            reason = f"{type(error).__name__}: {shortened(str(error))}"
            raise InputError(f"{files} holds rows that cannot be drawn ({reason}); make it again: {again}") from error


def _again(run: Run) -> dict[str, str]:
    """Returns how each file of results is made again."""
    train = f"delete {run.path} and train the run again"
    return {METRICS: train, PROBES: command_for(run, "probe"), SAMPLES: command_for(run, "generate")}


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
        found = [json.loads(line) for line in content.splitlines()] if path.suffix == ".jsonl" else json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); make it again: {again}") from error
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise InputError(f"{path} is damaged (no list of rows); make it again: {again}")
    return found


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
    parts = results.parts(chance=chance)
    points, explained = project(run, children, limit=checkpoints)
    return page(
        run.path.resolve().name,
        over="Report of a run",
        lead=results.introduction(),
        sections=[
            sections.zoo_section(children.frame, varied, chance=chance),
            parts["training"],
            sections.embedding_section(points, list(colourings), explained=explained, total=len(children)),
            parts["probes"],
            parts["generation"],
            *analyses_of(run.zoo),
        ],
        footer=f"Made by <code>{text(command_for(run, 'report'))}</code>. One file that loads nothing.",
    )


def analyses_of(zoo: Zoo) -> list[Section]:
    """Returns the sections of the analyses of a zoo that `wsl.analyze` has written there; none of an earlier content of the zoo.

    Raises `InputError` for findings that cannot be drawn.
    """
    place = zoo.path / FOLDER / RESULT
    if not place.is_file():
        return []
    found = read_findings(place)
    if found["subject"].get("content_hash") != zoo.content_hash:
        return []
    try:
        return analysis_sections(found)
    except WRONG as error:
        reason = f"{type(error).__name__}: {shortened(str(error))}"
        again = f"python -m wsl.analyze zoo={zoo.path}"
        raise InputError(f"{place} holds findings that cannot be drawn ({reason}); delete it and make it again: {again}") from error


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
