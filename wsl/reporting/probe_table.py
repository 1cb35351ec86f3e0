"""The probe table for the terminal: targets by features, with intervals, chance and ceiling; 80 columns for three features."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

_METRICS = {"r2": "R2", "kendall_tau": "tau", "balanced_accuracy": "acc"}
LOW_CEILING = 0.5
"""Targets with a lower ceiling are shown and not counted (docs/protocol.md)."""


def probe_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns the rows of `probe.json` as a table, the controls summed up under it."""
    asked = [row for row in rows if row["control"] is None]
    features = list(dict.fromkeys(row["features"] for row in asked))
    cells = {(row["subset"], row["target"], row["metric"], row["features"]): row for row in asked}
    table = Table(
        title=_title(asked),
        title_justify="left",
        caption=_caption(rows),
        caption_justify="left",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("target", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for name in ("chance…\nceiling", *(name.replace("_", " ") for name in features)):
        table.add_column(name, justify="right")
    for subset in dict.fromkeys(row["subset"] for row in asked):
        table.add_section()
        table.add_row(f"[bold]{subset.upper()}")
        for target, metric in dict.fromkeys((row["target"], row["metric"]) for row in asked):
            found = [cells[subset, target, metric, name] for name in features]
            chance, ceiling, trivial = (found[0][key] for key in ("chance", "noise_ceiling", "trivial"))
            shown_only = trivial or (ceiling is not None and ceiling < LOW_CEILING)
            limits = f"{_number(chance)}…{_number(ceiling)}"
            table.add_row(target, _METRICS[metric], limits, *map(_cell, found), style="dim" if shown_only else None)
    return table


def _title(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns what the table is, and how far to trust it."""
    first, models = rows[0], max(row["n_models"] for row in rows)
    where = f"split {first['split']}, fold {first['fold']}, {models} test models"
    note = "\nA smoke test: one representation, tested on one fold" if first["smoke_test"] else ""
    return f"Linear probes ({where}): score low…high, 95 %{note}"


def _caption(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns what a reader has to know about the table, the controls first."""
    controls = [row for row in rows if row["control"] is not None]
    lines = []
    for metric, name in (("r2", "R2"), ("kendall_tau", "|tau|")):
        medians = [row["value"] for row in controls if row["metric"] == metric]
        if medians:
            lines.append(f"fitted to permuted targets: median {name} at most {max(medians):.2f} in {len(medians)} controls")
    lines.append("acc: balanced accuracy   -: nothing to predict, or unknown")
    lines.append("*: not above the 99th percentile of permuted targets")
    lines.append(f"dim: readable from the shapes, or a ceiling under {LOW_CEILING}; shown, not counted")
    return "\n".join(lines)


def _cell(row: Mapping[str, Any]) -> str:
    """Returns value and interval, starred where permuted targets reach as far."""
    if row["value"] is None:
        return "-"
    star = "*" if row["above_permuted"] is False else ""
    return f"{star}{_number(row['value'])} {_number(row['low'])}…{_number(row['high'])}"


def _number(value: float | None) -> str:
    """Returns two digits at most, without the zero before the point."""
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}".replace("0.", ".")
