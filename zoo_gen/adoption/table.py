"""A user's table of what is known of each model: any columns, one of which names the file or the model."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zoo_gen.adoption.scan import LeftOut
from zoo_gen.errors import InputError
from zoo_gen.index import ALL_FACTORS, COLUMNS, RESULTS, is_own
from zoo_gen.reader import shortened, size_of
from zoo_gen.recipe import CHOICES, RANGES

KEYS = ("file", "path", "model", "name")
LINEAGE = ("root", "parent", "epoch", "model")
"""Columns that say what a file is, not what is known of it."""

LIMIT = 2**28
"""Bytes of a table, at most."""

_WHOLE = ("epochs", "batch_size", "width", "depth", "seed")


@dataclass
class Row:
    """What a table says of one file or model.

    Attributes:
        key: the file or model, as the table calls it.
        number: of the row, from 1.
        lineage: of `LINEAGE`, what there is.
        factors: generating factors that the format knows.
        results: losses and accuracies that the format knows.
        columns: of the user's own, numbers and texts.
    """

    key: str
    number: int
    lineage: dict[str, Any] = field(default_factory=dict)
    factors: dict[str, Any] = field(default_factory=dict)
    results: dict[str, float] = field(default_factory=dict)
    columns: dict[str, float | str] = field(default_factory=dict)


def read_table(path: Path, knows: Callable[[str], bool], report: Callable[[LeftOut], None]) -> list[Row]:
    """Reads a table: CSV, Parquet or JSON lines, by its suffix.

    Args:
        path: of the file.
        knows: tells whether a text names a file or model that was found.
        report: is told of cells and columns that are left out.

    Raises:
        InputError: there is no such table; no column names a file or model that was found; a column has a name of the format's own.
    """
    frame = _frame(path)
    frame.columns = [str(name).strip() for name in frame.columns]
    if twice := sorted({name for name in frame.columns if list(frame.columns).count(name) > 1}):
        raise InputError(f"{path} has two columns {shortened(twice[0])}; rename one of them")
    key = _key(path, frame, knows)
    own = [name for name in frame.columns if name not in (key, *LINEAGE, *ALL_FACTORS, *RESULTS)]
    for name in own:
        if name in COLUMNS:
            raise InputError(f"{path} has a column {name!r}, which is one of the format's own; rename it")
        if not is_own(name):
            report(LeftOut(f"{path.name}, column {shortened(name)}", "a name of a column is one line of 1 to 200 characters"))
    own = [name for name in own if is_own(name)]
    kinds = {name: _kind(frame[name]) for name in own}
    for name in [name for name in own if kinds[name] is None]:
        report(LeftOut(f"{path.name}, column {shortened(name)}", "it holds lists or objects, not one number or text a cell"))
    rows = []
    cells = {name: frame[name].tolist() for name in frame.columns}
    for number in range(len(frame)):
        values = {name: column[number] for name, column in cells.items() if not _is_missing(column[number])}
        if key not in values:
            report(LeftOut(f"{path.name}, row {number + 1}", f"its {key} is empty"))
            continue
        row = Row(str(values[key]), number + 1)

        def odd(name: str, value: Any, reason: str, row: Row = row) -> None:
            report(LeftOut(f"{path.name}, row {row.number} ({shortened(row.key)})", f"{name} is {shortened(str(value))}, {reason}"))

        for name, value in values.items():
            if name == key:
                continue
            if name in LINEAGE:
                row.lineage[name] = value if name != "epoch" else _epoch(value, odd)
            elif name in RESULTS:
                row.results |= result_of(name, value, odd)
            elif name in ALL_FACTORS:
                row.factors |= factor_of(name, value, odd)
            elif name in kinds and (kind := kinds[name]) is not None:
                row.columns |= _own(name, value, kind, odd)
        rows.append(row)
    return rows


def _frame(path: Path) -> pd.DataFrame:
    if size_of(path, advice="name a table", missing=f"there is no table {path.absolute()}") > LIMIT:
        raise InputError(f"{path} has more than {LIMIT:,} bytes, which no table of models has")
    try:
        match path.suffix.lower():
            case ".parquet" | ".pq":
                return pq.read_table(path).replace_schema_metadata().to_pandas()
            case ".jsonl" | ".ndjson" | ".json":
                lines = path.read_text(encoding="utf-8").splitlines()
                return pd.DataFrame([_object(line, number) for number, line in enumerate(lines, start=1) if line.strip()])
            case ".csv" | ".tsv" | ".txt":
                return pd.read_csv(
                    path, sep="\t" if path.suffix.lower() == ".tsv" else ",", skipinitialspace=True, dtype=_texts(path)
                )
    except (OSError, pa.ArrowException, ValueError, TypeError, RecursionError, pd.errors.ParserError) as error:
        raise InputError(f"{path} is no table that can be read ({str(error).partition(chr(10))[0]}); mend it") from error
    raise InputError(f"{path} is of no known kind; a table of metrics ends in .csv, .tsv, .parquet or .jsonl")


def _texts(path: Path) -> dict[str, type]:
    """Columns of a CSV that are texts, whatever they look like: a model may be called 007."""
    return dict.fromkeys((*KEYS, "root", "parent"), str)


def _object(line: str, number: int) -> dict[str, Any]:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError(f"line {number} is no object; a table is one JSON object a line")
    return found


def _key(path: Path, frame: pd.DataFrame, knows: Callable[[str], bool]) -> str:
    """Returns the column that names files or models: of `KEYS`, the first whose texts name the most that was found."""
    there = [name for name in KEYS if name in frame.columns]
    if not there:
        raise InputError(f"{path} has none of the columns {', '.join(KEYS)}, one of which names the file or model of each row")
    counts = {name: sum(knows(str(value)) for value in frame[name].tolist() if not _is_missing(value)) for name in there}
    best = max(there, key=lambda name: counts[name])
    if not counts[best]:
        example = next((str(value) for value in frame[best].tolist() if not _is_missing(value)), "")
        raise InputError(
            f"no {best} of {path} is a file or model of the folder ({shortened(example)}, for one); mend the column {best!r}"
        )
    return best


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and math.isnan(value)) or value == ""


def _kind(column: pd.Series) -> type | None:
    """The type of a column of one's own: numbers where all cells are, texts elsewhere, None for lists and objects."""
    cells = [value for value in column.tolist() if not _is_missing(value)]
    if any(
        isinstance(value, list | tuple | dict | set | bytes) or (hasattr(value, "__array__") and getattr(value, "ndim", 0))
        for value in cells
    ):
        return None
    return float if all(isinstance(value, int | float) and not isinstance(value, bool) for value in cells) else str


def _epoch(value: Any, odd: Callable[[str, Any, str], None]) -> int | None:
    number = _number(value)
    if number is None or number != int(number) or not 0 <= number < 1e6:
        odd("epoch", value, "no whole number")
        return None
    return int(number)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and not isinstance(value, bool) else None


def result_of(name: str, value: Any, odd: Callable[[str, Any, str], None]) -> dict[str, float]:
    """Returns a result that the format knows, by its name; nothing for a value that is none, of which `odd` is told."""
    number = _number(value)
    if number is None:
        odd(name, value, "no finite number")
    elif name.endswith("_accuracy") and not 0 <= number <= 1:
        odd(name, value, "not in [0, 1]; accuracies are shares, no percentages")
    else:
        return {name: number}
    return {}


def factor_of(name: str, value: Any, odd: Callable[[str, Any, str], None]) -> dict[str, Any]:
    """Returns a generating factor that the format knows, by its name; nothing for a value that is none, of which `odd` is told."""
    if name == "pretraining" or name in CHOICES:
        return {name: str(value)}
    number = _number(value)
    told: int | float | None = int(number) if number is not None and name in _WHOLE and number == int(number) else number
    meaning, fits = RANGES[name]
    if told is None or not fits(told):
        odd(name, value, f"not {meaning}" if told is not None else "no finite number")
        return {}
    return {name: told}


def _own(name: str, value: Any, kind: type, odd: Callable[[str, Any, str], None]) -> dict[str, float | str]:
    if kind is float:
        if not math.isfinite(value):
            odd(name, value, "no finite number")
            return {}
        return {name: float(value)}
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return {name: text}
