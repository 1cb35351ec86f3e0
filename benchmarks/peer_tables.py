"""Tables of `benchmarks.peers` for the terminal."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table

FIGURES = {"numbers": ",.0f", "weights": ",", "weights_per_second": ",.0f", "accuracy_retained": ".3f"}
"""Columns of a row, and how their figures are written."""


def tables(rows: Sequence[dict[str, Any]]) -> list[Table]:
    """Returns a table of the autoencoders, and one of the probes: scores, and how far the first row is ahead."""
    figures = Table(title="autoencoders")
    for name in ("row", *FIGURES, "error of changes", "error of weights"):
        figures.add_column(name.replace("_", " "), justify="left" if name == "row" else "right")
    for row in rows:
        if "errors" in row:
            errors = (written(row["errors"][measure], ".4f") for measure in ("changes", "weights"))
            figures.add_row(row["row"], *(written(row[key], form) for key, form in FIGURES.items()), *errors)
    probed = Table(title=f"linear probes: R² (in brackets what {rows[0]['row']} has more, 95 % interval)")
    probed.add_column("target")
    for row in rows:
        probed.add_column(row["row"], justify="right")
    by_row = [{(one["target"], one["checkpoints"]): one for one in row["probes"]} for row in rows]
    for target, checkpoints in dict.fromkeys(key for found in by_row for key in found):
        probed.add_row(f"{target}, {checkpoints}", *(score(found.get((target, checkpoints))) for found in by_row))
    return [figures, probed]


def score(found: dict[str, Any] | None) -> str:
    """Returns a score and the difference to it; nothing where there is none."""
    if found is None or found["score"] is None:
        return ""
    if found["difference"] is None:
        return written(found["score"], ".3f")
    low, high = (written(found[f"difference_{end}"], "+.3f") for end in ("low", "high"))
    return f"{found['score']:.3f} ({found['difference']:+.3f} [{low}, {high}])".replace("[", r"\[")


def written(value: float | None, form: str) -> str:
    """Returns a figure, or a dash where it is not known."""
    return "-" if value is None else format(value, form)
