"""References: weights of an adopted zoo that stay where their owner has them.

A small JSON file in the zoo, `<name>.reference.json`, says where weights lie, in a file or folder of any kind that
`zoo_gen.formats.checkpoint` reads, and how they are read. It keeps the sha256 of the files, and their sizes and times: files of
other times are hashed again before they are believed.
"""

import dataclasses
import functools
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo_gen.errors import InputError
from zoo_gen.files import sha256_of, write_json
from zoo_gen.formats.checkpoint import REFERENCE, files_of, read_checkpoint
from zoo_gen.formats.matrix_row import is_row
from zoo_gen.formats.names import counted
from zoo_gen.formats.transformers_vit import to_timm
from zoo_gen.index import expect
from zoo_gen.reader import read_json

NAMES = (None, "timm", "counted")
_KINDS = {
    "path": (str,),
    **dict.fromkeys(("base", "prefix", "names"), (str, type(None))),
    "leave_out": (list,),
    "sha256": (str,),
    "stamps": (list,),
}
_ADVICE = "put it back as it was, or adopt the models again: python -m zoo_gen.adopt"


@dataclass(frozen=True)
class Reference:
    """The place of weights outside of a zoo.

    Attributes:
        path: of the file or folder.
        base: what an adapter is merged into; None for anything else.
        prefix: of the names that are read; None for all.
        leave_out: patterns of names of tensors that are no weights of the model.
        names: `timm` for a ViT of transformers that is read by timm's names, `counted` for layers in the order of a list
            (`zoo_gen.formats.names.counted`); None for names as they are.
        sha256: of the file, or of the hashes of all files there are (`sha256_of_files`).
        stamps: size in bytes, and time of the last change in nanoseconds, of each file.
    """

    path: Path
    base: Path | None = None
    prefix: str | None = None
    leave_out: tuple[str, ...] = ()
    names: str | None = None
    sha256: str = ""
    stamps: tuple[tuple[int, int], ...] = ()

    def sealed(self) -> "Reference":
        """Returns the reference with the hash and stamps of its files as they are now. Raises `InputError` if one is missing."""
        for place in (self.path, self.base):
            if place is not None and is_reference(place):
                raise InputError(f"{place} is a reference of a zoo; name the weights that it is of: {read_reference(place).path}")
        files = files_of(self.path, base=self.base)
        stamps = _stamps(files)
        shared = is_row(self.path)  # a matrix of many checkpoints is hashed once in a process
        return dataclasses.replace(self, sha256=_hashed(tuple(files), stamps) if shared else sha256_of_files(files), stamps=stamps)

    def tensors(self) -> dict[str, Tensor]:
        """Reads the weights, whether or not they are the ones that were adopted. Raises `InputError` if they are no weights."""
        found = read_checkpoint(self.path, base=self.base, prefix=self.prefix, leave_out=self.leave_out)
        return to_timm(found) if self.names == "timm" else counted(found) if self.names == "counted" else found

    def check(self) -> None:
        """Raises `InputError` if the files are missing or others than those that were adopted."""
        try:
            files = files_of(self.path, base=self.base)
            stamps = _stamps(files)
        except (InputError, OSError) as error:
            raise InputError(f"the adopted weights {self.path} cannot be found ({error}); {_ADVICE}") from error
        if stamps != self.stamps and _hashed(tuple(files), stamps) != self.sha256:
            raise InputError(f"the adopted weights {self.path} have changed since they were adopted (sha256 differs); {_ADVICE}")

    def read(self) -> dict[str, Tensor]:
        """Reads the weights as views of their files. Raises `InputError` if they are not the ones that were adopted."""
        self.check()
        return self.tensors()

    def write(self, place: Path, *, home: Path, zoo: Path) -> None:
        """Writes the reference to a file; `home` is the folder that it is going to be in, of a `zoo`."""
        content = {
            "path": _told(self.path, home, zoo),
            "base": None if self.base is None else _told(self.base, home, zoo),
            "prefix": self.prefix,
            "leave_out": list(self.leave_out),
            "names": self.names,
            "sha256": self.sha256,
            "stamps": [list(stamp) for stamp in self.stamps],
        }
        write_json(place, content)


def is_reference(path: Path) -> bool:
    """Whether the weights of a checkpoint lie outside of its zoo."""
    return path.name.endswith(REFERENCE)


def read_reference(file: Path) -> Reference:
    """Reads a reference file. Raises `InputError` if it is missing or damaged."""
    content = read_json(file, advice=_ADVICE)
    expect(content, _KINDS, file)
    stamps, leave_out = content["stamps"], content["leave_out"]
    sound = all(isinstance(stamp, list) and len(stamp) == 2 and all(type(number) is int for number in stamp) for stamp in stamps)
    if not sound or not all(isinstance(pattern, str) for pattern in leave_out) or content["names"] not in NAMES:
        raise InputError(f"{file} is damaged (its stamps, leave_out or names are of other types); {_ADVICE}")
    told: dict[str, Any] = {key: content[key] for key in ("prefix", "names", "sha256")}
    base = None if content["base"] is None else _place(file.parent, content["base"])
    at, times = _place(file.parent, content["path"]), tuple((size, time) for size, time in stamps)
    if any(place is not None and is_reference(place) for place in (at, base)):
        raise InputError(f"{file} refers to another reference, and not to weights; {_ADVICE}")
    return Reference(at, base=base, leave_out=tuple(leave_out), stamps=times, **told)


def sha256_of_files(files: Sequence[Path]) -> str:
    """Returns the sha256 of a file, or that of the hashes of several, one a line."""
    hashes = [sha256_of(file) for file in files]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("\n".join(hashes).encode()).hexdigest()


@functools.lru_cache(maxsize=4096)
def _hashed(files: tuple[Path, ...], stamps: tuple[tuple[int, int], ...]) -> str:
    """The hash of files that have these sizes and times."""
    return sha256_of_files(files)


def _stamps(files: Sequence[Path]) -> tuple[tuple[int, int], ...]:
    return tuple((status.st_size, status.st_mtime_ns) for status in (file.stat() for file in files))


def _told(path: Path, home: Path, zoo: Path) -> str:
    """A place as a reference names it: relative where it lies in the folder that the zoo lies in, so that both may be moved."""
    place = Path(os.path.abspath(path))
    is_beside = place.is_relative_to(Path(os.path.abspath(zoo)).parent)
    return os.path.relpath(place, os.path.abspath(home)) if is_beside else str(place)


def _place(folder: Path, name: str) -> Path:
    """The place that a reference names, without `..`."""
    return Path(os.path.normpath(folder.absolute() / name))
