"""Checkpoints below a folder, however deep: what `zoo_gen.formats.checkpoint.read_checkpoint` may be able to read."""

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from zoo_gen.errors import InputError
from zoo_gen.formats.checkpoint import ADAPTER, INDEX, REFERENCE, SUFFIXES
from zoo_gen.formats.shapes import SHARD
from zoo_gen.reference import read_reference

NO_MODELS = ("optimizer*", "scheduler*", "scaler*", "rng_state*", "random_states*", "training_args.bin", "adapter_model.*")
"""Names of files that trainers write beside a model; an adapter is read by its folder."""


def checkpoints_below(folder: Path) -> list[Path]:
    """Returns all files of weights, indices of sharded checkpoints and folders of adapters below a folder, in order.

    A shard counts as its index where there is one, and a reference of an adopted zoo where its weights are not found themselves.
    Hidden files and folders are left out, and links to folders are not followed.

    Raises:
        InputError: there is no such folder, or nothing in it looks like a checkpoint.
    """
    if not folder.is_dir():
        raise InputError(f"{folder.absolute()} is no folder; name a folder of checkpoints")
    found = sorted(_checkpoints(folder))
    there = {place.resolve() for file in found for place in (file, file.parent)}
    found = [file for file in found if not file.name.endswith(REFERENCE) or not _leads_to(file, there)]
    if not found:
        raise InputError(f"{folder} holds no checkpoint, however deep; files are {', '.join(SUFFIXES)} or {INDEX}")
    return found


def _checkpoints(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        indexed = any(name.endswith(INDEX) for name in files)
        if ADAPTER in files:
            yield Path(place)
        for name in files:
            is_shard = indexed and SHARD.search(name)
            if name[0] != "." and name.endswith((*SUFFIXES, INDEX, REFERENCE)) and not is_shard and not _is_no_model(name):
                yield Path(place, name)


def _leads_to(reference: Path, there: set[Path]) -> bool:
    """Whether a reference is to one of the places; one that is damaged is to none, and said when it is read."""
    try:
        return read_reference(reference).path.resolve() in there
    except InputError:
        return False


def _is_no_model(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in NO_MODELS)
