"""Predictions for checkpoints of any kind: read, paired with the roots they were fine-tuned from, embedded, and probed.

Predictions come with intervals or sets of labels (`wsl.probes.predictor`), and a checkpoint that is out of the distribution of the
train models says why: its shapes, its root, or the distance of its embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from wsl.data.stacks import changes, in_float32
from wsl.layout import layout_of
from wsl.probes.predictor import Predictor
from wsl.run import Run
from zoo_gen import InputError, Zoo
from zoo_gen.errors import printable
from zoo_gen.files import weights_sha256
from zoo_gen.formats.checkpoint import ADAPTER, INDEX, SUFFIXES, WHOLE, read_checkpoint

AT_ONCE = 32
Weights = Mapping[str, Tensor]

Places = Mapping[str, tuple[Path, Weights | None]]
"""Where checkpoints are, by name, and the weights of the root of each where they are known."""

OTHER_WEIGHTS = (".h5", ".keras", ".msgpack", ".onnx", ".npz", ".npy", ".gguf", ".pkl", ".tflite", ".pb", ".mar", ".tar", ".zip")
"""Endings of files that may hold weights, and are of no kind that is read."""


@dataclass
class PredictConfig:
    """The values of configs/predict.yaml."""

    run: str
    path: str
    root: str | None
    base: str | None
    prefix: str | None
    leave_out: list[str]
    zoo: str | None
    coverage: float
    fail_outside: bool
    out: str | None
    penalties: list[float]


def predict(run: Run, places: Places, config: PredictConfig, console: Console) -> pd.DataFrame:
    """Returns one row per checkpoint: `checkpoint`, `taken_root`, `out_of_distribution` (why; empty: it is not),
    `error` (empty: none), and predictions.

    Raises:
        InputError: there is nothing to read, or the only checkpoint cannot be read.
    """
    predictor = Predictor.of(run, penalties=config.penalties)
    names: dict[str, Any] = {"prefix": config.prefix, "leave_out": config.leave_out}
    given = in_float32(read_checkpoint(config.root, **names)) if config.root else None
    base = in_float32(read_checkpoint(config.base)) if config.base else None
    roots = {} if given else {name: in_float32(run.zoo.final(name).state_dict()) for name in predictor.about["roots"]}
    if base and not any((place / ADAPTER).is_file() for place, _ in places.values()):
        raise InputError(
            f"base={config.base} is what adapters are merged into, and {config.path} holds no {ADAPTER}; leave base out"
        )
    tables = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("predicting", total=len(places))
        for start in range(0, len(places), AT_ONCE):
            some = list(places.items())[start : start + AT_ONCE]
            pairs, about = [], []
            for name, (place, own) in some:
                adapted = (place / ADAPTER).is_file()
                row: dict[str, Any] = {"checkpoint": printable(name), "taken_root": "", "out_of_distribution": [], "error": ""}
                try:
                    weights = in_float32(read_checkpoint(place, base=config.base if adapted else None, **names))
                    layout_of(weights)  # of a known architecture
                    origin = own or given or (base if adapted else None)
                    root, row["taken_root"], row["out_of_distribution"] = _root_of(weights, origin, roots, predictor, place)
                    pairs.append((weights, root))
                except InputError as error:
                    if len(places) == 1:
                        raise
                    row["error"] = " ".join(str(error).split())
                else:
                    if predictor.has_unseen_shapes(weights):
                        row["out_of_distribution"].insert(0, "no train model has tensors of these names and shapes")
                about.append(row)
            tables.append(_predicted(run, predictor, pairs, about, coverage=config.coverage))
            progress.advance(bar, len(some))
    return pd.concat(tables, ignore_index=True)


def _predicted(
    run: Run, predictor: Predictor, pairs: list[tuple[Weights, Weights]], about: list[dict[str, Any]], *, coverage: float
) -> pd.DataFrame:
    """Returns the rows of some checkpoints, with predictions where there are weights."""
    read = [number for number, row in enumerate(about) if not row["error"]]
    found = _bounded(predictor(run.embed_weights(pairs), coverage=coverage)).set_axis(read) if pairs else pd.DataFrame()
    for number in read:
        distance = found["distance"][number]
        if pd.isna(distance):
            about[number]["out_of_distribution"].append("weights are not finite")
        elif distance > 1:
            about[number]["out_of_distribution"].append(f"{distance:.1f} times as far from the train models as the limit")
    table = pd.DataFrame([row | {"out_of_distribution": "; ".join(row["out_of_distribution"])} for row in about])
    return pd.concat([table, found], axis=1)


def _bounded(found: pd.DataFrame) -> pd.DataFrame:
    """Returns predictions without intervals that lie wholly beyond the bounds of their target: clipped, they would have no width.

    Such a probe is wrong there, and how wrong is unknown.
    """
    for low, high in ((name, f"{name[:-4]}_high") for name in map(str, found) if name.endswith("_low")):
        found.loc[found[low] == found[high], [low, high]] = float("nan")
    return found


def checkpoints_in(path: Path) -> Places:
    """Returns what there is to predict: of a zoo its final fine-tuned models, and of a folder all checkpoints.

    Raises `InputError` for a folder without checkpoints.
    """
    if (path / "zoo.json").is_file():
        zoo = Zoo.open(path)
        final = list(zoo.select(stage="finetune", final=True))
        roots = {name: in_float32(zoo.final(name).state_dict()) for name in {one.root for one in final}}
        return {one.model: (one.path, roots[one.root]) for one in final}
    if not path.is_dir() or _is_checkpoint(path):
        return {path.name: (path, None)}
    found = {one.name: (one, None) for one in sorted(path.iterdir()) if one.name[0] != "." and _is_checkpoint(one)}
    if not found:
        raise InputError(f"{path} holds no checkpoint; name a file of weights, a folder of them, or a zoo")
    return found


def passed_over(folder: Path) -> list[str]:
    """Returns the names of what looks like weights in a folder and is of no kind that is read."""
    there = sorted(folder.iterdir()) if folder.is_dir() and not (folder / "zoo.json").is_file() else []
    return [printable(one.name) for one in there if one.name.endswith(OTHER_WEIGHTS) and not _is_checkpoint(one)]


def _is_checkpoint(path: Path) -> bool:
    if not path.is_dir():
        return path.name.endswith(SUFFIXES)
    return any((path / name).exists() for name in (*WHOLE, *(f"{name}{INDEX}" for name in WHOLE), ADAPTER))


def _root_of(
    weights: Weights, own: Weights | None, roots: Mapping[str, Weights], predictor: Predictor, place: Path
) -> tuple[Weights, str, list[str]]:
    """Returns the root of a checkpoint (the one that is known, else the nearest), its name, and what is unusual about it."""
    names = {sha: name for name, sha in predictor.about["roots"].items()}
    if own is not None:
        name = names.get(weights_sha256(own), "")
        return own, name, [] if name else ["its root is none of the run's"]
    near = {name: _distance(weights, root) for name, root in roots.items()}
    name = min(near, key=near.__getitem__)
    if near[name] == float("inf"):
        raise InputError(f"{place} has the shapes of no root of the run; say what it was fine-tuned from: root=<path>")
    far = near[name] > 1
    return roots[name], name, ["no root of the run is near: root=<path> says which it is"] if far else []


def _distance(weights: Weights, root: Weights) -> float:
    """Returns the norm of the change over that of the root; infinite where nothing, or not the first tensor, is shared."""
    changed = changes(weights, root)
    if len(changed) < len(root) / 2:
        return float("inf")
    size = sum(float(root[name].square().sum()) for name in changed)
    return (sum(float(change.square().sum()) for change in changed.values()) / size) ** 0.5
