"""Files that appear whole or not at all, and locks that die with their process."""

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from zoo_gen.errors import InputError, printable


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a file beside `path` and moves it there; a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")  # two machines may have a process of a number
    beside.unlink(missing_ok=True)  # a link that somebody put there would be followed
    try:
        with named_errors(path):
            write(beside)
            os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)  # it is still there only if the write failed


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """A context in which the errors of the file system name the file that is written, also those that libraries give other types.

    Raises `OSError`: of a full disk, Python says no file, and safetensors says `(os error 28)` in an error of its own.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise
    except safetensors.SafetensorError as error:
        if number := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error
        raise


def remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left beside their files; only for the holder of the folder's lock."""
    for leftover in folder.rglob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically; NaN is refused, since JSON has none."""
    write_text(path, as_json(content))


def as_json(content: Any) -> str:
    """Returns JSON as it is written to files."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Writes text as UTF-8, atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes bytes atomically."""
    write_atomically(path, lambda beside: beside.write_bytes(content))


def saved(path: Path, content: bytes | str) -> bool:
    """Writes what saves time or keeps an answer that is given anyway, atomically; one line says it where that is not possible.

    Returns whether it was written. A read-only folder, missing permissions and a full disk are no errors here.
    """
    try:
        write_bytes(path, content.encode("utf-8") if isinstance(content, str) else content)
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"could not save {printable(str(path))} ({error.strerror}); nothing else is missing", file=sys.stderr)
        return False
    return True


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Writes tensors as safetensors, atomically. A full disk raises `OSError`, as it does for every other file."""
    content = safetensors.torch.save({name: value.contiguous() for name, value in weights.items()}, metadata={"format": "pt"})
    write_bytes(path, content)


def json_sha256(content: Any) -> str:
    """Returns a sha256 of what JSON says, whatever the order of its keys and its spaces. Raises `InputError` if it is too deep."""
    try:
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    except RecursionError as error:
        raise InputError("a description is nested deeper than any that a zoo has; do not use it") from error


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def weights_sha256(weights: Mapping[str, Tensor]) -> str:
    """Returns a sha256 over names, dtypes, shapes and bits of tensors, whatever the file they lie in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
    return digest.hexdigest()


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds a lock file; the kernel drops it when the process dies, so none is ever stale.

    Raises `InputError` if another process holds it, or if it is a link, whose target would be overwritten.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        raise InputError(f"{path} is a symbolic link, which no lock is; delete it")
    with open(path, "a+", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o666)) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise InputError(
                f"{what} is being written by another process ({file.read().strip()}); wait for it, or stop it"
            ) from error
        file.truncate(0)
        file.write(f"pid {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield
