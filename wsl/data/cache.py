"""Features on disk, found by what they were made of: the content of the zoo, the settings, and the code that makes them.

The code is the module that makes the features and whatever it imports of these packages, found by following the imports: there is
no list of files that a new or moved module could be missing from.
"""

import ast
import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
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
    key = hashlib.sha256("\n".join([*about, *content]).encode()).hexdigest()
    path = FOLDER / f"{key[:32]}.safetensors"
    found = _read(path)
    if found is None:
        found = compute().astype(np.float64)
        values = np.ascontiguousarray(found.to_numpy())
        data = safetensors.numpy.save({"values": values}, {"columns": json.dumps(list(map(str, found.columns)))})  # one: no order
        saved(path, data)
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


def _read(path: Path) -> pd.DataFrame | None:
    """Returns a stored table; None if there is none, or one that is damaged."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return pd.DataFrame(file.get_tensor("values"), columns=json.loads(file.metadata()["columns"]))
    except (OSError, safetensors.SafetensorError, KeyError, ValueError):
        return None
