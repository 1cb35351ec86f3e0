"""Analyses of a population: `python -m wsl.analyze zoo=digits`, all of them or some by name.

    python -m wsl.analyze zoo=digits
    python -m wsl.analyze zoo=digits analysis=diversity
    python -m wsl.analyze zoo=digits analysis=diversity,soups out=my_analysis

An analysis is a card of `configs/analysis`. Findings go to `analysis.json`, beside those of analyses that ran before on the same
zoo, with figures as SVG and PNG and the tables as Markdown. `wsl.report` shows them where they lie in the zoo. Of all analyses,
those are left out that the zoo lacks something for, with a note.
"""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from wsl.analyses.analysis import Subject, run_analyses
from wsl.analyses.stored import subject_of, with_findings
from wsl.reporting.analysis_section import FOLDER, RESULT, markdown, terminal_tables, write_charts
from zoo_gen import InputError, Zoo
from zoo_gen.config import cards, command
from zoo_gen.files import write_json, write_text
from zoo_gen.zoo import zoo_folder


@dataclass
class AnalyzeConfig:
    """The values of configs/analyze.yaml."""

    zoo: str | None
    path: str | None
    analysis: str
    out: str | None


@command("analyze", AnalyzeConfig)
def main(config: AnalyzeConfig) -> None:
    """Runs the analyses, and writes and prints their findings."""
    if (config.zoo is None) == (config.path is None):
        raise InputError("name what is analysed: either zoo=<name or path>, or path=<folder of checkpoints>")
    analyses = cards("analysis", [name.strip() for name in config.analysis.strip("[]").split(",")])
    if config.zoo is not None:
        subject = Subject(Zoo.open(zoo_folder(config.zoo)))
        out = Path(config.out) if config.out else subject.population.path / FOLDER
    else:
        folder = Path(str(config.path))
        subject = Subject(None, folder)
        if not folder.is_dir():
            raise InputError(f"there is no folder {config.path}; path= is a folder of checkpoints")
        out = Path(config.out) if config.out else Path(FOLDER)
    console, notes = Console(), []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        found = run_analyses(analyses, subject, progress, note=notes.append)
    stored = with_findings(out / RESULT, subject_of(subject), {name: one.as_json() for name, one in found.items()})
    write_json(out / RESULT, stored)
    for name in found:
        write_charts(name, stored["analyses"][name], out)
        console.print(terminal_tables(stored["analyses"][name]))
    write_text(out / "analysis.md", markdown(stored))
    for note in notes:
        console.print(note, soft_wrap=True, markup=False)
    console.print(f"wrote {out / RESULT}, with figures beside it", soft_wrap=True, markup=False)


if __name__ == "__main__":
    main()
