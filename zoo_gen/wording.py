"""Words of messages and tables: nouns by their number, sizes of files, the values that a column has, names that are not broken."""

import difflib
from collections.abc import Collection
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.measure import Measurement
from rich.table import Table

_SHOWN = 12


def counted(number: int, noun: str) -> str:
    """Returns a number with its noun.

    >>> counted(1, "copy"), counted(2, "copy"), counted(0, "class"), counted(1200, "test model")
    ('1 copy', '2 copies', '0 classes', '1,200 test models')
    """
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Returns a noun, its last word in the plural.

    >>> plural("epoch"), plural("test batch"), plural("study"), plural("day")
    ('epochs', 'test batches', 'studies', 'days')
    """
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith(("s", "x", "sh", "tch")) else f"{noun}s"


def file_size(size: float) -> str:
    """Returns a number of bytes in the unit that suits it.

    >>> file_size(1), file_size(61_234), file_size(3_400_000_000)
    ('1 byte', '61.2 kB', '3.4 GB')
    """
    return decimal(round(size))


def as_wide_as_needed(table: Table) -> Table:
    """Makes a table as wide as its cells and their `max_width` ask for, so that no name in it is broken; returns it.

    It is printed with `crop=False`, and may be wider than the terminal.
    """
    console = Console(width=10_000)
    table.width = Measurement.get(console, console.options, table).maximum
    return table


def values_there(values: Collection[Any], wanted: Any = None) -> str:
    """Returns values in order, those most like a `wanted` text first where there are many.

    >>> values_there([3, 1]), values_there([f"m{i}" for i in range(100)], "m42x")
    ('1, 3', "'m42', 'm4', 'm2' ... (100 values)")
    """
    texts = all(isinstance(value, str) for value in values)
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    if len(ordered) <= _SHOWN:
        return ", ".join(map(written, ordered))
    near = difflib.get_close_matches(wanted, ordered[:10_000]) if texts and isinstance(wanted, str) else []
    if near or texts:
        return f"{', '.join(map(written, near or ordered[:3]))} ... ({len(ordered):,} values)"
    return f"{written(ordered[0])} to {written(ordered[-1])} ({len(ordered):,} values)"


def written(value: Any) -> str:
    """Returns a value as Python writes it, cut where it is long, without the type that a library gives it.

    >>> written(0.1), written("a"), len(written("a" * 100))
    ('0.1', "'a'", 60)
    """
    found = ascii(value.item() if hasattr(value, "item") else value)
    return found if len(found) <= 60 else f"{found[:57]}..."
