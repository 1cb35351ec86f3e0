"""A folder on a server, by any URL that fsspec opens: everything that can go wrong there is one `InputError` with the URL."""

import errno
import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from zoo_gen.errors import InputError, printable
from zoo_gen.files import sha256_of, write_atomically

TRIES = 3
"""Attempts at reading from a server before it is an error."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""Errors of the disk here, not of a server."""


class Store:
    """A folder or file on a server. Everything that can go wrong there is an `InputError` with the URL."""

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        with self._clear(""):
            self.files, self.root = _opened(self.url)

    def has(self, name: str) -> bool:
        """Tells whether there is a file that is not empty. A server that does not answer is an error: `exists` calls it none."""
        try:
            with self._clear(name):
                return bool(_tried(lambda: self.files.cat_file(self._place(name), start=0, end=1)))
        except InputError as error:
            if _is_missing(error.__cause__):
                return False
            raise

    def info(self, name: str = "") -> dict[str, Any]:
        """Returns what the server tells of a file, or of the folder itself."""
        with self._clear(name):
            return _tried(lambda: self.files.info(self._place(name)))

    def read(self, name: str, *, limit: int) -> bytes:
        """Reads a file of at most `limit` bytes."""
        size = self.info(name).get("size")
        if isinstance(size, int) and size > limit:
            raise InputError(f"{self.url}/{name} has {size:,} bytes, more than the {limit:,} that such a file may have")
        with self._clear(name):
            return _tried(lambda: _whole(self.files.cat_file(self._place(name)), size))

    def ranges(self, name: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Reads spans (start, stop) of a file, and no more."""
        place = self._place(name)

        def get() -> list[bytes]:
            starts, stops = [start for start, _ in spans], [stop for _, stop in spans]
            found = self.files.cat_ranges([place] * len(spans), starts, stops, on_error="raise")
            return [_whole(bytes(content), stop - start) for content, (start, stop) in zip(found, spans, strict=True)]

        with self._clear(name):
            return _tried(get)

    def copy(self, name: str, path: Path, *, sha256: str | None = None) -> None:
        """Copies a file to a path, whole or not at all, and of this sha256."""

        def write(beside: Path) -> None:
            size = self.files.info(self._place(name)).get("size")
            self.files.get_file(self._place(name), str(beside))
            if isinstance(size, int) and beside.stat().st_size != size:
                raise EOFError(f"{beside.stat().st_size:,} of {size:,} bytes arrived")
            if sha256 is not None and sha256_of(beside) != sha256:
                raise EOFError("it is not the file that the index of its zoo names: its sha256 differs")

        with self._clear(name):
            _tried(lambda: write_atomically(path, write))

    def write(self, name: str, path: Path) -> None:
        """Copies a file from a path to the server."""
        with self._clear(name, "written"):
            self.files.makedirs(self._place(name).rpartition("/")[0], exist_ok=True)
            _tried(lambda: self.files.put_file(str(path), self._place(name)))

    def list(self) -> dict[str, dict[str, Any]]:
        """Returns what is known of each file, by its path in the folder."""
        with self._clear(""):
            found = _tried(lambda: self.files.find(self.root, detail=True))
        names = {place: place.removeprefix(self.root).lstrip("/") for place in found}
        odd = [name for name in names.values() if name and (".." in PurePosixPath(name).parts or name[0] == "/" or "?" in name)]
        if odd:
            raise InputError(f"{self.url} names a file that lies outside of it: {printable(odd[0], limit=80)}; do not use it")
        return {name: found[place] for place, name in names.items() if name and PurePosixPath(name).name[0] != "."}

    def _place(self, name: str) -> str:
        return f"{self.root}/{name}" if name else self.root

    @contextmanager
    def _clear(self, name: str, done: str = "read") -> Iterator[None]:
        url = printable(f"{self.url}/{name}" if name else self.url, limit=300)
        try:
            yield
        except InputError:
            raise
        except ImportError as error:
            raise InputError(
                f"{url} needs another package ({error}): pip install 'vit-weight-space[s3]' has https and s3"
            ) from error
        except Exception as error:  # each server and library has errors of its own
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            if _is_missing(error):
                raise InputError(f"there is no {url}") from error
            why = error.__cause__ if isinstance(error, FileNotFoundError) else error
            reason = printable(str(why).strip().partition("\n")[0], limit=300)
            raise InputError(f"{url} could not be {done} ({type(why).__name__}: {reason}); the same command tries again") from error


@functools.cache
def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it; lists of files are never kept."""
    options: dict[str, Any] = {"use_listings_cache": False}
    if url.startswith(("http://", "https://")):
        import aiohttp

        options["client_kwargs"] = {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=20, sock_read=60)}
    return fsspec.url_to_fs(url, **options)


def _is_missing(error: BaseException | None) -> bool:
    """Whether a server said that there is no such file; fsspec says so, too, of one that does not answer."""
    cause = None if error is None else error.__cause__
    broken = type(cause).__module__.partition(".")[0] == "aiohttp" and getattr(cause, "status", None) not in (404, 410)
    return isinstance(error, FileNotFoundError | IsADirectoryError) and not broken


def _tried(work: Callable[[], Any]) -> Any:
    """Does some work, again if the connection breaks."""
    for attempt in range(TRIES):
        try:
            return work()
        except Exception as error:
            lasts = _is_missing(error) or isinstance(error, PermissionError | ImportError)
            if lasts or (isinstance(error, OSError) and error.errno in FULL) or attempt + 1 == TRIES:
                raise
    raise AssertionError


def _whole(content: bytes, size: int | None) -> bytes:
    if size is not None and len(content) != size:
        raise EOFError(f"{len(content):,} bytes instead of {size:,} arrived: truncated, or a server without ranges")
    return content
