"""A run in one table for the terminal: the zoo, the representation, what it predicts, what it generates."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from wsl.run import Run

Rows = Sequence[Mapping[str, Any]]


def summary_table(run: Run, *, metrics: Rows, probes: Rows, samples: Rows) -> Table:
    """Sums up a run.

    Args:
        run: the run.
        metrics: events of metrics.jsonl.
        probes: rows of probe.json, or none.
        samples: rows of generate.json, or none; the generator's own row follows that of the train models.
    """
    table = Table(title=f"{run.path.name}: a smoke test, not evidence", box=SIMPLE, show_header=False, title_justify="left")
    table.add_column(style="dim")
    table.add_column()
    zoo = run.zoo
    accuracy = zoo.select(stage="finetune", final=True).frame["test_accuracy"]
    last = [event for event in metrics if event["event"] == "validation"][-1]
    table.add_row(
        "zoo", f"{zoo.frame['model'].nunique()} models, {len(zoo)} checkpoints, median test accuracy {accuracy.median():.2f}"
    )
    table.add_row(
        "decoded, val models", f"accuracy {last['accuracy_decoded']:.2f} of {last['accuracy_original']:.2f} on val images"
    )
    asked = [row for row in probes if row["target"] == "test_accuracy" and row["metric"] == "r2" and not row["control"]]
    for row in asked:
        about = f"R² {_interval(row['value'], row['low'], row['high'])} of test accuracy, {row['subset']} checkpoints"
        table.add_row(f"probe, {row['features']}", about)
    for row in samples:
        settings = " ".join(f"{key}={value}" for key, value in row["settings"].items() if value is not None)
        accuracy = row["accuracy"]
        about = f"accuracy {_interval(accuracy['median'], accuracy['q25'], accuracy['q75'])}, novelty {_number(row['novelty'])}"
        flagged = " [red]memorized[/]" if row["flags"] else ""
        table.add_row(f"{row['generator']} {settings}", f"{about}, diversity {_number(row['diversity'])}{flagged}")
    return table


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return f"{_number(value)} \\[{_number(low)}, {_number(high)}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
