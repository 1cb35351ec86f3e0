"""Adopting a folder: files are read, matched with the table and written as a zoo; what cannot be read is a row of a report."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zoo_gen.adoption.agreement import refuse_contradictions
from zoo_gen.adoption.description import named_architecture
from zoo_gen.adoption.images import card_for, named_images
from zoo_gen.adoption.lineage import with_own_names
from zoo_gen.adoption.measure import measured
from zoo_gen.adoption.models import models_of
from zoo_gen.adoption.reading import Names, Read, of_one_family, place_of, read_found
from zoo_gen.adoption.rounded import report_rounded
from zoo_gen.adoption.scan import Found, LeftOut, found_at, model_id, scan
from zoo_gen.adoption.table import Row, read_table
from zoo_gen.adoption.write import write_adopted
from zoo_gen.errors import InputError
from zoo_gen.field_zoos.field_zoo import FieldZoo, reader_of
from zoo_gen.reader import shortened
from zoo_gen.wording import counted
from zoo_gen.zoo import Zoo

Track = Callable[[Sequence[Any], str], Any]
"""Yields a sequence, and shows how far it is."""


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What is adopted, and how.

    Attributes:
        folder: that is looked through, with its folders.
        kind: of a zoo of the field (`zoo_gen.field_zoos`); None to find out, `files` for none.
        path: of the zoo.
        root: the checkpoint that models descend from of which nothing else is known, or its name in the folder; None for none.
        metrics: a table; None for none.
        architecture: a card or timm name, of weights without a config.json; None for none.
        images: that models are measured on: a card, or a place as `zoo_gen.own_images.look_at` takes it; None for none.
        classes: of these images, by name or number; label i is `classes[i]`. All, where none are named.
        copy: whether weights are copied into the zoo.
        prefix: reads only the tensors below it.
        leave_out: patterns of names of tensors that are no weights of the model.
    """

    folder: Path
    kind: str | None
    path: Path
    root: str | None
    metrics: Path | None
    architecture: str | None
    images: str | None
    classes: Sequence[str]
    copy: bool
    prefix: str | None
    leave_out: Sequence[str]


def adopt(wanted: Adoption, track: Track) -> tuple[Zoo, list[LeftOut]]:
    """Makes the zoo of a folder of models, and says what was left out.

    Raises `InputError` if the folder or the table cannot be used, if nothing in it can be read, or if the zoo's place is taken.
    """
    folder = wanted.folder.resolve()
    if not folder.is_dir():
        raise InputError(f"there is no folder {wanted.folder.absolute()}; name the folder that the models are in: folder=...")
    if (folder / "zoo.json").is_file():
        raise InputError(f"{wanted.folder} is a zoo already, which Zoo.open and every command read as it is")
    if wanted.path.exists() and (not wanted.path.is_dir() or any(wanted.path.iterdir())):
        raise InputError(
            f"{wanted.path} is not empty; choose another path=..., or delete that folder if it is a zoo you do not need"
        )
    if wanted.classes and wanted.images is None:
        raise InputError("classes= goes with images=<folder, Parquet file, hub data set or card>")
    given = None if wanted.architecture is None else named_architecture(wanted.architecture)
    images = None if wanted.images is None else named_images(wanted.images, wanted.classes)
    left_out: list[LeftOut] = []
    report = left_out.append
    reader = reader_of(folder, wanted.kind)
    field = FieldZoo((), {}) if reader is None else reader.read(folder, report, track)
    there = list(scan(folder, but=wanted.path)) if reader is None else field.found
    left_out += [one for one in there if isinstance(one, LeftOut)]
    found = [one for one in there if isinstance(one, Found)]
    if reader is None:
        found = with_own_names(found)
    else:
        left_out += _beside(field, scan(folder, but=wanted.path), {row.file for row in left_out})
    root = None if wanted.root is None else _root(wanted.root, found, folder)
    found += [root] if root is not None and root not in found else []
    rows = [] if wanted.metrics is None else _rows(wanted.metrics, Names(found), report)
    found = _with_those_of_tables(found, rows, folder)
    if not found:
        raise InputError(f"{wanted.folder} holds no file of weights; docs/how_to/own_models.md lists the kinds that are read")
    if images is not None and (twice := sorted({name for row in rows for name in row.results})):
        raise InputError(f"{wanted.metrics} has {twice[0]}, which images= measures; rename the column, or leave images out")

    names = {one.path: one.shown for one in found}
    found, matched = _matched(found, rows, report)
    refuse_contradictions(matched, names)
    for path, told in field.rows.items():
        matched[path] = [*told, *matched.get(path, ())]
    root = root if root is None else next(one for one in found if one.path == root.path)
    names = Names(found)
    options = {"prefix": wanted.prefix, "leave_out": tuple(wanted.leave_out), "names": field.names}
    read: list[Read] = []
    for one in track(found, "reading"):
        try:
            read.append(read_found(one, names, given, root=root, options=options))
        except (InputError, OSError) as error:
            report(LeftOut(one.name, str(error).replace(f"{folder}/", "")))
    read = of_one_family([_with_heads(one, field.heads.get(one.found.path)) for one in read], report)
    if not read:
        raise InputError(
            f"none of the {counted(len(found), 'file')} of weights in {wanted.folder} can be adopted: {_some(left_out)}"
        )
    report_rounded(read, report)
    models = models_of(read, matched, names, root, report)
    card = None if images is None else card_for(images, [one.architecture for one in models])
    if card is not None:
        models = measured(models, card, report, track)
    told = [{"file": row.file, "reason": row.reason} for row in left_out]
    return write_adopted(
        wanted.path, wanted.path.resolve().name, models, copy=wanted.copy, images=card, left_out=told, track=track
    ), left_out


def _beside(field: FieldZoo, there: Iterable[Found | LeftOut], said: set[str]) -> list[LeftOut]:
    """Returns rows for the weights in a folder that are no part of the zoo of the field that it is read as."""
    covered = {one.path for one in field.found}
    others = [one for one in there if isinstance(one, Found) and one.path not in covered and one.name not in said]
    return [
        LeftOut(one.name, "it is no part of a zoo of this kind; kind=files reads the folder as models of your own")
        for one in others
    ]


def _with_heads(one: Read, heads: int | None) -> Read:
    """Adds the number of attention heads that a maker wrote to a model of which only tensors are known."""
    known = heads is None or one.architecture["architecture"] is not None or one.architecture["num_heads"] is not None
    return one if known else replace(one, architecture={**one.architecture, "num_heads": heads})


def _root(name: str, found: Sequence[Found], folder: Path) -> Found:
    """Returns the root that the user names: of what was found, or elsewhere."""
    called = Names(found).all(name)
    if len(called) == 1:
        return called[0]
    place = place_of(name, folder)
    if place is None:
        several = f", and it is the name of {counted(len(called), 'model')}" if called else ""
        raise InputError(f"root={name} is no file or folder{several}; name the checkpoint that the models were fine-tuned from")
    return next((one for one in found if one.path == place.resolve()), found_at(place, folder))


def _rows(path: Path, names: Names, report: Callable[[LeftOut], None]) -> list[Row]:
    """Reads the table, and reports the rows whose key is none of the files or models, or of several."""
    rows = []
    for row in read_table(path, lambda text: bool(names.all(text)), report):
        called = names.all(row.key)
        if not called:
            report(LeftOut(f"{path.name}, row {row.number}", f"{shortened(row.key)} is no file or model of the folder"))
        elif len({one.model for one in called}) > 1 and len(called) > 1:
            report(LeftOut(f"{path.name}, row {row.number}", f"{shortened(row.key)} may be {called[0].name} or {called[1].name}"))
        else:
            rows.append(row)
    return rows


def _with_those_of_tables(found: list[Found], rows: Sequence[Row], folder: Path) -> list[Found]:
    """Adds the roots and parents that a table names by a path outside of the folder."""
    there, names = {one.path for one in found}, Names(found)
    for text in dict.fromkeys(str(row.lineage[key]) for row in rows for key in ("root", "parent") if key in row.lineage):
        place = None if names.all(text) else place_of(text, folder)
        if place is not None and (one := found_at(place, folder)).path not in there:
            there.add(one.path)
            found = [*found, one]
    return found


def _matched(
    found: list[Found], rows: Sequence[Row], report: Callable[[LeftOut], None]
) -> tuple[list[Found], dict[Path, list[Row]]]:
    """Gives each file the rows of the table that are about it, and the model that these name."""
    names, matched = Names(found), {}
    told = {(one.path, row.lineage.get("epoch")) for row in rows for one in names.all(row.key)}
    for row in rows:
        called = names.all(row.key)
        epoch = row.lineage.get("epoch")
        of_epoch = [one for one in called if epoch is not None and one.epoch == epoch]
        is_told = any((one.path, one.epoch) in told for one in called if one.epoch is not None)  # by the row of its epoch
        if epoch is not None and not of_epoch and (is_told or len(called) > 1):
            report(LeftOut(f"table, row {row.number}", f"{shortened(row.key)} has no file of epoch {epoch}"))
            continue
        for one in of_epoch or called:
            matched.setdefault(one.path, []).append(row)
    renamed = []
    for one in found:
        models = [str(row.lineage["model"]) for row in matched.get(one.path, ()) if "model" in row.lineage]
        renamed.append(replace(one, model=model_id(models[0])) if models else one)
    return renamed, matched


def _some(rows: Sequence[LeftOut]) -> str:
    shown = "; ".join(f"{row.file} ({row.reason})" for row in rows[:3])
    return shown + (f" and {len(rows) - 3} more" if len(rows) > 3 else "")
