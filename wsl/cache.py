"""Features on disk, found by what they were made of: the content of the zoo, the settings, and the code that makes them."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy

from zoo_gen import Zoo
from zoo_gen.files import write_atomically

FOLDER = Path("checkpoints", "features")
_WSL = Path(__file__).parent
_CODE = ("features/*.py", "stacks.py", "invariants.py", "answers.py", "paces.py", "layout.py", "table.py", "architectures/*.py")


def cached(
    extractor: object,
    checkpoints: Zoo,
    compute: Callable[[], pd.DataFrame],
    *,
    state: Sequence[str] = (),
    code: Sequence[str] = _CODE,
) -> pd.DataFrame:
    """Returns the features of checkpoints from the cache, or computes and keeps them.

    Args:
        extractor: whose class and attributes tell one kind of features from another.
        checkpoints: in the order of the rows.
        compute: makes the table: float columns, one row per checkpoint.
        state: hashes of whatever else the features depend on, such as the files of a run.
        code: patterns of the files of this package that make the features; a change in one of them makes them anew.
    """
    about = [type(extractor).__qualname__, json.dumps(vars(extractor), sort_keys=True, default=repr), *state]
    content = [checkpoints.content_hash, *checkpoints.frame["weights_sha256"], *map(str, checkpoints.frame["epoch"])]
    key = hashlib.sha256("\n".join([*about, _code(tuple(code)), *content]).encode()).hexdigest()
    path = FOLDER / f"{key[:32]}.safetensors"
    found = _read(path)
    if found is None:
        found = compute().astype(np.float64)
        values = np.ascontiguousarray(found.to_numpy())
        about = {"columns": json.dumps(list(map(str, found.columns))), "features": type(extractor).__qualname__}
        data = safetensors.numpy.save({"values": values}, metadata=about)
        write_atomically(path, lambda beside: _write(beside, data))
    return found


def everything() -> tuple[str, ...]:
    """Returns the pattern of all code, on which the features of a run depend."""
    return ("**/*.py",)


def _read(path: Path) -> pd.DataFrame | None:
    """Returns a stored table; None if there is none, or one that is damaged."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return pd.DataFrame(file.get_tensor("values"), columns=json.loads(file.metadata()["columns"]))
    except (OSError, safetensors.SafetensorError, KeyError, ValueError):
        return None


def _write(path: Path, data: bytes) -> Any:
    path.write_bytes(data)


@cache
def _code(patterns: tuple[str, ...]) -> str:
    files = sorted({path for pattern in patterns for path in _WSL.glob(pattern)})
    return hashlib.sha256(b"\n".join(path.read_bytes() for path in files)).hexdigest()
