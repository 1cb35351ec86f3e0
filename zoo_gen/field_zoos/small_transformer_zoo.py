"""The Small Transformer Zoo of Transformer-NFN (Tran et al., Equivariant neural functional networks for transformers, 2410.04209).

`metadata/<dataset>.csv` has a row per checkpoint, whose `ckpt_file` names a file `<dataset>/<run>_<epoch>_<accuracy>.pt`, a state
dict. The accuracy in the name is that on the test set, times 10,000. The models have no residual connections.
"""

import io
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd

from zoo_gen.adoption.scan import Found, LeftOut, model_id
from zoo_gen.adoption.table import Row
from zoo_gen.errors import InputError
from zoo_gen.field_zoos.field_zoo import FieldZoo, Report, Track, row_of
from zoo_gen.reader import read_text

NEEDS = "it has no metadata/<name>.csv beside a folder <name> of files <run>_<epoch>_<accuracy>.pt"
NAMES = {"lr": "learning_rate", "train_fraction": "fraction", "test_top1_accuracy": "test_accuracy"}
_FILE = re.compile(r"([^_/]+)_([^_/]+)(?:_(\d{1,5}))?\.pt")
_PLACES = re.compile(r".*(path|wandb|workers|is_cuda|load_model|ckpt_file).*")
LIMIT = 2**28
"""Bytes of a table, at most."""


def is_one(folder: Path) -> bool:
    """Whether a table in `metadata` has a folder of its name beside it."""
    return bool(_tables(folder))


def _tables(folder: Path) -> list[Path]:
    there = sorted((folder / "metadata").glob("*.csv")) if (folder / "metadata").is_dir() else []
    return [table for table in there if any(_FILE.fullmatch(place.name) for place in (folder / table.stem).glob("*.pt"))]


def read(folder: Path, report: Report, track: Track) -> FieldZoo:
    """Reads the files of a zoo and its tables. Raises `InputError` if a table cannot be read."""
    found: list[Found] = []
    rows: dict[Path, list[Row]] = {}
    heads: dict[Path, int] = {}
    for table in _tables(folder):
        told = _told(table)
        for place in track(sorted((folder / table.stem).glob("*.pt")), "names"):
            name = place.relative_to(folder).as_posix()
            match = _FILE.fullmatch(place.name)
            if match is None:
                report(LeftOut(name, "its name is not <run>_<epoch>_<accuracy>.pt, so it is no checkpoint of this zoo"))
                continue
            epoch = int(match[2]) if re.fullmatch(r"\d{1,6}", match[2]) else None
            word = "" if epoch is not None else "best" if match[2].startswith("best") else "last"
            found.append(Found(place, name, model_id(f"{table.stem}--{match[1]}"), epoch, None, word, place.parent))
            line = told.get(name)
            if line is None:
                report(LeftOut(name, f"metadata/{table.name} has no row of it, so only its name tells of it"))
                line = {} if match[3] is None else {"test_accuracy": int(match[3]) / 10_000}
            rows[place] = [row_of(name, line, NAMES, report)]
            if isinstance(number := line.get("n_attention_heads"), int) and number > 0:
                heads[place] = number
        files = {one.name for one in found}
        for name in told.keys() - files:
            report(LeftOut(f"metadata/{table.name}", f"{name} is not there"))
    return FieldZoo(found, rows, heads)


def _told(table: Path) -> dict[str, dict[str, Any]]:
    """Returns the rows of a table by their files."""
    text = read_text(table, advice="fetch it again", limit=LIMIT)
    try:
        frame = pd.read_csv(io.StringIO(text), dtype={"ckpt_file": str, "ckpt_epoch": str})
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(f"{table} is no table that can be read ({str(error).partition(chr(10))[0]}); fetch it again") from error
    if "ckpt_file" not in frame.columns:
        raise InputError(f"{table} has no column 'ckpt_file', which names the file of each row; fetch it again")
    kept = [name for name in frame.columns if not _PLACES.fullmatch(name) and not name.startswith("Unnamed")]
    lines = frame[frame["ckpt_file"].notna()].to_dict("records")
    return {os.path.normpath(line["ckpt_file"]).replace("\\", "/"): {name: line[name] for name in kept} for line in lines}
