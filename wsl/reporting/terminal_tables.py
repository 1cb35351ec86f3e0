"""Tables for the terminal, in 80 columns: coverage, predictions, and the summary of a run.

The table of probes is in `wsl.reporting.probe_table`, those of generated models in `wsl.reporting.generator_table`.
"""

import pandas as pd
from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from wsl.reporting.benchmark_rows import ONE_EACH, Row, Rows, has_one_each, is_given, mark, rank, words
from wsl.reporting.numbers import number
from wsl.reporting.style import score_of
from wsl.run import Run
from zoo_gen.wording import as_wide_as_needed, counted

COVERAGE = """\
role: kind of tensor. tokens: rows of equal width that the weights are cut into.
padding: fraction of the values of tokens that hold no weight."""

PREDICTED = ("test_accuracy", "test_loss", "epoch")
"""Targets that are shown of many checkpoints, as far as there are predictions; then others."""


def coverage_table(frame: pd.DataFrame) -> Group:
    """Returns a frame of `wsl.tokenizers.plan.coverage`, its total last, as a table."""
    table = _table(Column("role"), *map(str, frame.columns))
    for role, (weights, tokens, padding) in zip(frame.index, frame.to_numpy(), strict=True):
        if role == "total":
            table.add_section()
        table.add_row(str(role), f"{weights:,.0f}", f"{tokens:,.0f}", f"{padding:.1%}")
    return Group(table, f"\n{COVERAGE}")


def prediction_table(table: pd.DataFrame, *, test_set: str) -> Table:
    """Returns all predictions for one checkpoint, or those of the first targets for many.

    `test_set` says which images accuracies and losses are of. Names of checkpoints are whole: print it with `crop=False`.
    """
    every = list(map(str, table))
    targets = [name for name in every if f"{name}_low" in every or f"{name}_set" in every]
    measured = [name for name in ("test_accuracy", "test_loss") if name in targets]
    about_tests = f"{' and '.join(measured)}: of the {escape(test_set)}" if measured else ""
    if len(table) == 1:
        row, name = table.iloc[0], escape(str(table["checkpoint"][0]))
        view = Table("", Column(name, max_width=max(60, len(name))))
        for name in targets:
            view.add_row(escape(name), _prediction(row, name))
        view.add_row("taken root", escape(str(row["taken_root"])))
        view.add_row("out of distribution", escape(str(row["out_of_distribution"])) or "no")
        view.caption = about_tests
        return as_wide_as_needed(view)
    shown = sorted(targets, key=lambda name: PREDICTED.index(name) if name in PREDICTED else len(PREDICTED))[: len(PREDICTED)]
    view = Table("checkpoint", *map(escape, shown), Column("out of distribution", max_width=40))
    for _, row in table.head(40).iterrows():
        predictions = [_prediction(row, name) for name in shown]
        view.add_row(escape(str(row["checkpoint"])), *predictions, escape(str(row["error"] or row["out_of_distribution"])))
    unread = table["error"] != ""
    far = ~unread & (table["out_of_distribution"] != "")
    counts = {
        "in distribution": len(table) - unread.sum() - far.sum(),
        "out of distribution": far.sum(),
        "unreadable": unread.sum(),
    }
    found = ", ".join(f"{count} {what}" for what, count in counts.items())
    view.caption = f"{counted(len(table), 'checkpoint')}: {found}; out=<file>.csv has all rows and targets\n{about_tests}"
    return as_wide_as_needed(view)


def _prediction(row: pd.Series, name: str) -> str:
    """Returns a label with its probability, or a number with its interval to three digits: learning rates are small."""
    if name not in row or pd.isna(row[name]):
        return number(None)
    if f"{name}_low" not in row:
        every = str(row[f"{name}_set"])
        return escape(f"{row[name]} {number(row[f'{name}_probability'])}" + (f" ({every})" if " or " in every else ""))
    if pd.isna(row[f"{name}_low"]):
        return f"{row[name]:.3g} no interval"
    return f"{row[name]:.3g} {row[f'{name}_low']:.3g}…{row[f'{name}_high']:.3g}"


def summary(run: Run, *, metrics: Rows, probes: Rows, samples: Rows) -> Group:
    """Sums up a run by the events of metrics.jsonl and the rows of probe.json and generate.json; both may be missing."""
    parts = [f"[bold]{escape(run.path.name)}[/]: a smoke test, not evidence", _zoo(run, metrics)]
    parts += ["", _probes(probes)] if probes else []
    parts += ["", _generators(samples)] if samples else []
    return Group(*parts)


def _zoo(run: Run, metrics: Rows) -> str:
    """Returns the size of the zoo, and the accuracy of val models before and after decoding."""
    final = run.zoo.select(stage="finetune", final=True).frame
    models, score = run.zoo.frame["model"].nunique(), score_of(final)
    median = f", median {words(score)} {number(final[score].median())}" if score else ""
    lines = [escape(f"zoo: {counted(models, 'model')}, {counted(len(run.zoo), 'checkpoint')}{median}")]
    if decoded := [event for event in metrics if event.get("accuracy_decoded") is not None]:
        after, before = (number(decoded[-1][f"accuracy_{key}"]) for key in ("decoded", "original"))
        lines.append(f"decoded val models: accuracy {after}, {before} before")
    return "\n".join(lines)


def _probes(rows: Rows) -> Table:
    """Returns R² of test accuracy by features, or of the first number that is counted where there is none."""
    numbers = [row for row in rows if row["metric"] == "r2" and not row["control"]]
    known = [row["target"] for row in sorted(numbers, key=rank) if row["value"] is not None] or ["test_accuracy"]
    shown = [row for row in numbers if row["target"] == known[0]]
    cells = {(row["features"], row["subset"]): _score(row) for row in shown}
    subsets = list(dict.fromkeys(row["subset"] for row in shown))
    name = Column(f"linear probes: R² of {escape(words(known[0]))}", min_width=26)
    table = _table(name, *(f"{subset} checkpoints" for subset in subsets))
    for features in dict.fromkeys(row["features"] for row in shown):
        table.add_row(escape(words(features)), *(cells.get((features, subset), number(None)) for subset in subsets))
    notes = [ONE_EACH] if has_one_each(rows) else []
    if any(cell.startswith("!") for cell in cells.values()):
        notes.append("!: above the noise ceiling: the features know the measured result.")
    table.caption = "\n".join(notes) or None
    return table


def _score(row: Row) -> str:
    """Returns a score, marked where it lies above its noise ceiling; none of features that contain the target."""
    return "(given)" if is_given(row) else f"{mark(row, permuted='')}{number(row['value'])}"


def _generators(rows: Rows) -> Table:
    """Returns medians of each generator in the first of its settings, and the share of good and new samples."""
    table = _table(Column("generated models", min_width=20), "accuracy", "novelty", "diversity", "good, new")
    table.add_column("")
    first = {row["generator"]: row for row in reversed(rows)}
    for name in dict.fromkeys(row["generator"] for row in rows):
        row = first[name]
        good = number(row["good_and_new"]["median"]["share"])
        figures = number(row["accuracy"]["median"]), number(row["novelty"]), number(row["diversity"]), good
        table.add_row(escape(words(name)), *figures, f"[red]{escape(', '.join(row['flags']))}[/]")
    return table


def _table(name: Column, *figures: str) -> Table:
    columns = (Column(figure, justify="right", no_wrap=True) for figure in figures)
    return Table(name, *columns, box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
