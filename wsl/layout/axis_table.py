"""The language of tables of axis names (`wsl.layout.lookup` describes it): text in, rows and rules out."""

import functools
import re
from typing import NamedTuple

from wsl.layout.slots import ROLES, Axis, owners

VERBS = ("norm", "scale", "bias", "sum", "mean", "constant", "batch", "positive")
"""The kinds of rules."""


class Row(NamedTuple):
    """One row: a pattern of names, the axes of its tensors part by part, and its place among the blocks.

    `parts` are pairs of a role and the names of the axes of each dimension; `sections` has the number of equal parts in each
    section of the first axis. `stage` is the number of runs of blocks (`layers.0.blocks.{b}`, `layers.1.blocks.{b}`) up to this
    row, 0 in the stem; no run follows the `tail`. A row with a condition (`module.attribute=value`) is for models that meet it.
    """

    name: str
    pattern: re.Pattern[str]
    parts: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]
    sections: tuple[int, ...]
    transposed: bool
    stage: int
    tail: bool
    condition: str = ""


class Table(NamedTuple):
    """Rows, and rules as (verb, sources, targets)."""

    rows: tuple[Row, ...]
    rules: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]


@functools.cache
def parse(text: str) -> Table:
    """Reads a table. Raises `ValueError` for a malformed one: a bug of its module, not bad input."""
    joined = re.sub(r"\n\s*[|/]|->\s*\n", lambda joint: joint[0].replace("\n", " "), text)
    lines = [line for line in map(str.strip, joined.splitlines()) if line]
    names = [_given(line)[1].split()[0] for line in lines if "->" not in line]
    runs = list(dict.fromkeys(name.partition("{b")[0] for name in names if "{b" in name))
    rows: list[Row] = []
    rules = []
    stage = 0
    for line in lines:
        if "->" in line:
            left, _, right = line.partition("->")
            verb, *sources = left.split()
            if verb not in VERBS or not sources or not right.split():
                raise ValueError(f"rule {line!r} is not '{'|'.join(VERBS)} sources -> targets'")
            rules.append((verb, tuple(sources), tuple(right.split())))
            continue
        condition, row = _given(line)
        name, axes = row.split(maxsplit=1)
        transposed, name = name.endswith("^T"), name.removesuffix("^T")
        if "{b" in name:
            stage = 1 + runs.index(name.partition("{b")[0])
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[0-9]{1,6})", re.escape(name))
        pattern = re.sub(r"\\{(\w+)=([0-9]+)\\}", r"(?P<\1>\2)", pattern)
        tail = stage == len(runs) > 0 and "{b" not in name
        sections = [_parts(line, section) for section in axes.split("/")]
        parts = tuple(part for section in sections for part in section)
        rows.append(Row(name, re.compile(pattern), parts, tuple(map(len, sections)), transposed, stage, tail, condition))
    _check_owners(rows)
    return Table(tuple(rows), tuple(rules))


def _given(line: str) -> tuple[str, str]:
    """Returns the condition of a row, if there is one, and the rest of it."""
    if not line.startswith("given "):
        return "", line
    condition, _, rest = line.removeprefix("given ").partition(": ")
    if not rest or not re.fullmatch(r"[\w.{}]+=\w+", condition):
        raise ValueError(f"row {line!r} is not 'given module.attribute=value: name  role: axes'")
    return condition, rest


def _check_owners(rows: list[Row]) -> None:
    """Raises `ValueError` where two rows give the features of an axis to different owners."""
    found: dict[str, str] = {}
    for row in rows:
        for _, dimensions in row.parts:
            axes = tuple(tuple(Axis(name.removesuffix("*"), name.endswith("*")) for name in names) for names in dimensions)
            flat = [axis.name for dim in axes for axis in dim]
            for i, owner in owners(axes).items():
                if found.setdefault(flat[i], flat[owner]) != flat[owner]:
                    raise ValueError(
                        f"row {row.name!r}: axis {flat[i]!r} belongs to {flat[owner]!r}, and to {found[flat[i]]!r} before"
                    )


def _parts(line: str, text: str) -> tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]:
    parts = []
    for part in text.split("|"):
        role, _, axes = part.partition(":")
        if role.strip() not in ROLES:
            raise ValueError(f"row {line!r}: role {role.strip()!r} is not one of {', '.join(ROLES)}")
        dimensions = re.findall(r"\(([^()]+)\)|(\S+)", axes)
        parts.append((role.strip(), tuple(tuple((product or single).split()) for product, single in dimensions)))
    return tuple(parts)
