"""The table of a tokenizer's coverage for the terminal: weights, tokens and padding by role."""

import pandas as pd
from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table

CAPTION = """\
role: kind of tensor. tokens: rows of equal width that the weights are cut into.
padding: fraction of the values of tokens that hold no weight."""


def coverage_table(frame: pd.DataFrame) -> Group:
    """Returns a frame of `wsl.tokenizers.plan.coverage`, its total last, as a table of at most 80 columns."""
    table = Table("role", box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False)
    for column in frame.columns:
        table.add_column(str(column), justify="right", no_wrap=True)
    for role, (weights, tokens, padding) in zip(frame.index, frame.to_numpy(), strict=True):
        if role == "total":
            table.add_section()
        table.add_row(str(role), f"{weights:,.0f}", f"{tokens:,.0f}", f"{padding:.1%}")
    return Group(table, f"\n{CAPTION}")
