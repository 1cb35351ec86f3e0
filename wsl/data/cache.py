"""Features on disk, found by what they were made of: the content of the zoo, the settings, and the code that makes them.

The code is the module that makes the features and whatever it imports of these packages, found by following the imports: there is
no list of files that a new or moved module could be missing from.
"""

import ast
import hashlib
import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy

from zoo_gen import Zoo
from zoo_gen.files import saved

FOLDER = Path("checkpoints", "features")
SOURCE = Path(__file__).parent.parent.parent
"""The folder that the packages lie in."""

PACKAGES = ("wsl", "zoo_gen")

EVERYTHING = ("wsl.*", "zoo_gen.*")
"""All code: of the features of a run, whose cards name the modules that make them."""


def cached(
    extractor: object,
    checkpoints: Zoo,
    compute: Callable[[], pd.DataFrame],
    *,
    state: Sequence[str] = (),
    modules: Sequence[str] = (),
) -> pd.DataFrame:
    """Returns the features of checkpoints from the cache, or computes and keeps them.

    Args:
        extractor: a function, by its name, or an object, whose class and attributes tell one kind of features from another.
        checkpoints: in the order of the rows.
        compute: makes the table: float columns, one row per checkpoint.
        state: hashes of whatever else the features depend on, such as the files of a run.
        modules: that make the features beside the extractor's own; `wsl.*` stands for all of a package. A change in one of them, or
            in one that they import, makes the features anew.
    """
    kind = extractor if inspect.isroutine(extractor) or isinstance(extractor, type) else type(extractor)
    name = f"{kind.__module__}.{kind.__qualname__}"
    settings = {} if kind is extractor else vars(extractor)
    about = [name, json.dumps(settings, sort_keys=True, default=repr), *state, code_hash((kind.__module__, *modules))]
    content = [checkpoints.content_hash, *checkpoints.frame["weights_sha256"], *map(str, checkpoints.frame["epoch"])]

    def arrays() -> Mapping[str, np.ndarray]:
        found = compute().astype(np.float64)
        # the names are an array as well: their JSON, in bytes
        names = np.frombuffer(json.dumps(list(map(str, found.columns))).encode(), dtype=np.uint8)
        return {"values": found.to_numpy(), "columns": names}

    found = cached_arrays([*about, *content], arrays, needed=("values", "columns"))
    return pd.DataFrame(found["values"], columns=json.loads(found["columns"].tobytes()))


def cached_arrays(
    about: Sequence[str], compute: Callable[[], Mapping[str, np.ndarray]], *, needed: Collection[str] = ()
) -> Mapping[str, np.ndarray]:
    """Returns named arrays from the cache, or computes and keeps them.

    Args:
        about: texts that tell them from all others: names, settings, hashes of data and of code (`code_hash`).
        compute: makes the arrays.
        needed: names without which a file is damaged.
    """
    path = FOLDER / f"{hashlib.sha256(json.dumps(list(about)).encode()).hexdigest()[:32]}.safetensors"
    found = _read(path)
    if found is None or not found.keys() >= {*needed}:
        found = compute()
        saved(path, safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in found.items()}))
    return found


def code_hash(modules: Sequence[str]) -> str:
    """Returns a hash of the source code of modules and of all that they import of `PACKAGES`.

    Raises:
        ValueError: there is no such module.
    """
    found: dict[str, str] = {}
    waiting, named = set(modules), set(modules)
    while waiting:
        for module, path in _files(waiting.pop()):
            if module not in found:
                found[module] = path.read_text(encoding="utf-8")
                waiting |= _imports(found[module]) - named
                named |= waiting
    return hashlib.sha256(json.dumps(sorted(found.items())).encode()).hexdigest()


def _files(name: str) -> list[tuple[str, Path]]:
    """Returns the file of a module with those of the packages that it lies in, which Python imports first.

    A package stands for all of its modules, as it may find them by itself; `PACKAGES` only for what is in their own files.
    """
    place = SOURCE.joinpath(*name.split("."))
    if place.with_suffix(".py").is_file():
        found = [place.with_suffix(".py")]
    elif name in PACKAGES:
        found = [place / "__init__.py"]
    else:
        found = sorted(place.parent.rglob("*.py") if place.name == "*" else place.rglob("*.py"))
    if not found:
        raise ValueError(f"there is no module {name}")
    found += [file for folder in place.parents if SOURCE in folder.parents and (file := folder / "__init__.py").is_file()]
    return [(".".join(path.relative_to(SOURCE).with_suffix("").parts), path) for path in found]


@cache
def _imports(code: str) -> frozenset[str]:
    """Returns the modules of `PACKAGES` that a module imports when it runs."""
    tree, found = ast.parse(code), set()
    tree.body = [node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(name for alias in node.names if _is_module(name := f"{node.module}.{alias.name}"))}
    return frozenset(name for name in found if name.partition(".")[0] in PACKAGES)


def _is_module(name: str) -> bool:
    place = SOURCE.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def _read(path: Path) -> Mapping[str, np.ndarray] | None:
    """Returns stored arrays; None if there are none, or if the file is damaged."""
    try:
        return safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError, KeyError, ValueError):
        return None
