"""Checkpoints that are rows of one matrix, as in the Small CNN Zoo (Unterthiner et al., 2002.11448).

`weights.npy` has a row per checkpoint, and `layout.csv` beside it says which columns are which variable of TensorFlow (columns
`varname`, `start_idx`, `end_idx`, `shape`). A place `weights.npy/12` names row 12. Layers are called `layers.0`, `layers.1`, ... in
their order. Axes are brought into PyTorch's order: kernels of convolutions (rows, columns, in, out) -> (out, in, rows, columns), of
dense layers (in, out) -> (out, in).
"""

import ast
import csv
import functools
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo_gen.errors import InputError
from zoo_gen.reader import read_text, shortened
from zoo_gen.wording import counted

WEIGHTS, LAYOUT = "weights.npy", "layout.csv"
_KINDS = {
    "kernel": "weight", "bias": "bias",
    "gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var",
}  # fmt: skip
_ADVICE = "fetch the zoo again"


class Variable(NamedTuple):
    """A variable of TensorFlow: its name in PyTorch, its columns, and its shape in TensorFlow."""

    name: str
    start: int
    stop: int
    shape: tuple[int, ...]


def is_row(place: Path) -> bool:
    """Whether a place names a row of a matrix of weights."""
    return place.parent.name == WEIGHTS and place.name.isascii() and place.name.isdigit() and place.parent.is_file()


def files_of_row(place: Path) -> list[Path]:
    """Returns the files that a row is read from."""
    return [place.parent, place.parent.with_name(LAYOUT)]


def read_row(place: Path) -> dict[str, Tensor]:
    """Reads one row, without the others. Raises `InputError` if there is none, or its files are damaged."""
    matrix, variables = _opened(place.parent, *(_stamp(file) for file in files_of_row(place)))
    if int(place.name) >= len(matrix):
        raise InputError(f"{place.parent} has {counted(len(matrix), 'row')}, and no row {place.name}")
    row = torch.from_numpy(np.array(matrix[int(place.name)]))
    return {one.name: _in_order(row[one.start : one.stop].view(one.shape)) for one in variables}


def matrix_of(path: Path) -> np.ndarray:
    """Returns the matrix of weights (N, F) as a view of its file. Raises `InputError` if it or its layout is damaged."""
    return _opened(path, *(_stamp(file) for file in files_of_row(path / "0")))[0]


def _in_order(tensor: Tensor) -> Tensor:
    if tensor.ndim == 4:
        return tensor.permute(3, 2, 0, 1).contiguous()
    return tensor.mT.contiguous() if tensor.ndim == 2 else tensor


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError as error:
        raise InputError(f"{file} is missing; {_ADVICE}") from error
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=16)
def _opened(path: Path, *stamps: tuple[int, int]) -> tuple[np.ndarray, tuple[Variable, ...]]:
    """Opens a matrix and reads its layout, once for each state of the files."""
    try:
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path} is no matrix of numbers ({str(error).partition(chr(10))[0]}); {_ADVICE}") from error
    if matrix.ndim != 2 or matrix.dtype not in (np.float16, np.float32, np.float64):
        raise InputError(
            f"{path} is of shape {matrix.shape} and type {matrix.dtype}, no matrix with one checkpoint a row; {_ADVICE}"
        )
    variables = _variables(path.with_name(LAYOUT))
    if (last := max(one.stop for one in variables)) != matrix.shape[1]:
        raise InputError(f"{path} has {counted(matrix.shape[1], 'column')}, and {LAYOUT} names {last}; {_ADVICE}")
    return matrix, variables


def _variables(path: Path) -> tuple[Variable, ...]:
    layers: dict[str, int] = {}
    found: list[Variable] = []
    lines = list(csv.DictReader(read_text(path, advice=_ADVICE).splitlines()))
    for number, line in enumerate(lines, start=1):
        name, shape = line.get("varname") or "", _shape(line.get("shape") or "")
        layer, _, kind = re.sub(r":\d+$", "", name).rpartition("/")
        start, stop = (int(text) if (text := line.get(key) or "").isdigit() else -1 for key in ("start_idx", "end_idx"))
        before = found[-1].stop if found else 0
        if kind not in _KINDS or shape is None or start != before or stop - start != math.prod(shape):
            raise InputError(
                f"{path}, line {number + 1} ({shortened(name)}) is no variable: it needs varname (/{', /'.join(_KINDS)}), "
                f"start_idx (here {before}), end_idx, and a shape of as many numbers; {_ADVICE}"
            )
        found.append(Variable(f"layers.{layers.setdefault(layer, len(layers))}.{_KINDS[kind]}", start, stop, shape))
    if not found or len({one.name for one in found}) < len(found):
        raise InputError(f"{path} names {'no variable' if not found else 'a variable twice'}; {_ADVICE}")
    return tuple(found)


def _shape(text: str) -> tuple[int, ...] | None:
    """Reads a shape, `(3, 3, 1, 16)`, as a literal; None for anything else."""
    try:
        literal = ast.literal_eval(text) if len(text) < 100 else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    shape: tuple[object, ...] = tuple(literal) if isinstance(literal, tuple | list) else (literal,)
    sizes = tuple(size for size in shape if isinstance(size, int) and not isinstance(size, bool) and 0 < size < 10**6)
    return sizes if sizes and sizes == shape else None
