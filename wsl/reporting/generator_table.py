"""The table of generated models for the terminal, in 80 columns: a line for each setting of each generator."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from wsl.generators.novelty import COLLAPSED, COPIED, THRESHOLD
from wsl.reporting.numbers import number

NAME_WIDTH = 25
"""Columns for names and settings; longer settings go on in the next line."""

CAPTION = f"""\
Test accuracy without training: median over all samples, quartiles.
Novelty: distance of a sample to the nearest train model. Diversity: to the
nearest other sample. Both in units of the distance between neighbouring train
models, the smaller of weights (modulo symmetry) and behaviour (predictions).
{COPIED}: novelty below {number(THRESHOLD)}. {COLLAPSED}: diversity below {number(THRESHOLD)}."""


def generator_table(rows: Sequence[Mapping[str, Any]]) -> Group:
    """Returns the rows of `generate.json` as a table of at most 80 columns."""
    table = Table(
        box=SIMPLE,
        padding=0,
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("generator", width=NAME_WIDTH, overflow="fold")
    for heading in ("n", "test accuracy", "novelty"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("diversity", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for name, alike in groupby(rows, key=lambda row: row["generator"]):
        for i, row in enumerate(alike):
            if not row["settings"]:
                table.add_row(escape(name), *_cells(row))
                continue
            if i == 0:
                table.add_row(escape(name))
            table.add_row(f"[dim]{escape(_settings(row))}[/]", *_cells(row))
    return Group("Generated models\n", table, f"\n{CAPTION}")


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Returns the figures of a row, each flag beside the figure that raised it."""
    accuracy = row["accuracy"]
    median, low, high = (number(accuracy[key]) for key in ("median", "q25", "q75"))
    copied, collapsed = (f"[red]{flag}[/]" if flag in row["flags"] else "" for flag in (COPIED, COLLAPSED))
    return [str(row["n"]), f"{median} {low}…{high}", number(row["novelty"]), copied, number(row["diversity"]), collapsed]


def _settings(row: Mapping[str, Any]) -> str:
    """Returns the settings of a row as indented text that breaks between settings only."""
    text = " ".join(f"{key}={'all' if value is None else value}" for key, value in row["settings"].items())
    lines = textwrap.wrap(text, NAME_WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return textwrap.indent("\n".join(lines), "  ")
