"""Analyses of a zoo in the report and on the terminal: any of them, as their findings are plain data (`wsl.analyses.analysis`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from wsl.reporting.analysis_charts import interactive, slug, static
from wsl.reporting.numbers import compact, number
from wsl.reporting.page import Section, figure_row, paragraph, table, text
from zoo_gen.files import write_bytes, write_text

RESULT = "analysis.json"
"""The file of findings in the folder of analyses of a zoo."""

FOLDER = "analysis"
"""The folder of analyses in a zoo."""

Found = Mapping[str, Any]


def analysis_sections(stored: Mapping[str, Found]) -> list[Section]:
    """Returns a section for each analysis of `analysis.json`."""
    return [_section(name, found) for name, found in stored["analyses"].items()]


def _section(name: str, found: Found) -> Section:
    notes = [paragraph(text(note) + ".", "caution") for note in found["notes"]]
    charts = [interactive(chart, of=name) for chart in found["charts"]]
    drawn = [figure_row(*charts[start : start + 2], width="half") for start in range(0, len(charts), 2)]
    tables = [
        table(
            one["caption"], [text(cell) for cell in one["head"]], [[text(_cell(c)) for c in row] for row in one["rows"]], _none(one)
        )
        for one in found["tables"]
    ]
    return Section(f"analysis-{slug(name)}", str(found["title"]), [paragraph(text(found["lead"])), *notes, *drawn, *tables])


def terminal_tables(found: Found) -> Group:
    """Returns the tables of an analysis for the terminal, with its notes."""
    parts: list[Any] = [f"[bold]{escape(str(found['title']))}[/]", *(escape(f"{note}.") for note in found["notes"])]
    for one in found["tables"]:
        view = Table(title=escape(one["caption"]), box=SIMPLE, title_justify="left", padding=(0, 1, 0, 0))
        for place, name in enumerate(one["head"]):
            view.add_column(escape(name), justify="right" if place else "left")
        for row in one["rows"]:
            view.add_row(*(escape(_cell(cell)) for cell in row))
        parts.append(view)
    return Group(*parts)


def write_charts(name: str, found: Found, folder: Path) -> list[Path]:
    """Writes the charts of an analysis as `<analysis>_<chart>.svg` and `.png`."""
    written = []
    for chart in found["charts"]:
        place = folder / f"{name}_{slug(chart['name'])}.svg"
        svg, png = static(chart)
        write_text(place, svg)
        write_bytes(place.with_suffix(".png"), png)
        written.append(place)
    return written


def markdown(stored: Mapping[str, Found]) -> str:
    """Returns the tables of all analyses in Markdown."""
    lines: list[str] = []
    for found in stored["analyses"].values():
        lines += [f"## {found['title']}", "", found["lead"], ""]
        lines += [line for note in found["notes"] for line in (f"{note}.", "")]
        for one in found["tables"]:
            lines += [f"### {one['caption']}", "", _row(one["head"]), _row(["---", *["---:"] * (len(one["head"]) - 1)])]
            lines += [*(_row([_cell(cell) for cell in row]) for row in one["rows"]), ""]
    return "\n".join(lines)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _none(one: Found) -> list[bool]:
    return [False] * len(one["rows"])


def _cell(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    return number(cell, 3) if cell is None or abs(cell) < 10 else compact(cell)
