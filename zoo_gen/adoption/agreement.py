"""What the rows of a table say of one file or model together: they must agree, as nobody knows which of two is right."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from zoo_gen.adoption.table import Row
from zoo_gen.errors import InputError
from zoo_gen.reader import shortened

What = Literal["lineage", "factors", "results", "columns"]


def refuse_contradictions(matched: Mapping[Path, Sequence[Row]], names: Mapping[Path, str]) -> None:
    """Raises `InputError` if two rows about the same files say different things of them.

    Args:
        matched: the rows about each file.
        names: what each file is called in messages.
    """
    files: dict[int, set[Path]] = {}
    for path, rows in matched.items():
        for row in rows:
            files.setdefault(row.number, set()).add(path)
    for path, rows in matched.items():
        for alike in {frozenset(files[row.number]) for row in rows}:
            same = [row for row in rows if files[row.number] == alike]
            for what in ("lineage", "factors", "results", "columns"):
                agreed(same, what, names[path])


def agreed(rows: Iterable[Row], what: What, name: str) -> dict[str, Any]:
    """Puts together what rows say of one file or model.

    Rows that the maker of a zoo of the field wrote have the number 0; those of the user's table go before them.

    Raises:
        InputError: two rows of the table say different things. Equal ones may stand there twice.
    """
    found: dict[str, tuple[Any, Row]] = {}
    for row in rows:
        for column, value in getattr(row, what).items():
            if value is None:
                continue
            other, first = found.setdefault(column, (value, row))
            if other != value and row.number and first.number:
                advice = "keep the row of the epoch that the file is of" if column == "epoch" else "remove one of them, or mend it"
                raise InputError(
                    f"two rows of the table contradict each other: {column} of {name} is {_shown(other)} in row {first.number} "
                    f"and {_shown(value)} in row {row.number}; {advice}"
                )
            if row.number:
                found[column] = value, row
    return {column: value for column, (value, _) in found.items()}


def _shown(value: Any) -> str:
    return shortened(value) if isinstance(value, str) else str(value)
