"""The summary of a run for the terminal, in 80 columns: its zoo, its decoded models, its probes and its generated models."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from wsl.reporting.numbers import number
from wsl.run import Run

Rows = Sequence[Mapping[str, Any]]


def summary(run: Run, *, metrics: Rows, probes: Rows, samples: Rows) -> Group:
    """Sums up a run.

    Args:
        run: the run.
        metrics: events of metrics.jsonl.
        probes: rows of probe.json, or none.
        samples: rows of generate.json, or none.
    """
    parts = [f"[bold]{escape(run.path.name)}[/]: a smoke test, not evidence", _zoo(run, metrics)]
    parts += ["", _probes(probes)] if probes else []
    parts += ["", _generators(samples)] if samples else []
    return Group(*parts)


def _zoo(run: Run, metrics: Rows) -> str:
    """Returns the size of the zoo, and the accuracy of val models before and after decoding."""
    accuracy = run.zoo.select(stage="finetune", final=True).frame["test_accuracy"]
    models = run.zoo.frame["model"].nunique()
    lines = [f"zoo: {models} models, {len(run.zoo)} checkpoints, median test accuracy {number(accuracy.median())}"]
    decoded = [event for event in metrics if event.get("accuracy_decoded") is not None]
    if decoded:
        after, before = (number(decoded[-1][f"accuracy_{key}"]) for key in ("decoded", "original"))
        lines.append(f"decoded val models: accuracy {after}, {before} before")
    return "\n".join(lines)


def _probes(rows: Rows) -> Table:
    """Returns R² of test accuracy by features."""
    shown = [row for row in rows if row["target"] == "test_accuracy" and row["metric"] == "r2" and not row["control"]]
    subsets = list(dict.fromkeys(row["subset"] for row in shown))
    values = {(row["features"], row["subset"]): row["value"] for row in shown}
    table = _table("linear probes: R² of test accuracy", *(f"{subset} checkpoints" for subset in subsets))
    for features in dict.fromkeys(row["features"] for row in shown):
        table.add_row(escape(features.replace("_", " ")), *(number(values.get((features, subset))) for subset in subsets))
    return table


def _generators(rows: Rows) -> Table:
    """Returns medians of each generator, in the first of its settings."""
    table = _table("generated models", "test accuracy", "novelty", "diversity")
    table.add_column("")
    first = {row["generator"]: row for row in reversed(rows)}
    for name in dict.fromkeys(row["generator"] for row in rows):
        row = first[name]
        figures = number(row["accuracy"]["median"]), number(row["novelty"]), number(row["diversity"])
        table.add_row(escape(name.replace("_", " ")), *figures, f"[red]{escape(', '.join(row['flags']))}[/]")
    return table


def _table(name: str, *figures: str) -> Table:
    table = Table(box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    table.add_column(name, min_width=26)
    for figure in figures:
        table.add_column(figure, justify="right", no_wrap=True)
    return table
