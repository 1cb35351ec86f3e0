"""The probe table for the terminal: targets by features, with intervals, chance and ceiling."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

_SYMBOLS = {"r2": "R2", "kendall_tau": "tau", "balanced_accuracy": "bal. acc."}
LOW_CEILING = 0.5
"""Targets with a lower ceiling are shown and not counted (docs/protocol.md)."""


def probe_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns the rows of `probe.json` as a table, controls as its last lines."""
    asked = [row for row in rows if not row["control"]]
    features = list(dict.fromkeys(row["features"] for row in asked))
    values = {(row["subset"], row["target"], row["metric"], row["features"]): row for row in asked}
    table = Table(
        title=_title(rows), title_justify="left", caption=_caption(rows), caption_justify="left", pad_edge=False
    )
    for name in ("subset", "target", "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("chance", "ceiling"):
        table.add_column(name, justify="right")
    for name in features:
        table.add_column(name, justify="right", no_wrap=True)
    before = None
    for subset, target, metric in dict.fromkeys(key[:3] for key in values):
        if before not in (None, subset):
            table.add_section()
        before = subset
        cells = [values[subset, target, metric, name] for name in features]
        first = cells[0]
        note = " (trivial)" if first["trivial"] else ""
        limits = [_number(first["chance"]), _number(first["ceiling"])]
        low = first["ceiling"] is not None and first["ceiling"] < LOW_CEILING
        table.add_row(
            subset,
            target + note,
            _SYMBOLS[metric],
            *limits,
            *map(_cell, cells),
            style="dim" if low or first["trivial"] else None,
        )
    return table


def _title(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns what the table is, and how far to trust it."""
    first = rows[0]
    where = f"split {first['split']}, fold {first['fold']}, {first['n_models']} test models"
    title = f"Linear probes, {where}: score [95 % interval]"
    return title + ("\nA smoke test: one fold and one representation." if first["smoke_test"] else "")


def _cell(row: Mapping[str, Any]) -> str:
    """Returns value and interval, starred where shuffled targets reach as far."""
    if row["value"] is None:
        return "-"
    star = "*" if row["above_shuffled"] is False else ""
    return f"{star}{_number(row['value'])} [{_number(row['low'])}, {_number(row['high'])}]"


def _caption(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns what a reader has to know about the table, the controls first."""
    lines = []
    for metric, name in (("r2", "R2"), ("kendall_tau", "|tau|")):
        medians = [
            row["value"] for row in rows if row["control"] and row["metric"] == metric and row["value"] is not None
        ]
        if medians:
            lines.append(
                f"shuffled targets: median {name} at most {max(medians):.2f} in each of {len(medians)} controls"
            )
    lines.append("*: not above the 99th percentile of shuffled targets; -: nothing to predict, or not known")
    lines.append("dim: trivial (readable from the shapes), or a ceiling under 0.5: shown, not counted")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    """Returns two digits, without the zero before the point."""
    return "-" if value is None else f"{value:.2f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
