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
    table = Table(
        title=f"{run.path.name}: a smoke test, not evidence",
        box=SIMPLE,
        padding=(0, 1, 0, 0),
        show_header=False,
        title_justify="left",
    )
    table.add_column(style="dim")
    table.add_column()
    zoo = run.zoo
    accuracy = zoo.select(stage="finetune", final=True).frame["test_accuracy"]
    last = [event for event in metrics if event["event"] == "validation"][-1]
    models = zoo.frame["model"].nunique()
    table.add_row("zoo", f"{models} models, {len(zoo)} checkpoints, median test accuracy {accuracy.median():.2f}")
    table.add_row("decoded models", f"accuracy {last['accuracy_decoded']:.2f}, before {last['accuracy_original']:.2f} (val models)")
    asked = [row for row in probes if row["target"] == "test_accuracy" and row["metric"] == "r2" and not row["control"]]
    for features in dict.fromkeys(row["features"] for row in asked):
        scores = [f"{_number(row['value'])} on {row['subset']}" for row in asked if row["features"] == features]
        table.add_row(f"probe of {features}", f"R² of test accuracy {', '.join(scores)}")
    for name in dict.fromkeys(row["generator"] for row in samples):
        row = next(row for row in samples if row["generator"] == name)  # the first setting of each
        figures = (
            f"accuracy {row['accuracy']['median']:.2f}, novelty {_number(row['novelty'])}, diversity {_number(row['diversity'])}"
        )
        table.add_row(name, figures + (" [red]memorized[/]" if row["flags"] else ""))
    return table


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
