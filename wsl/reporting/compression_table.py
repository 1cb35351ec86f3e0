"""The table of compressed models as Markdown, by compression ratio."""

from collections.abc import Mapping, Sequence
from typing import Any

from wsl.reporting.numbers import number

HEADS = ("run", "behaviour", "refined", "compression ratio", "accuracy retained", "quartiles")
HEADS += ("accuracy decoded", "accuracy before", "diversity, weights", "diversity, predictions")


def compression_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows of `wsl.analyses.compression` as a table."""
    lines = [f"| {' | '.join(HEADS)} |", "|---" * len(HEADS) + "|"]
    for row in sorted(rows, key=lambda row: (row["compression_ratio"], row["behaviour"], row["refined"])):
        keys = ("accuracy_retained_q25", "accuracy_retained_q75", "accuracy_decoded", "accuracy")
        low, high, decoded, before = (number(row[key], 3) for key in keys)
        cells = (
            row["run"],
            *("yes" if row[key] else "no" for key in ("behaviour", "refined")),
            number(row["compression_ratio"]),
            number(row["accuracy_retained"], 3),
            f"{low}, {high}",
            decoded,
            before,
            *(number(row[f"diversity_{space}"], 3) for space in ("weights", "behaviour")),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
