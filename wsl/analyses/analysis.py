"""Analyses of a population: the protocol that `python -m wsl.analyze` runs, and findings, which are plain data.

An analysis is one module with one class, and one card in `configs/analysis`. Its findings hold numbers, tables and charts as data:
the report and the figures show analyses that they do not know.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from rich.progress import Progress

from wsl.data.logits import lack_to_run
from zoo_gen import InputError, Zoo
from zoo_gen.wording import counted

Cell = str | float | int | None
"""A cell of a table; a number is shown with two or three digits."""

KINDS = ("heatmap", "lines", "intervals")
"""Of charts: `Chart.data` says what each takes."""


@dataclass(frozen=True)
class Table:
    """A table: its caption, its head, and rows of texts and numbers, of which the first column holds names."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Chart:
    """A chart as data.

    Attributes:
        name: of its file, unique in an analysis.
        title: for people.
        kind: one of `KINDS`.
        x, y: titles of the axes.
        data: of a heatmap `values` (rows of numbers or None) and `groups` (of each row; neighbours of one are framed); of lines
            `series`: name -> [[x, y], ...] or [[x, y, low, high], ...]; of intervals `rows`: [[name, value, low, high], ...].
    """

    name: str
    title: str
    kind: str
    x: str
    y: str
    data: Mapping[str, Any]


@dataclass(frozen=True)
class Findings:
    """The findings of an analysis.

    Attributes:
        title: of its section in the report.
        lead: what its figures mean, in a few sentences.
        numbers: all that was measured, by name: JSON with numbers and lists.
        tables, charts: for people.
        notes: what was left out and why.
    """

    title: str
    lead: str
    numbers: Mapping[str, Any]
    tables: Sequence[Table] = ()
    charts: Sequence[Chart] = ()
    notes: Sequence[str] = field(default_factory=tuple)

    def as_json(self) -> dict[str, Any]:
        """Returns plain data: numbers that are not finite are None."""
        return {
            "title": self.title,
            "lead": self.lead,
            "notes": list(self.notes),
            "tables": [plain(vars(table)) for table in self.tables],
            "charts": [plain(vars(chart)) for chart in self.charts],
            "numbers": plain(self.numbers),
        }


@dataclass(frozen=True)
class Subject:
    """What is analysed: a zoo, or a folder of checkpoints without an index; one of the two is None."""

    zoo: Zoo | None
    folder: Path | None = None

    @property
    def population(self) -> Zoo:
        """The zoo. Raises `InputError` where there is a folder alone."""
        if self.zoo is None:
            raise InputError(f"{self.folder} is a folder without an index; python -m zoo_gen.adopt makes a zoo of it")
        return self.zoo

    @property
    def finals(self) -> Zoo:
        """The fine-tuned models at their final epochs, without those that diverged. Raises `InputError` for fewer than two."""
        finals = self.population.select(stage="finetune", final=True, status="ok")
        if len(finals) < 2:
            raise InputError(
                f"zoo {self.population.path} has {counted(len(finals), 'fine-tuned model')} that did not diverge; two are needed"
            )
        return finals

    def require_images(self) -> None:
        """Raises `InputError` where models cannot be run on the images of the zoo."""
        if lack := lack_to_run(self.population):
            raise InputError(f"models are run on images, and {lack}")


@runtime_checkable
class Analysis(Protocol):
    """An analysis: raises `InputError` for a subject that lacks what it needs, and shows steps of over 5 s in the progress."""

    def __call__(self, subject: Subject, progress: Progress) -> Findings:
        """Analyses a zoo or a folder."""
        ...


def run_analyses(
    analyses: Mapping[str, Analysis], subject: Subject, progress: Progress, *, note: Callable[[str], None]
) -> dict[str, Findings]:
    """Runs analyses one after the other.

    Args:
        analyses: by name.
        subject: what they analyse.
        progress: shows their steps.
        note: is called with a sentence on each that is left out, as the subject lacks something.

    Raises:
        InputError: of the only analysis, or of the last one where no other could be run.
    """
    found: dict[str, Findings] = {}
    errors: list[InputError] = []
    for name, analysis in analyses.items():
        try:
            found[name] = analysis(subject, progress)
        except InputError as error:
            errors.append(error)
            if len(analyses) > 1:
                note(f"{name} is left out: {error}")
    if errors and not found:
        raise errors[-1]
    return found


def plain(value: Any) -> Any:
    """Returns JSON data: arrays are lists, numbers have six significant digits, and those that are not finite are None."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, float | np.floating):
        return float(f"{float(value):.6g}") if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
