"""The table of predictions for the terminal: all targets of one checkpoint, or the first targets of many."""

import pandas as pd
from rich.markup import escape
from rich.table import Column, Table

SHOWN = ("test_accuracy", "test_loss", "epoch")


def prediction_table(table: pd.DataFrame) -> Table:
    """Returns the table for the terminal: all predictions for one checkpoint, or the first to many."""
    ends = ("_low", "_high", "_probability", "_set")
    targets = [name for name in table if not str(name).endswith(ends) and name not in _ABOUT]
    if len(table) == 1:
        row, view = table.iloc[0], Table("", str(table["checkpoint"][0]))
        for name in targets:
            view.add_row(str(name), _cell(row, str(name)))
        view.add_row("taken root", escape(str(row["taken_root"])))
        view.add_row("out of distribution", escape(str(row["out_of_distribution"])) or "no")
        return view
    view = Table(Column("checkpoint", overflow="fold"), *SHOWN, "out of distribution")
    for _, row in table.head(40).iterrows():
        view.add_row(
            escape(str(row["checkpoint"])),
            *(_cell(row, name) for name in SHOWN),
            escape(str(row["error"] or row["out_of_distribution"])),
        )
    far = int((table["out_of_distribution"] != "").sum())
    view.caption = f"{len(table)} checkpoints, {far} out of distribution; out=<file>.csv has all rows and targets"
    return view


_ABOUT = ("checkpoint", "taken_root", "out_of_distribution", "error", "distance")


def _cell(row: pd.Series, name: str) -> str:
    if name not in row or pd.isna(row[name]):
        return "-"
    if f"{name}_low" not in row:
        every = str(row[f"{name}_set"])
        return escape(f"{row[name]} {row[f'{name}_probability']:.2f}" + (f" ({every})" if " or " in every else ""))
    return f"{row[name]:.3g} {row[f'{name}_low']:.3g}…{row[f'{name}_high']:.3g}"
