"""Zoos, runs and checkpoints on servers, by any URL that fsspec opens: `s3://`, `hf://`, `https://`, `memory://`.

What is needed is copied into a folder below `CACHE`, named by a hash of the URL and of what lies there: a zoo that changes gets
another folder. Of a zoo that is `zoo.json` and the index; a checkpoint follows when it is read, and is checked by its hash in the
index. A copied file appears whole or not at all.
"""

import functools
import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.progress import track

from zoo_gen.errors import InputError, printable
from zoo_gen.files import write_atomically, write_bytes, write_json
from zoo_gen.store import Store

CACHE = Path(os.environ.get("WSL_CACHE") or Path.home() / ".cache" / "vit-weight-space")
"""Where copies lie; nothing removes them but the user."""

LIMIT = 256 * 2**20
"""Bytes of a file that describes others."""

WORKERS = 8
"""Files that are copied at once."""

_ORIGIN, _PARTS = ".origin.json", ".parts"
_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".json")


def is_remote(place: object) -> bool:
    """Tells whether a place is a URL.

    >>> is_remote("s3://bucket/zoo"), is_remote("checkpoints/zoos/digits"), is_remote("C:/zoo")
    (True, False, False)
    """
    return isinstance(place, str) and re.match(r"[a-z][a-z0-9+.-]+://", place) is not None


def zoo_at(url: str) -> Path:
    """Returns the folder of a copy of the zoo at a URL, which has its zoo.json and index, and gets checkpoints when they are read.

    Raises `InputError` if there is no zoo, or if it cannot be read.
    """
    store = Store(url)
    if not store.has("zoo.json"):
        raise InputError(f"there is no zoo at {store.url} (no zoo.json)")
    begin = {name: store.read(name, limit=LIMIT) for name in ("zoo.json", "index.parquet")}
    folder = _folder(store.url, *begin.values())
    for name, content in begin.items():
        if not (folder / name).is_file():
            write_bytes(folder / name, content)
    write_json(folder / _ORIGIN, {"url": store.url})
    return folder


def copy_of(url: str, *, header: bool = False) -> Path:
    """Returns the copy of whatever lies at a URL: a file, a zoo, or a folder with all that is in it, such as a run.

    Args:
        url: of the file or folder.
        header: whether names and shapes of tensors are enough; the values in the copy of a safetensors file are then zeros.

    Raises `InputError` if there is nothing, or if it cannot be read.
    """
    store = Store(url)
    if header and not store.url.endswith(_FILES) and store.has("model.safetensors"):
        return copy_of(f"{store.url}/model.safetensors", header=True)
    if store.url.endswith(_FILES):
        parent, _, name = store.url.rpartition("/")
        folder = _folder(parent, _told(store.info()))
        write_json(folder / _ORIGIN, {"url": parent})
        place = folder / name
        if header and name.endswith(".safetensors"):
            return begun(place) or place
        if not place.exists():
            fetch(place)
        return place
    if store.has("zoo.json"):
        return zoo_at(url)
    return _whole_folder(store)


def place_of(name: str | Path) -> Path:
    """Returns the place of what a path or URL names: of a URL that of its copy. Raises `InputError` as `copy_of`."""
    return copy_of(name) if isinstance(name, str) and is_remote(name) else Path(name)


def refuse_remote(setting: str, value: str | None) -> None:
    """Raises `InputError` for a URL where something is written, or checked, on a local disk alone."""
    if is_remote(value):
        raise InputError(f"{setting} takes a folder of this machine, not the URL {printable(str(value), limit=200)}")


def _whole_folder(store: Store) -> Path:
    there = store.list()
    if not there:
        raise InputError(f"there are no files at {store.url}, or its server does not list them")
    folder = _folder(store.url, json.dumps({name: _told(info).decode() for name, info in there.items()}, sort_keys=True).encode())
    missing = [name for name in there if not (folder / name).is_file()]
    with ThreadPoolExecutor(WORKERS) as pool:
        copied = pool.map(lambda name: store.copy(name, folder / name), missing)
        for _ in track(copied, f"reading {store.url}", total=len(missing), disable=len(missing) < WORKERS):
            pass
    return folder


def fetch(path: Path) -> bool:
    """Copies a file that belongs into a folder of the cache and is not there yet; returns False for any other path.

    Raises `InputError` if it cannot be read, or is not the one that the index of its zoo names.
    """
    found = _origin(path)
    if found is None:
        return False
    home, url = found
    name = path.relative_to(home).as_posix()
    Store(url).copy(name, path, sha256=_hashes(home).get(name))
    return True


def begun(path: Path) -> Path | None:
    """Returns a file of the size of a checkpoint that is not copied, which has its header and zeros; None for any other path.

    `fill` reads parts of it. Raises `InputError` if the header cannot be read.
    """
    if path.exists() or (found := _origin(path)) is None:
        return None
    home, url = found
    name = path.relative_to(home).as_posix()
    part = home / _PARTS / name
    if part.is_file():
        return part
    store = Store(url)
    size = store.info(name).get("size")
    if not isinstance(size, int) or size < 8:
        raise InputError(f"{url}/{name} is no safetensors file, or its server does not say how large it is")
    (start,) = store.ranges(name, [(0, 8)])
    length = int.from_bytes(start, "little")
    if length > min(LIMIT, size - 8):
        raise InputError(f"{url}/{name} is damaged or no safetensors file")
    (header,) = store.ranges(name, [(8, 8 + length)])

    def write(beside: Path) -> None:
        with beside.open("wb") as file:
            file.write(start + header)
            file.truncate(size)  # what is not written takes no room

    write_atomically(part, write)
    return part


def fill(path: Path, parts: Mapping[str, tuple[int, int]]) -> None:
    """Reads parts of a checkpoint, named by their tensors, into the file that `begun` has made, unless they are there.

    Raises `InputError` if they cannot be read.
    """
    found = _origin(path)
    assert found is not None
    home, url = found
    name = path.relative_to(home).as_posix()
    part = home / _PARTS / name
    known = part.with_name(f"{part.name}.known.json")
    there = set(json.loads(known.read_text()) if known.is_file() else [])
    missing = {key: span for key, span in parts.items() if key not in there and span[1] > span[0]}
    if not missing:
        return
    contents = Store(url).ranges(name, list(missing.values()))
    with part.open("r+b") as file:
        for (start, _), content in zip(missing.values(), contents, strict=True):
            file.seek(start)
            file.write(content)
    write_json(known, sorted(there | set(missing)))


def upload(folder: Path, url: str) -> None:
    """Copies a finished zoo to a URL; `zoo.json` comes last, so a reader finds a whole zoo or none.

    What an interrupted call has copied is not copied again. Raises `InputError` if the URL holds another zoo, or cannot be written.
    """
    store = Store(url)
    if store.has("zoo.json") and store.read("zoo.json", limit=LIMIT) != (folder / "zoo.json").read_bytes():
        raise InputError(f"{store.url} holds another zoo; choose another place, or delete it")
    ledger = CACHE / "uploads" / f"{_hash(str(folder.resolve()).encode(), store.url.encode())}.json"
    done: dict[str, str] = json.loads(ledger.read_text()) if ledger.is_file() else {}
    there = store.list()
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file() and path.name[0] != "."]
    names = [name for name in names if not name.startswith("state/")]
    last = [name for name in ("index.parquet", "zoo.json") if name in names]

    def put(name: str) -> None:
        status = (folder / name).stat()
        stamp = f"{status.st_size} {status.st_mtime_ns}"
        if done.get(name) != stamp or there.get(name, {}).get("size") != status.st_size:
            store.write(name, folder / name)
            done[name] = stamp

    try:
        with ThreadPoolExecutor(WORKERS) as pool:
            first = [name for name in names if name not in last]
            for _ in track(pool.map(put, first), f"writing {store.url}", total=len(first), disable=len(first) < WORKERS):
                pass
        for name in last:
            put(name)
    finally:
        write_json(ledger, dict(done))


def _folder(url: str, *contents: bytes) -> Path:
    """The place of a copy; its last part is the name of what is copied."""
    return CACHE / _hash(url.encode(), *contents) / re.sub(r"[^\w.-]", "_", url.rpartition("/")[2] or "root")


def _hash(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).hexdigest()[:20]


def _told(info: Mapping[str, Any]) -> bytes:
    """What a server tells of a file that changes with its content; where it tells nothing, copies are made anew every time."""
    keys = ("ETag", "etag", "Content-MD5", "LastModified", "mtime", "created", "blob_id")
    told = [(key, str(info[key])) for key in keys if key in info]
    return repr([told or secrets.token_hex(8), info.get("size")]).encode()


def _origin(path: Path) -> tuple[Path, str] | None:
    """The folder of the cache that a path lies in, and the URL that it is a copy of."""
    base, place = os.path.abspath(CACHE), os.path.abspath(path)
    parts = Path(place).relative_to(base).parts if place.startswith(base + os.sep) else ()
    home = Path(base, *parts[:2])
    if len(parts) < 3 or not (home / _ORIGIN).is_file():
        return None
    return home, json.loads((home / _ORIGIN).read_text())["url"]


@functools.lru_cache(maxsize=16)
def _hashes(home: Path) -> dict[str, str]:
    """The sha256 of each checkpoint of a zoo, by its path."""
    if not (home / "index.parquet").is_file():
        return {}
    table = pq.read_table(home / "index.parquet", columns=["path", "sha256"])
    return dict(zip(table["path"].to_pylist(), table["sha256"].to_pylist(), strict=True))
