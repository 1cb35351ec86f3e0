"""Models of checkpoints that were read: their epochs, their lineage, and what the table says of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo_gen.adoption.agreement import agreed
from zoo_gen.adoption.lineage import epochs_of, roots_and_parents
from zoo_gen.adoption.reading import Names, Read
from zoo_gen.adoption.scan import Found, LeftOut
from zoo_gen.adoption.table import Row
from zoo_gen.adoption.write import AdoptedCheckpoint, AdoptedModel, with_gaps
from zoo_gen.index import RESULTS
from zoo_gen.reader import shortened
from zoo_gen.wording import counted


def models_of(
    read: Sequence[Read], matched: Mapping[Path, list[Row]], names: Names, root: Found | None, report: Callable[[LeftOut], None]
) -> list[AdoptedModel]:
    """Makes models of checkpoints: epochs, lineage, and what the table says."""
    by_model: dict[str, list[Read]] = {}
    for one in read:
        by_model.setdefault(one.found.model, []).append(one)
    lineage = _lineage(read, matched, names, root, report)
    order = sorted(by_model, key=lambda model: (lineage[model][0] != model, model))
    seen: dict[str, str] = {}
    models = []
    for model in order:
        group = {one.found: one for one in by_model[model]}
        given = {
            one: row.lineage["epoch"]
            for one in group
            for row in matched.get(one.path, ())
            if isinstance(row.lineage.get("epoch"), int) and one.epoch is None
        }
        checkpoints, diverged = [], None
        for epoch, found in epochs_of(list(group), given, report):
            one = group[found]
            other = seen.setdefault(one.checkpoint.weights_sha256, found.name)
            if other != found.name and one.is_finite:
                report(LeftOut(found.name, f"it has the weights of {other}, to the bit"))
            elif diverged is not None:
                report(LeftOut(found.name, f"the weights of {model} are not finite since epoch {diverged}"))
            else:
                checkpoints.append((found, replace(one.checkpoint, epoch=epoch), one.architecture))
                diverged = None if one.is_finite else epoch
        if checkpoints:
            models.append(_model(model, lineage[model], checkpoints, matched, diverged, report))
    kept = {one.model for one in models}
    return [_without_those_left_out(one, kept) for one in models]


def _without_those_left_out(one: AdoptedModel, kept: set[str]) -> AdoptedModel:
    """Forgets a root or parent of which no checkpoint was kept."""
    root = one.root if one.root in kept else None
    return replace(one, root=root, parent=one.parent if root is not None and one.parent in kept else None)


def _lineage(
    read: Sequence[Read], matched: Mapping[Path, list[Row]], names: Names, root: Found | None, report: Callable[[LeftOut], None]
) -> dict[str, tuple[str | None, str | None]]:
    """Settles roots and parents by the table, by model cards and adapters, and by the root that the user names."""
    told: dict[str, dict[str, str]] = {"root": {}, "parent": {}}
    unknown: dict[str, list[str]] = {}
    models = {one.found.model for one in read}
    for one in read:
        rows = matched.get(one.found.path, ())
        said = {key: str(value) for key, value in agreed(rows, "lineage", one.found.shown).items() if key in told}
        if "parent" not in said and "root" not in said and one.base is not None:
            said["parent"] = one.base
        for key, name in said.items():
            called = {other.model for other in (names.all(name) or names.all(name.rpartition("/")[2]))} & models
            if len(called) == 1:
                told[key].setdefault(one.found.model, called.pop())
            else:
                unknown.setdefault(name, []).append(one.found.name)
    for name, files in unknown.items():
        report(
            LeftOut(
                files[0],
                f"{shortened(name)}, the root of {counted(len(files), 'model')}, is not in the folder: name its file by root=",
            )
        )
    default = root.model if root is not None and root.model in models else None
    return roots_and_parents(sorted(models), told["root"], told["parent"], default, report)


def _model(
    model: str,
    lineage: tuple[str | None, str | None],
    kept: Sequence[tuple[Found, AdoptedCheckpoint, Mapping[str, Any]]],
    matched: Mapping[Path, list[Row]],
    diverged: int | None,
    report: Callable[[LeftOut], None],
) -> AdoptedModel:
    """Puts together what is known of one model: rows about all its files are of the model, and their results of its last epoch."""
    rows_of = {found: matched.get(found.path, []) for found, _, _ in kept}
    shared = [row for row in rows_of[kept[-1][0]] if len(kept) == 1 or all(row in rows for rows in rows_of.values())]
    factors: dict[str, Any] = {}
    for row in (row for rows in rows_of.values() for row in rows):
        for name, value in row.factors.items():
            if factors.setdefault(name, value) != value:
                report(LeftOut(f"table, row {row.number}", f"{name} of {model} is {value}, and {factors[name]} in another row"))
    columns: dict[str, float | str | None] = agreed(shared, "columns", model)
    checkpoints = []
    for found, checkpoint, _ in kept:
        own = [row for row in rows_of[found] if row not in shared]
        about = [*shared, *own] if found is kept[-1][0] else own
        results: dict[str, float | None] = dict.fromkeys(RESULTS) | agreed(about, "results", found.shown)
        told = agreed(own, "columns", found.shown)
        checkpoints.append(replace(checkpoint, results=with_gaps(results), columns=told))
    root, parent = lineage
    return AdoptedModel(model, root, parent, kept[-1][2], checkpoints, factors, columns, diverged)
