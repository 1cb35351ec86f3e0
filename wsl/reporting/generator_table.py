"""Tables of generated models for the terminal, in 80 columns: good and new samples, the measures behind them, the frontier."""

import textwrap
from collections.abc import Iterator
from itertools import groupby

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from wsl.generators.names import CLASSES, LEVELS, NEAREST
from wsl.generators.novelty import COLLAPSED, COPIED, LEAKED, THRESHOLD
from wsl.reporting.benchmark_rows import Row, Rows
from wsl.reporting.numbers import number

NAME_WIDTH = 19
"""Columns for names and settings of generators; longer settings go on in the next line."""

GOOD = """\
Good and new: share of samples with a novelty and a diversity of at least 1 and
a test accuracy above a bar: the median of train models ({median}), of each root's
top quartile by val accuracy ({top_quartile}), of each root's best ({best}); 95 % intervals.
grads, CPU s: gradient evaluations and CPU seconds per sample."""

MEASURES = f"""\
Test accuracy without training: median over all samples, quartiles.
Novelty: distance to the nearest train model of any root. Diversity: distance to
the nearest other sample. 1: {{scale}}.
The smaller of weights (modulo symmetry) and behaviour (predictions) counts.
{COPIED}: novelty below {number(THRESHOLD)}; copies: share of such samples.
{COLLAPSED}: diversity below {number(THRESHOLD)}. {LEAKED}: nearly a held-out model."""

SCALES = {"held-out models": "as a freshly trained model that is as good", "train models": "as between neighbouring train models"}

FRONTIER = """\
Best median accuracy of each sampler, over its settings, among those whose
novelty and diversity are at least so much; 95 % intervals over families."""


def class_of(row: Row, rows: Rows) -> str | None:
    """Returns what the sampler of a row uses; of nearest train models, what the sampler uses that they are nearest to."""
    if row["generator"] != NEAREST:
        return row.get("uses")
    return next((other.get("uses") for other in rows if other["generator"] == row["settings"].get("of")), None)


def by_class(rows: Rows) -> list[tuple[str | None, list[Row]]]:
    """Returns rows by what their samplers use, real models first."""
    found = [(name, [row for row in rows if class_of(row, rows) == name]) for name in (None, *CLASSES)]
    return [(name, alike) for name, alike in found if alike]


def scale_of(rows: Rows) -> str:
    """Returns what a novelty of 1 means, in words."""
    return SCALES[next((row["scale"] for row in rows if row.get("scale") in SCALES), "train models")]


def generator_table(rows: Rows) -> Group:
    """Returns the rows of `generate.json` as tables: a line for each setting of each generator."""
    good = _table("above median", "top quartile", "best", "grads", "CPU s")
    measures = _table("n", "accuracy", "novelty", "", "copies", "diver-\nsity", "")
    for table, figures in ((good, _good), (measures, _measures)):
        for uses, alike in by_class(rows):
            if uses:
                table.add_section()
                table.add_row(f"[bold]{uses}[/]")
            for label, row in _lines(alike):
                table.add_row(label, *(figures(row) if row else ()))
    about = next((row["bars"] for row in rows if "bars" in row), {})
    said = GOOD.format(**{bar: number(about.get(bar)) for bar in ("median", "top_quartile", "best")})
    scale = scale_of(rows)
    parts = ["Good and new\n", good, f"\n{said}", "\nGenerated models\n", measures, f"\n{MEASURES.format(scale=scale)}"]
    found = next((row["frontier"] for row in rows if row.get("frontier")), None)
    return Group(*parts, *(["\nFrontier\n", _frontier(found), f"\n{FRONTIER}"] if found else []))


def _lines(rows: Rows) -> Iterator[tuple[str, Row | None]]:
    """Yields the name of a generator, and under it a line for each of its settings."""
    for name, alike in groupby(rows, key=lambda row: row["generator"]):
        for i, row in enumerate(alike):
            if row["settings"] and i == 0:
                yield escape(name), None
            yield (f"[dim]{escape(_settings(row))}[/]" if row["settings"] else escape(name)), row


def _good(row: Row) -> list[str]:
    shares = [spread(share["share"], share["low"], share["high"]) for share in row["good_and_new"].values()]
    cost = row.get("cost")
    return [*shares, f"{cost['gradient_evaluations']:.0f}" if cost else "", number(cost["cpu_seconds"], 3) if cost else ""]


def _measures(row: Row) -> list[str]:
    """Returns the figures of a row, each flag beside the figure that raised it."""
    accuracy = spread(*(row["accuracy"][key] for key in ("median", "q25", "q75")))
    near, collapsed = ([flag for flag in flags if flag in row["flags"]] for flags in ((LEAKED, COPIED), (COLLAPSED,)))
    words = [f"[red]{flags[0]}[/]" if flags else "" for flags in (near, collapsed)]
    copies = f"{row['flagged'][COPIED]:.0%}"
    return [
        str(row["n"]),
        f" {accuracy}",
        f" {number(row['novelty'])}",
        f" {words[0]}",
        copies,
        number(row["diversity"]),
        f" {words[1]}",
    ]


def _frontier(found: Rows) -> Table:
    table = _table(*map(number, LEVELS))
    for name, alike in groupby(found, key=lambda one: one["generator"]):
        table.add_row(escape(name), *(spread(one["accuracy"], one["low"], one["high"]) for one in alike))
    return table


def _table(*figures: str) -> Table:
    """Returns an empty table with a column for names; columns without a head are of flags."""
    columns = (Column(head, justify="right" if head else "left", no_wrap=True) for head in figures)
    name = Column("generator", width=NAME_WIDTH, overflow="fold")
    return Table(name, *columns, box=SIMPLE, padding=0, show_edge=False, pad_edge=False)


def spread(value: float | None, low: float | None, high: float | None) -> str:
    """Returns a figure with the ends of its interval."""
    return number(value) if value is None else f"{number(value)} {number(low)}…{number(high)}"


def _settings(row: Row) -> str:
    """Returns the settings of a row as indented text that breaks between settings only."""
    text = " ".join(f"{key}={'all' if value is None else value}" for key, value in row["settings"].items())
    lines = textwrap.wrap(text, NAME_WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return textwrap.indent("\n".join(lines), "  ")
