"""Findings on disk: `analysis.json` holds those of one zoo or folder, each analysis by its name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsl.analyses.analysis import Subject
from zoo_gen import InputError
from zoo_gen.reader import read_json

KEYS = {"title": str, "lead": str, "notes": list, "tables": list, "charts": list, "numbers": dict}
"""Of the findings of an analysis, with their types."""


def subject_of(subject: Subject) -> dict[str, Any]:
    """Returns what findings are of: the name, seed and content of a zoo, or the place of a folder."""
    if subject.zoo is None:
        return {"folder": str(subject.folder)}
    zoo = subject.zoo
    return {"zoo": zoo.name, "seed": zoo.seed, "content_hash": zoo.content_hash}


def with_findings(path: Path, subject: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of `analysis.json` with new findings; those of other analyses stay if they are of the same subject.

    Raises:
        InputError: the file is there and damaged.
    """
    kept = read_findings(path) if path.exists() else {"subject": subject, "analyses": {}}
    others = kept["analyses"] if kept["subject"] == subject else {}
    return {"subject": dict(subject), "analyses": dict(sorted({**others, **found}.items()))}


def read_findings(path: Path) -> dict[str, Any]:
    """Reads `analysis.json`. Raises `InputError` if it is damaged."""
    again = "delete it and run python -m wsl.analyze again"
    found = read_json(path, advice=again)
    analyses = found.get("analyses") if isinstance(found, dict) else None
    whole = isinstance(analyses, dict) and isinstance(found.get("subject"), dict)
    for one in analyses.values() if isinstance(analyses, dict) else ():
        whole = whole and isinstance(one, dict) and all(isinstance(one.get(key), kind) for key, kind in KEYS.items())
    if not whole:
        raise InputError(f"{path} holds no findings of analyses; {again}")
    return found
