"""Tables for the terminal of what `wsl.compare` and `wsl.duplicates` find."""

from os.path import relpath
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from wsl.analyses.comparison import WORDS, Comparison, Far
from wsl.analyses.duplicates import Duplicates
from wsl.analyses.models import Model
from zoo_gen.wording import as_wide_as_needed, counted

KINDS = {
    "bits": "the same to the bit",
    "precision": "the same up to precision",
    "symmetry": "the same up to symmetry",
}

SHOWN = 40
"""Rows of a list in the terminal."""

HEADS = {
    "none": "neither has a head",
    "same": "the same",
    "different": "different",
    "of other shapes": "of other shapes, left out below",
}


def comparison_table(found: Comparison, a: Model, b: Model) -> Group:
    """Returns the verdict on two models, their distances modulo each kind of symmetry, and by layer."""
    size = sum(tensor.numel() for tensor in b.weights.values())
    lines = [
        f"a: {escape(a.name)}",
        f"b: {escape(b.name)}",
        f"{b.layout.family}, {counted(size, 'weight')}" + (f", {counted(heads, 'head')}" if (heads := b.heads or a.heads) else ""),
        "",
        f"[bold]{found.verdict}[/]",
        f"heads: {HEADS[found.head]}",
        *(f"note: {escape(note)}" for note in found.notes),
        "",
    ]
    distances = _table(Column("distance"), "distance", "over the norm")
    distances.add_row("as they are", *_figures(found.raw))
    for kind, far in found.modulo.items():
        distances.add_row(f"modulo {WORDS[kind]}", *_figures(far))
    if found.aligned is not None:
        distances.add_section()
        distances.add_row("modulo all of these", *_figures(found.aligned))
    layers = _table(Column("layer, distance over the norm"), "as they are", *(["modulo all"] if found.aligned else []))
    for raw, aligned in found.layers:
        layers.add_row(escape(raw.what), _number(raw.relative), *([_number(aligned.relative)] if found.aligned else []))
    return Group(*lines, distances, "", layers)


def duplicates_table(found: Duplicates, folder: Path) -> Group:
    """Returns the groups of equal checkpoints below a folder, the near pairs, and what was left out.

    Names of files are whole: print it with `soft_wrap=True`.
    """

    def name(place: Path) -> str:
        return escape(relpath(place, folder))

    copies = sum(len(group) - 1 for group in found.groups)
    groups = counted(len(found.groups), "group")
    models = counted(found.count - copies, "different model")
    lines = [f"{counted(found.count, 'checkpoint')}, {models}, {counted(copies, 'copy')} in {groups}"]
    for number, group in enumerate(found.groups[:SHOWN], 1):
        lines += ["", f"{number}. {name(group[0][0])}"]
        lines += [f"   {name(place)}  [dim]{KINDS[kind]}[/]" for place, kind in group[1:]]
    if len(found.groups) > SHOWN:
        lines.append(f"and {counted(len(found.groups) - SHOWN, 'more group')}; out=<file>.json has all")
    if found.near:
        near = _table(Column("near, and not the same"), "", "over the norm")
        for a, b, far in found.near[:SHOWN]:
            near.add_row(name(a), name(b), _number(far))
        near = as_wide_as_needed(near)
        lines += (
            ["", near] if len(found.near) <= SHOWN else ["", near, f"and {len(found.near) - SHOWN} more; out=<file>.json has all"]
        )
    notes = {
        "of a number of heads that is not known, compared without symmetries of heads (heads=<number>)": found.headless,
        "of no architecture that has a table, compared as they are": found.opaque,
        "not finite, compared to the bit alone": found.broken,
    }
    for what, places in notes.items():
        if places:
            lines += ["", f"{len(places)} {what}: {_some([name(place) for place in places])}"]
    return Group(*lines)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _figures(far: Far) -> tuple[str, str]:
    return _number(far.distance), _number(far.relative)


def _number(value: float) -> str:
    return f"{value:.3g}"


def _table(name: Column, *figures: str) -> Table:
    columns = (Column(figure, justify="right" if figure else "left", overflow="fold") for figure in figures)
    return Table(name, *columns, box=SIMPLE, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
