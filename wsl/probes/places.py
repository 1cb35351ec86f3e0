"""Checkpoints that are to be predicted, by their places: a file of weights, a folder of them, or a zoo."""

from collections.abc import Mapping
from pathlib import Path

from wsl.data.pairs import pairs_of
from wsl.run_weights import Source, Weights, weights_of
from zoo_gen import InputError, Zoo
from zoo_gen.errors import printable
from zoo_gen.formats.checkpoint import ADAPTER, ADOPTED, INDEX, REFERENCE, SUFFIXES, WHOLE

Places = Mapping[str, tuple[Source, Weights | None]]
"""Checkpoints by name, and the weights of the root of each where they are known."""

OTHER_WEIGHTS = (".h5", ".keras", ".msgpack", ".onnx", ".npz", ".npy", ".gguf", ".pkl", ".tflite", ".pb", ".mar", ".tar", ".zip")
"""Endings of files that may hold weights, and are of no kind that is read."""


def checkpoints_in(path: Path) -> Places:
    """Returns what there is to predict: of a zoo its final fine-tuned models, and of a folder all checkpoints.

    Raises `InputError` for a folder without checkpoints.
    """
    if (path / "zoo.json").is_file():
        zoo = Zoo.open(path)
        pairs = list(pairs_of(zoo.select(stage="finetune", final=True)))
        roots = {root.model: weights_of(root) for root in {root.path: root for _, root in pairs if root is not None}.values()}
        return {one.model: (one, None if root is None else roots[root.model]) for one, root in pairs}
    if not path.is_dir() or is_checkpoint(path):
        return {path.name: (path, None)}
    found = {one.name: (one, None) for one in sorted(path.iterdir()) if one.name[0] != "." and is_checkpoint(one)}
    if not found:
        raise InputError(f"{path} holds no checkpoint; name a file of weights, a folder of them, or a zoo")
    return found


def passed_over(folder: Path) -> list[str]:
    """Returns the names of what looks like weights in a folder and is of no kind that is read."""
    there = sorted(folder.iterdir()) if folder.is_dir() and not (folder / "zoo.json").is_file() else []
    return [printable(one.name) for one in there if one.name.endswith(OTHER_WEIGHTS) and not is_checkpoint(one)]


def is_checkpoint(path: Path) -> bool:
    """Whether a file or folder holds the weights of a model."""
    if not path.is_dir():
        return path.name.endswith((*SUFFIXES, REFERENCE))
    return any((path / name).exists() for name in (*WHOLE, *(f"{name}{INDEX}" for name in WHOLE), ADAPTER, ADOPTED))


def is_adapter(source: Source) -> bool:
    """Whether a source is the folder of an adapter."""
    return isinstance(source, str | Path) and (Path(source) / ADAPTER).is_file()
