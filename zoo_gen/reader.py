"""Reading files that anybody may have written: a zoo, a run or a checkpoint can come from anywhere.

Nothing that is read is ever executed. A file is checked before it is believed: reading takes no more memory than the file's own
size and a constant (what `LIMIT` bytes of names and numbers come to).
"""

import json
import math
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from zoo_gen.errors import InputError, printable, refuse_bytes
from zoo_gen.remote import begun, fetch, fill

LIMIT = 8 * 2**20
"""Bytes of a JSON file, or of the part of a file of weights that describes its tensors: some 50,000 tensors."""

ITEMS = 1_000_000
"""Values in a JSON file."""

TENSORS = 50_000
"""Tensors in a file of weights."""

WEIGHTS_ADVICE = "delete it, then run python -m zoo_gen with the zoo's arguments: it makes the file again"
"""What to do about a damaged checkpoint of a zoo."""

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""Types of tensors by their names in safetensors files."""

ZOO_ADVICE = "restore it, or make the zoo again with python -m zoo_gen"


class StoredTensor(NamedTuple):
    """A tensor in a safetensors file: its type and shape, and the bytes of the file that it lies in."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    stop: int


def inside(folder: Path, name: object, *, also: Sequence[Path] = ()) -> Path:
    """Returns the place of a file that foreign data names, relative to the folder that it must be in, symbolic links followed.

    Raises `InputError` for what is no path, or one that leads out of the folder (and of all in `also`) by `..`, as an absolute path
    or by a link.
    """
    try:
        if not isinstance(name, str):
            raise TypeError("not a text")
        if len(os.fsencode(name)) > 1000 or any(len(os.fsencode(part)) > 255 for part in Path(name).parts):
            raise ValueError("too long")
        found = (folder / name).resolve()
        named_inside = Path(os.path.normpath(folder / name)).is_relative_to(os.path.normpath(folder))
        is_inside = any(found.is_relative_to(home.resolve()) for home in (folder, *also))
    except (TypeError, ValueError, OSError, RuntimeError) as error:  # null bytes, lone surrogates, endless names, loops of links
        raise InputError(f"{folder} names a file {shortened(name)}, which is no path ({error}); do not use it") from error
    if not (named_inside and is_inside):
        raise InputError(f"{folder} names a file that lies outside of it: {shortened(name)}; do not use it")
    return found


class Places:
    """What `inside` returns for many files of one folder; each folder on their way is looked at once."""

    def __init__(self, folder: Path):
        self.folder, self.base = folder, str(folder.resolve())
        self._odd: dict[str, frozenset[str] | None] = {}

    def __call__(self, name: object) -> Path:
        """Returns the place of a file. Raises `InputError` as `inside` does."""
        if not isinstance(name, str) or len(name) > 200 or not (name.isascii() and name.isprintable()) or name[:1] == "/":
            return inside(self.folder, name)
        return Path(f"{self.base}/{name}") if self._is_plain(name) else inside(self.folder, name)

    def _is_plain(self, name: str) -> bool:
        """Whether a path has neither links nor `.`, `..` or empty parts."""
        parent, slash, last = name.rpartition("/")
        if parent not in self._odd:
            is_plain = not slash or self._is_plain(parent)
            self._odd[parent] = frozenset(["", ".", "..", *_links_in(f"{self.base}/{parent}")]) if is_plain else None
        odd = self._odd[parent]
        return odd is not None and last not in odd


def _links_in(folder: str) -> list[str]:
    """Returns the names of symbolic links in a folder; none of one that is not there."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_symlink()]
    except OSError:
        return []


def shortened(value: object) -> str:
    """Returns what a message shows of foreign data."""
    shown = ascii(value[:80]) if isinstance(value, str) else f"({type(value).__name__})"
    return f"{shown}..." if isinstance(value, str) and len(value) > 80 else shown


def size_of(path: Path, *, advice: str, missing: str | None = None) -> int:
    """Returns the size of a file. Raises `InputError` if it is missing or no regular file (a pipe would never end)."""
    refuse_bytes(path)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        if fetch(path):  # it lies on a server
            return size_of(path, advice=advice, missing=missing)
        raise InputError(missing or f"{path} is missing; {advice}") from error
    except (OSError, ValueError) as error:  # a name too long, no permission, a loop of links
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{printable(str(path), limit=200)} cannot be read ({reason}); {advice}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is no file; {advice}")
    return status.st_size


def read_text(path: Path, *, advice: str = ZOO_ADVICE, limit: int = LIMIT) -> str:
    """Reads a small text file. Raises `InputError` if it is missing, damaged or too large to be what it should be."""
    size = size_of(path, advice=advice)
    if size > limit:
        raise InputError(f"{path} has {size:,} bytes, more than the {limit:,} that such a file may have; {advice}")
    try:
        with path.open("rb") as file:
            return file.read(limit).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}); {advice}") from error


def read_json(path: Path, *, advice: str = ZOO_ADVICE) -> dict[str, Any]:
    """Reads a JSON object. Raises `InputError` if the file is missing, is none, or holds NaN or infinities, which JSON has not."""
    text = read_text(path, advice=advice)
    if sum(map(text.count, ",[{")) > ITEMS:
        raise InputError(f"{path} holds more than {ITEMS:,} values; {advice}")
    try:
        found = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged ({error}); {advice}") from error
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged (not a JSON object); {advice}")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def read_weights(path: Path, *, advice: str = WEIGHTS_ADVICE) -> dict[str, Tensor]:
    """Reads a safetensors file, mapped into memory. Raises `InputError` if it is missing or damaged; nothing is ever unpickled."""
    with _weights_read(path, advice):
        _header(path, advice)
        return safetensors.torch.load_file(path)


def tensors_in(path: Path, *, advice: str = WEIGHTS_ADVICE) -> dict[str, StoredTensor]:
    """Returns where the tensors of a safetensors file lie, and reads none of them. Raises `InputError` as `read_weights`."""
    with _weights_read(path, advice):
        header = _header(path, advice)
        with safetensors.safe_open(path, framework="np"):  # checks offsets, shapes and sizes
            pass
        found = {}
        for name, entry in json.loads(header).items():
            if name != "__metadata__":
                start, stop = entry["data_offsets"]
                dtype, at = DTYPES[entry["dtype"]], 8 + len(header)
                found[name] = StoredTensor(dtype, tuple(entry["shape"]), at + start, at + stop)
        return found


def read_tensors(path: Path, names: Sequence[str], *, advice: str = WEIGHTS_ADVICE) -> dict[str, Tensor]:
    """Reads some tensors of a safetensors file; of one on a server, no bytes but theirs and those of the header.

    Raises `InputError` as `read_weights`, and for a name that the file does not have.
    """
    place = begun(path)
    there = tensors_in(place or path, advice=advice)
    if odd := [name for name in names if name not in there]:
        some = ", ".join(map(shortened, list(there)[:5]))
        raise InputError(f"checkpoint {path} has no tensor {shortened(odd[0])}; it has {some} ...")
    if place is not None:
        fill(path, {name: (there[name].start, there[name].stop) for name in names})
    with _weights_read(path, advice), safetensors.safe_open(place or path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in names}


def metadata_of(path: Path, *, advice: str = "fetch it again") -> dict[str, str]:
    """Returns the texts that the header of a safetensors file has beside its tensors. Raises `InputError` as `read_weights`."""
    with _weights_read(path, advice):
        found = json.loads(_header(path, advice)).get("__metadata__") or {}
        return {str(name): text for name, text in found.items() if isinstance(text, str)}


@contextmanager
def _weights_read(path: Path, advice: str) -> Iterator[None]:
    """Turns what can go wrong with a safetensors file into one `InputError`."""
    try:
        yield
    except KeyError as error:  # of a type that safetensors has, and `DTYPES` has not
        raise InputError(f"checkpoint {path} has tensors of the unsupported type {error}; convert or remove them") from error
    except (safetensors.SafetensorError, OSError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise InputError(f"checkpoint {path} is damaged or no safetensors file ({error}); {advice}") from error


def _header(path: Path, advice: str) -> bytes:
    """Reads the part of a safetensors file that describes its tensors."""
    gone = f"checkpoint {path} is gone; restore it, or make it again: python -m zoo_gen with the zoo's arguments"
    size = size_of(path, advice=advice, missing=gone if advice == WEIGHTS_ADVICE else None)
    kind = what_it_is(path)
    with path.open("rb") as file:
        start = file.read(9)
        header = int.from_bytes(start[:8], "little")
        if len(start) < 9 or header > size - 8 or start[8:] != b"{":
            is_other = kind is not None and kind != "safetensors"
            raise ValueError(f"it is {kind}; nothing in it was executed" if is_other else "it does not begin with a header")
        if header > LIMIT:
            raise ValueError(f"its header of {header:,} bytes is larger than any checkpoint's")
        found = start[8:] + file.read(header - 1)
    if found.count(b"dtype") > TENSORS:
        raise ValueError(f"it names more than {TENSORS:,} tensors")
    return found


def what_it_is(path: Path) -> str | None:
    """Returns what the first bytes of a file say that it is: "safetensors", "a zip file", "a pickle", or what people get instead.

    Raises `InputError` if it cannot be read; returns None for what is none of these.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LIMIT:
        return "safetensors"
    if start.startswith(b"PK"):
        return "a zip file"
    if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "a pickle"
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, a text in place of the file; run git lfs pull where it was cloned"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "a web page saved under the file's name; look at what it says"
    return None
