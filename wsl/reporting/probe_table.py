"""The table of probes for the terminal, in 80 columns: targets by features, with 95 % intervals, chance and noise ceilings.

Features that do not fit beside one another follow in further tables.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from wsl.reporting.benchmark_rows import LOW_CEILING, ONE_EACH, Row, has_one_each, is_counted, is_given, mark
from wsl.reporting.numbers import compact, number
from zoo_gen.wording import counted

WIDTH = 80
GAP = 1
NOTHING, GIVEN = "–", "(given)"
LIMITS = "chance…\nnoise\nceiling"
METRICS = {"r2": "R²", "kendall_tau": "τ", "balanced_accuracy": "acc"}
Limits = Mapping[tuple[str, str], Row]
"""A row of each target and metric."""

Cells = Mapping[tuple[str, str, str], str]
"""Scores by target, metric and features."""


def probe_table(rows: Sequence[Row]) -> Group:
    """Returns the rows of `probe.json` as tables of at most 80 columns, with the controls and an explanation under them."""
    scores = [row for row in rows if row["control"] is None]
    tables = []
    for subset in dict.fromkeys(row["subset"] for row in scores):
        alike = [row for row in scores if row["subset"] == subset]
        limits = {(row["target"], row["metric"]): row for row in alike if row["value"] is not None}
        cells = {(row["target"], row["metric"], row["features"]): _cell(row) for row in alike}
        tables += [_table(f"\n{subset.capitalize()} checkpoints", limits, some, cells) for some in _side_by_side(limits, cells)]
    return Group(_title(scores), *tables, _caption(rows))


def _table(title: str, limits: Limits, features: Sequence[str], cells: Cells) -> Table:
    """Returns the table of some features, with a line for each target and metric."""
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=0, show_edge=False)
    table.add_column("target", no_wrap=True)
    table.add_column("", no_wrap=True)
    for heading in (LIMITS, *map(_heading, features)):
        table.add_column(heading, justify="right", no_wrap=True)
    for (target, metric), row in limits.items():
        found = [cells.get((target, metric, name), NOTHING) for name in features]
        table.add_row(escape(target), METRICS[metric], _limits(row), *found, style=None if is_counted(row) else "dim")
    return table


def _side_by_side(limits: Limits, cells: Cells) -> Iterator[list[str]]:
    """Yields the features in order, as many at a time as fit beside one another."""
    columns = [
        ["target", *(target for target, _ in limits)],
        list(METRICS.values()),
        [*LIMITS.splitlines(), *map(_limits, limits.values())],
    ]
    free = WIDTH - sum(max(map(len, column)) + GAP for column in columns) + GAP
    some: list[str] = []
    used = 0
    for name in dict.fromkeys(features for _, _, features in cells):
        written = [*_heading(name).splitlines(), *(cell for key, cell in cells.items() if key[2] == name)]
        width = max(map(len, written)) + GAP
        if some and used + width > free:
            yield some
            some, used = [], 0
        some.append(name)
        used += width
    if some:
        yield some


def _heading(features: str) -> str:
    """Returns the name of features in lines as short as cells are."""
    return "\n".join(textwrap.wrap(features.replace("_", " "), 15))


def _title(scores: Sequence[Row]) -> str:
    """Returns the split, the number of models, and how far to trust the scores."""
    first, models = scores[0], max(row["n_models"] for row in scores)
    where = f"split {first['split']}, fold {first['fold']}, {counted(models, 'test model')}"
    note = "\nA smoke test: one representation, tested on one fold." if first["smoke_test"] else ""
    return f"Linear probes ({where}): score low…high{note}"


def _caption(rows: Sequence[Row]) -> str:
    """Returns the controls, and an explanation of every word and mark in the table."""
    controls = [row for row in rows if row["control"] is not None]
    lines = [f"\n{ONE_EACH}"] if has_one_each(rows) else []
    lines.append("\nlow…high: 95 % interval. R²: of numbers; τ: Kendall's; acc: balanced accuracy.")
    lines.append("chance: score of guessing. noise ceiling: score of a perfect probe, given the")
    lines.append("noise of the measured target. –: nothing to predict.")
    lines.append("*: not above the 99th percentile of permuted targets.")
    lines.append("!: above the noise ceiling: the features know the measured result.")
    lines.append("(given): the features contain the target.")
    lines.append(f"dim: readable from the shapes, or a noise ceiling under {number(LOW_CEILING)}; not counted.")
    for metric, name in (("r2", "R²"), ("kendall_tau", "|τ|")):
        medians = [row["value"] for row in controls if row["metric"] == metric]
        if medians:
            lines.append(f"control: median {name} of permuted targets at most {number(max(medians))} in {len(medians)} probes.")
    return "\n".join(lines)


def _limits(row: Row) -> str:
    return f"{number(row['chance'])}…{number(row['noise_ceiling'])}"


def _cell(row: Row) -> str:
    """Returns a score and its interval with its mark; no score of features that contain the target."""
    if row["value"] is None:
        return NOTHING
    if is_given(row):
        return GIVEN
    return f"{mark(row, permuted='*')}{compact(row['value'])} {compact(row['low'])}…{compact(row['high'])}"
