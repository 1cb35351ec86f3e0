"""The zoos of a run: found by where they lie from its folder, or lay in the training, and known by their content."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo_gen import InputError, Zoo

Entry = Mapping[str, str]
"""What a run's configuration says of a zoo: `path`, `relative` (to the run) and `content_hash`."""


def entries_of(folder: Path, config: Mapping[str, Any]) -> list[Entry]:
    """Returns the entry of each zoo in a configuration. Raises `InputError` if they are damaged."""
    stored, others = config["zoo"], config.get("other_zoos", [])
    entries = [stored, *(others if isinstance(others, list) else [others])]
    keys = ("path", "relative", "content_hash")
    if not all(isinstance(entry, dict) and all(isinstance(entry.get(key), str) for key in keys) for entry in entries):
        raise InputError(f"{folder / 'config.yaml'} does not say which zoo the run is of; train it again")
    return entries


def find(folder: Path, entry: Entry) -> Zoo:
    """Returns the zoo of an entry, where it lies from the run, or where it lay in the training; raises as `first_of`."""
    return first_of(folder, [(folder / entry["relative"]).resolve(), Path(entry["path"])], [entry["content_hash"]])


def first_of(folder: Path, places: Sequence[Path], hashes: Sequence[str]) -> Zoo:
    """Returns the first zoo in some places that has one of some hashes.

    Raises `InputError` where there is none, or where it is no longer the same.
    """
    found = [Zoo.open(place) for place in places if _is_zoo(place)]
    point = f"point to it with zoo=<folder>, or Run.open('{folder}', zoo=<folder>)"
    if not found:
        raise InputError(f"the zoo of run {folder} is not at {' nor at '.join(map(str, places))}; if it has moved, {point}")
    for zoo in found:
        if zoo.content_hash in hashes:
            return zoo
    now, then = found[0].content_hash[:12], hashes[0][:12]
    raise InputError(
        f"the zoo at {found[0].path} is not the one that run {folder} was trained on (content hash {now}, then {then}): "
        f"labels, splits or weights were changed since; if the old one is elsewhere, {point}, else train a new run on this one"
    )


def _is_zoo(place: Path) -> bool:
    """Tells whether a folder holds a zoo; no such place is none."""
    try:
        return (place / "zoo.json").is_file()
    except (OSError, ValueError):  # a name too long, or no name at all
        return False
