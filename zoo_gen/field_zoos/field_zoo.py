"""What a reader of a zoo of the field returns, and how its readers are found."""

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import zoo_gen.field_zoos
from zoo_gen.adoption.scan import Found, LeftOut
from zoo_gen.adoption.table import Row, factor_of, result_of
from zoo_gen.errors import InputError
from zoo_gen.index import ALL_FACTORS, RESULTS, is_own

Report = Callable[[LeftOut], None]
Track = Callable[[Sequence[Any], str], Iterable[Any]]
"""Yields a sequence, and shows how far it is."""


@dataclass(frozen=True)
class FieldZoo:
    """The checkpoints of a zoo, and what its maker wrote of them.

    Attributes:
        found: the places of weights, with model and epoch. Epochs count from 1; the maker's own number is a column.
        rows: factors, results and columns of each place; a row that all places of a model have is of the model.
        heads: number of attention heads, by place, where the maker wrote it.
        names: how names of tensors are read (`zoo_gen.reference.Reference`); None for as they are.
    """

    found: Sequence[Found]
    rows: Mapping[Path, list[Row]]
    heads: Mapping[Path, int] = field(default_factory=dict)
    names: str | None = None


class Reader(Protocol):
    """A module of this package."""

    def is_one(self, folder: Path) -> bool:
        """Whether a folder is a zoo of this kind, from names alone."""
        ...

    def read(self, folder: Path, report: Report, track: Track) -> FieldZoo:
        """Reads what a maker wrote, and no weights. Raises `InputError` if nothing in it can be read."""
        ...


def kinds() -> list[str]:
    """Returns the names of the kinds that there are readers for."""
    there = pkgutil.iter_modules(zoo_gen.field_zoos.__path__)
    return sorted(module.name for module in there if module.name != __name__.rpartition(".")[2])


def reader_of(folder: Path, kind: str | None) -> Reader | None:
    """Returns the reader of a zoo of the field.

    Args:
        folder: of the zoo.
        kind: of the zoo; None to find out, `files` for a folder that is none.

    Raises:
        InputError: there is no such kind, or the folder is not of it.
    """
    if kind not in (None, "files", *kinds()):
        raise InputError(f"there is no kind={kind}; choose one of {', '.join(kinds())}, or files for a folder of models")
    for name in () if kind == "files" else kinds() if kind is None else (kind,):
        reader = cast(Reader, importlib.import_module(f"{zoo_gen.field_zoos.__name__}.{name}"))
        if reader.is_one(folder):
            return reader
        if kind is not None:
            raise InputError(f"{folder} is no zoo of kind={kind}: {cast(Any, reader).NEEDS}; leave kind out for other folders")
    return None


def row_of(key: str, told: Mapping[str, Any], names: Mapping[str, str], report: Report) -> Row:
    """Sorts what a maker wrote of a model or checkpoint into factors, results and columns of its own.

    Args:
        key: the model or checkpoint, for the report.
        told: by the maker's names. Numbers that are not finite, empty cells, lists and objects are left out.
        names: the maker's names of what the format knows.
        report: is told of values that the format cannot hold; these are kept as columns of their own.
    """
    row = Row(key, 0)
    for name, value in told.items():
        known = names.get(name, name)
        if (
            value is None
            or value == ""
            or isinstance(value, list | dict | tuple)
            or (isinstance(value, float) and not math.isfinite(value))
        ):
            continue
        value = str(value).lower() if isinstance(value, bool) else value
        odd: list[str] = []

        def note(what: str, given: Any, reason: str, odd: list[str] = odd) -> None:
            odd.append(f"{what} is {given}, {reason}; it is kept in a column of its own")

        if known in RESULTS:
            row.results |= result_of(known, value, note)
        elif known in ALL_FACTORS:
            row.factors |= factor_of(known, value, note)
        if known not in {*row.results, *row.factors} and is_own(name):
            row.columns[name] = float(value) if isinstance(value, int | float) else str(value)
        for reason in odd:
            report(LeftOut(key, reason))
    return row


def counted_from_one(found: Iterable[Found], zero: bool) -> list[Found]:
    """Returns checkpoints with epochs that count from 1, where their maker's count from 0."""
    return [one if one.epoch is None or not zero else replace(one, epoch=one.epoch + 1) for one in found]
