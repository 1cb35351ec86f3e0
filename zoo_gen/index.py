"""The records of a zoo's models (JSON), and its index (Parquet), which is made of them: one row per checkpoint.

Parquet is compressed, so a small file can say that it is large. The index is measured before it is read: its rows are counted
against the file's size, and its texts by their dictionaries, which hold each one once.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.compute import call_function

from zoo_gen.errors import InputError
from zoo_gen.parquet_footer import SNAPPY, UNCOMPRESSED, codecs_of
from zoo_gen.reader import ZOO_ADVICE, inside, read_json, shortened, size_of
from zoo_gen.recipe import FACTORS
from zoo_gen.wording import counted

RESULTS = (
    *(f"{split}_{what}" for what in ("loss", "accuracy") for split in ("train", "val", "test")),
    "loss_gap",
    "accuracy_gap",
)
"""What is measured of a checkpoint."""

_MODEL = {
    **dict.fromkeys(("model", "stage"), (str,)),
    **dict.fromkeys(("fold", "diverged_epoch"), (int, type(None))),
    **dict.fromkeys(("root", "parent"), (str, type(None))),
    "factors": (dict,),
    "checkpoints": (list,),
}
_CHECKPOINT = {"epoch": (int,), "final": (bool,), "path": (str,), "sha256": (str,), "weights_sha256": (str,), "results": (dict,)}
_RESULT = dict.fromkeys(RESULTS, (int, float, type(None)))
_WHOLE = 2**53
"""Larger numbers are none that a zoo holds, and columns of the index could not take them."""

IDENTITY = ("model", "root", "parent", "stage", "epoch", "final", "status", "diverged_epoch", "fold")
ALL_FACTORS = ("pretraining", *FACTORS)
FILES = ("path", "sha256", "weights_sha256")
CONFIG = "config_sha256"
"""The hash of what a model's config.json says; zoos of format 1 have none."""
COLUMNS = (*IDENTITY, *ALL_FACTORS, *RESULTS, *FILES, CONFIG)
OWN = "columns"
"""The key of a record, and of a checkpoint in it, under which an adopted zoo has columns of its own: numbers or texts."""

_TEXTS = ("model", "root", "parent", "stage", "status", *FILES, CONFIG)
_NUMBERS = ("epoch", "diverged_epoch", "fold", *RESULTS)
_ALWAYS = ("model", "stage", "epoch", "final", "status", *FILES)
_LIMIT = 256 * 2**20
_OWN, _NAME = 1000, 200
"""Columns of its own that a zoo may have, and characters of the name of one."""
_ROWS, _CHARACTERS = 200_000, 64 * 2**20
"""Rows, and bytes of texts, that any index may have: what repeats takes no room in a file."""
_ROW = 8
"""Bytes that a row takes at the very least: its path, if nothing else, is its own (83 bytes in the zoo `digits`)."""
_GROWTH = 64
"""How many times its size a file can grow to; snappy reaches 22."""


def record_path(zoo: Path, model: object) -> Path:
    """Returns the place of a model's record. Raises `InputError` for a name that leads out of the zoo."""
    return inside(zoo, f"models/{model}/record.json" if isinstance(model, str) else model)


def read_record(zoo: Path, model: object) -> dict[str, Any]:
    """Reads a model's record. Raises `InputError` if it is missing, damaged or of another model, or has values of wrong types."""
    path = record_path(zoo, model)
    record = read_json(path)
    expect(record, _MODEL | ({CONFIG: (str,)} if CONFIG in record else {}), path)
    if record["model"] != model:
        raise InputError(f"{path} is damaged (it is of another model, {shortened(record['model'])}); {ZOO_ADVICE}")
    expect(record["factors"], dict.fromkeys(record["factors"], (str, int, float, bool, type(None))), path)
    _expect_own(record, path)
    for checkpoint in record["checkpoints"]:
        expect(checkpoint, _CHECKPOINT, path)
        expect(checkpoint["results"], _RESULT, path)
        _expect_own(checkpoint, path)
    return record


def _expect_own(entry: Mapping[str, Any], where: Path) -> None:
    """Raises `InputError` unless the columns of its own that a record, or a checkpoint in it, may have are numbers and texts."""
    own = entry.get(OWN, {})
    if not isinstance(own, dict) or not all(is_own(name) for name in own):
        raise InputError(f"{where} is damaged ('{OWN}' has names that no column of one's own has); {ZOO_ADVICE}")
    expect(own, dict.fromkeys(own, (str, int, float, type(None))), where)


def is_own(name: object) -> bool:
    """Whether a column of one's own may have a name: a text of one line, and none of `COLUMNS`."""
    return isinstance(name, str) and name not in COLUMNS and 0 < len(name) <= _NAME and name.isprintable()


def own_columns(frame: pd.DataFrame) -> list[str]:
    """Returns the names of the columns that an adopted zoo has of its own, in their order."""
    return [name for name in map(str, frame.columns) if name not in COLUMNS]


def rows_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of the index that a record makes, one per checkpoint."""
    of_model = {key: record[key] for key in ("model", "root", "parent", "stage", "fold", "diverged_epoch")}
    of_model |= {"status": "ok" if record["diverged_epoch"] is None else "diverged", CONFIG: record.get(CONFIG)}
    of_model |= {name: record["factors"].get(name) for name in ALL_FACTORS}
    of_checkpoint = ("epoch", "final", *FILES)
    return [
        of_model
        | {key: row[key] for key in of_checkpoint}
        | {key: row["results"][key] for key in RESULTS}
        | record.get(OWN, {})
        | row.get(OWN, {})
        for row in record["checkpoints"]
    ]


def plain(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Returns the columns of a frame as lists of Python's own values, None where there is none."""
    pairs = {str(name): zip(column.tolist(), column.isna().tolist(), strict=True) for name, column in frame.items()}
    return {name: [None if gone else value for value, gone in found] for name, found in pairs.items()}


def expect(values: object, kinds: dict[str, tuple[type, ...]], where: Path) -> None:
    """Raises `InputError` unless `values` is a JSON object that has every key of `kinds`, with a value of one of its types."""
    if not isinstance(values, dict):
        raise InputError(f"{where} is damaged ({shortened(values)} where an object should be); {ZOO_ADVICE}")
    for key, allowed in kinds.items():
        if key not in values:
            raise InputError(f"{where} is damaged ({shortened(key)} is missing); {ZOO_ADVICE}")
        value = values[key]
        fits = isinstance(value, allowed) and (bool in allowed or not isinstance(value, bool))
        if not fits or (isinstance(value, int) and abs(value) > _WHOLE):
            raise InputError(
                f"{where} is damaged ({shortened(key)} is {shortened(value) if isinstance(value, str) else type(value).__name__}, "
                f"not {' or '.join(kind.__name__ for kind in allowed)}); {ZOO_ADVICE}"
            )


def read_index(path: Path, folder: Path, *, adopted: bool) -> pd.DataFrame:
    """Reads the index at `path` of the zoo in `folder`; columns of factors that are younger than the zoo are empty.

    In an adopted zoo, roots may be unknown, and its own columns follow those of the format.

    Raises `InputError` for an index that is damaged, says absurd things of itself, lacks columns, or has values of wrong types.
    """
    advice = f"rebuild it with: python -m zoo_gen.verify {folder} --repair"
    size = size_of(path, advice=advice)
    try:
        return _read(path, size, adopted)
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError, OverflowError) as error:
        summary = str(error).partition("\n")[0]
        raise InputError(f"{path} is damaged ({summary}); {advice}") from error


def _read(path: Path, size: int, adopted: bool) -> pd.DataFrame:
    if size > _LIMIT:
        raise ValueError(f"an index of {size:,} bytes")
    if odd := codecs_of(path) - {UNCOMPRESSED, SNAPPY}:
        raise ValueError(f"compressed by codec {min(odd)}, not by snappy")
    with pq.ParquetFile(path) as file:
        described, types = file.metadata, {field.name: field.type for field in file.schema_arrow}
        chunks = [
            described.row_group(group).column(column)
            for group in range(described.num_row_groups)
            for column in range(described.num_columns)
        ]
        grown = sum(max(0, chunk.total_uncompressed_size) for chunk in chunks)
        if described.num_rows > max(size // _ROW, _ROWS) or grown > max(size * _GROWTH, _CHARACTERS):
            raise ValueError(f"{described.num_rows:,} rows of {grown:,} bytes in a file of {size:,}")
    missing = [column for column in COLUMNS if column not in types and column not in (*ALL_FACTORS, CONFIG)]
    if missing:
        raise InputError(f"{path} lacks the columns {missing}; it was not made by python -m zoo_gen")
    own = [name for name in types if adopted and name not in COLUMNS]
    if len(own) > _OWN or not all(map(is_own, own)):
        raise ValueError(f"{counted(len(own), 'column')} of its own, or names that none of these has")
    known = {name: types[name] for name in (*COLUMNS, *own) if name in types}
    always = _ALWAYS if adopted else (*_ALWAYS, "root")
    for name, kind in known.items():
        if not _fits(name, kind, always):
            raise ValueError(f"column {shortened(name)} is of type {shortened(str(kind))}")
    texts = [name for name, kind in known.items() if _is_text(kind)]
    table = pq.read_table(path, columns=list(known), read_dictionary=texts).replace_schema_metadata()
    if sum(_characters(table[name]) for name in texts) > max(size * _GROWTH, _CHARACTERS):
        raise ValueError(f"its texts are far longer than the file of {size:,} bytes")
    for name in always:
        if table[name].null_count:
            raise ValueError(f"column '{name}' has empty cells")
    plain = pa.table({name: table[name].cast(pa.string()) if name in texts else table[name] for name in known})
    plain.validate(full=True)  # texts are UTF-8
    young = [name for name in COLUMNS if name not in known]
    frame = plain.to_pandas().reindex(columns=[*(name for name in known if name not in own), *young, *own])
    numbers = [*RESULTS, *(name for name in own if name not in texts)]
    kinds = {"epoch": "int64", "final": "bool", "fold": "Int64", "diverged_epoch": "Int64", **dict.fromkeys(numbers, "float64")}
    found = frame.dtypes.to_dict()
    for name in (name for name, kind in kinds.items() if found[name] != kind):
        frame[name] = frame[name].astype(kinds[name])
    return frame.assign(**dict.fromkeys(name for name in (*ALL_FACTORS, CONFIG) if name not in known))


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(value) or pa.types.is_large_string(value)


def _fits(name: str, kind: pa.DataType, always: Sequence[str]) -> bool:
    """Whether a column may have a type; an empty column has none, a factor any of one value per cell."""
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if pa.types.is_null(kind):
        return name not in always
    if name in _TEXTS:
        return _is_text(kind)
    if name in _NUMBERS:
        return number
    if name not in COLUMNS:
        return number or _is_text(kind)
    return pa.types.is_boolean(kind) or (name != "final" and (number or _is_text(kind)))


def _characters(column: pa.ChunkedArray) -> int:
    """Bytes of a column of texts, each counted wherever it occurs, without writing them out."""
    total = 0
    for chunk in column.chunks:
        lengths = call_function("binary_length", [chunk.dictionary]).take(chunk.indices)
        total += call_function("sum", [lengths.cast(pa.int64())]).as_py() or 0
    return total
