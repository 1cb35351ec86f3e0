"""The Small CNN Zoo (Unterthiner et al., Predicting neural network accuracy from weights, 2002.11448).

A folder per dataset holds `weights.npy`, `layout.csv` (`zoo_gen.formats.matrix_row`) and `metrics.csv.gz`, whose rows are those of
the matrix. `modeldir` tells the model and `step` the epoch, of 0 (initialization) to 86.
"""

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from zoo_gen.adoption.scan import Found
from zoo_gen.adoption.table import Row
from zoo_gen.errors import InputError
from zoo_gen.field_zoos.field_zoo import FieldZoo, Report, Track, counted_from_one, row_of
from zoo_gen.formats.matrix_row import LAYOUT, WEIGHTS, matrix_of
from zoo_gen.wording import counted

NEEDS = f"no folder in it has {WEIGHTS}, {LAYOUT} and metrics.csv.gz"
METRICS = ("metrics.csv.gz", "metrics.csv")
NAMES = {f"config.{name}": name for name in ("learning_rate", "optimizer", "dropout", "epochs")}
NAMES |= {"config.train_fraction": "fraction", "config.random_seed": "seed", "config.batchsize": "batch_size"}
LIMIT = 2**30
"""Bytes of the metrics, unpacked, at most."""


def is_one(folder: Path) -> bool:
    """Whether some folder in it has the three files."""
    return next(_parts(folder), None) is not None


def _parts(folder: Path) -> Iterator[Path]:
    for at, folders, files in os.walk(folder):
        folders.sort()
        if {WEIGHTS, LAYOUT} <= set(files) and set(METRICS) & set(files):
            yield Path(at)


def read(folder: Path, report: Report, track: Track) -> FieldZoo:
    """Reads the parts of a zoo. Raises `InputError` if one of them is damaged."""
    found: list[Found] = []
    rows: dict[Path, list[Row]] = {}
    for part in _parts(folder):
        table = _table(next(part / name for name in METRICS if (part / name).is_file()))
        matrix = matrix_of(part / WEIGHTS)
        if len(table) != len(matrix):
            raise InputError(
                f"{part} has {counted(len(matrix), 'row')} of weights, and {len(table)} of metrics; fetch the zoo again"
            )
        prefix = "" if part == folder else part.relative_to(folder).as_posix().replace("/", "--") + "--"
        models = {name: f"{prefix}run_{number:05d}" for number, name in enumerate(dict.fromkeys(table["modeldir"]))}
        of_models: dict[str, Row] = {}
        settings = [name for name in table.columns if name.startswith("config.")]
        own = [name for name in table.columns if name not in (*settings, "modeldir") and not name.startswith("Unnamed")]
        for number, line in enumerate(track(table.to_dict("records"), "metrics")):
            place, model = part / WEIGHTS / str(number), models[line["modeldir"]]
            name = place.relative_to(folder).as_posix()
            found.append(Found(place, name, model, int(line["step"]), None, "", part))
            if model not in of_models:
                of_models[model] = row_of(model, {key: line[key] for key in settings}, NAMES, report)
            rows[place] = [of_models[model], row_of(name, {key: line[key] for key in own}, NAMES, report)]
    return FieldZoo(counted_from_one(found, any(one.epoch == 0 for one in found)), rows)


def _table(path: Path) -> pd.DataFrame:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(LIMIT + 1)
        if len(content) > LIMIT:
            raise InputError(f"{path} has more than {LIMIT:,} bytes, which no metrics of this zoo have")
        table = pd.read_csv(io.BytesIO(content), dtype={"modeldir": str})
    except (OSError, EOFError, zlib.error, ValueError, pd.errors.ParserError) as error:
        raise InputError(
            f"{path} is no table that can be read ({str(error).partition(chr(10))[0]}); fetch the zoo again"
        ) from error
    if missing := [name for name in ("modeldir", "step") if name not in table.columns or table[name].isna().any()]:
        raise InputError(f"{path} has no column {missing[0]!r} with a value in each row, which tells models and epochs apart")
    steps = pd.to_numeric(table["step"], errors="coerce")
    if not ((steps >= 0) & (steps < 10**6) & (steps == steps.round())).all():
        raise InputError(f"{path} has a step that is no epoch (a whole number)")
    return table
