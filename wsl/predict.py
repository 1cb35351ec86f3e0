"""Predicts properties of any checkpoint of the family: `python -m wsl.predict run=demo path=<checkpoint, folder or zoo>`.

Targets come from the probes saved with the run (`wsl.probes.predictor`), with intervals or sets of labels, and a warning where a
checkpoint lies outside the population that the run has seen: another shape, an unknown root, an embedding far from those of train
models. Of several checkpoints, one that cannot be read is a row that says why; the command then exits with 1.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Column, Table
from torch import Tensor

from wsl.data.invariants import invariants
from wsl.data.stacks import changes, in_float32
from wsl.formats.checkpoint import ADAPTER, INDEX, TORCH_SUFFIXES, WHOLE, read_checkpoint
from wsl.layout import layout_of
from wsl.probes.predictor import Predictor
from wsl.run import Run
from zoo_gen import InputError, Zoo
from zoo_gen.config import command
from zoo_gen.files import weights_sha256, write_atomically
from zoo_gen.zoo import zoo_folder

AT_ONCE = 32
NAMED = 10  # checkpoints that cannot be read, in the message
SHOWN = ("test_accuracy", "test_loss", "epoch")
Weights = Mapping[str, Tensor]


@dataclass
class PredictConfig:
    """The values of configs/predict.yaml."""

    run: str
    path: str
    root: str | None
    base: str | None
    zoo: str | None
    coverage: float
    out: str | None
    penalties: list[float]


@command("predict", PredictConfig)
def main(config: PredictConfig) -> None:
    """Predicts, prints the table, and writes it if asked to."""
    if not 0 < config.coverage < 1:
        raise InputError(f"coverage must be between 0 and 1, not {config.coverage:g}")
    if config.out is not None and Path(config.out).suffix not in (".csv", ".json"):
        raise InputError(f"out must end in .csv or .json, not {config.out}")
    console = Console()
    table = predict(Run.open(config.run, zoo=config.zoo), config, console)
    console.print(shown(table))
    if config.out is not None:
        text = table.to_csv(index=False) if config.out.endswith(".csv") else json.dumps(json.loads(table.to_json(orient="records")))
        write_atomically(Path(config.out), lambda beside: _write(beside, text))
        console.print(f"wrote {config.out}", soft_wrap=True)
    unread = [f"{row['checkpoint']} ({row['error']})" for _, row in table[table["error"] != ""].iterrows()]
    if unread:
        more = f" and {len(unread) - NAMED} more" if len(unread) > NAMED else ""
        raise InputError(f"{len(unread)} of {len(table)} checkpoints could not be read: {'; '.join(unread[:NAMED])}{more}")


def predict(run: Run, config: PredictConfig, console: Console) -> pd.DataFrame:
    """Returns one row per checkpoint: `checkpoint`, `taken_root`, `outside` (empty: inside), `error` (empty: none), and answers.

    Raises:
        InputError: the run has no model encoder, there is nothing to read, or the only checkpoint cannot be read.
    """
    if run.model_encoder is None:
        raise InputError(f"run {run.path} has no model encoder, by which single checkpoints are embedded; train one that has")
    predictor = Predictor.of(run, penalties=config.penalties)
    given, base = (in_float32(read_checkpoint(path)) if path else None for path in (config.root, config.base))
    roots = {} if given else {name: in_float32(run.zoo.final(name).state_dict()) for name in predictor.about["roots"]}
    path = Path(config.path)
    places = checkpoints_in(path if path.exists() else zoo_folder(path) if (zoo_folder(path) / "zoo.json").is_file() else path)
    if base and not any((place / ADAPTER).is_file() for place, _ in places.values()):
        raise InputError(f"base={config.base} is what adapters are merged into, and {path} holds no {ADAPTER}; leave base out")
    tables = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("predicting", total=len(places))
        for start in range(0, len(places), AT_ONCE):
            some = list(places.items())[start : start + AT_ONCE]
            pairs, about = [], []
            for name, (place, own) in some:
                adapted = (place / ADAPTER).is_file()
                row: dict[str, Any] = {"checkpoint": name, "taken_root": "", "outside": [], "error": ""}
                try:
                    weights = in_float32(read_checkpoint(place, base=config.base if adapted else None))
                    layout_of(weights)  # of a known architecture
                    origin = own or given or (base if adapted else None)
                    root, row["taken_root"], row["outside"] = _root_of(weights, origin, roots, predictor, place)
                    pairs.append((weights, root))
                except InputError as error:
                    if len(places) == 1:
                        raise
                    row["error"] = " ".join(str(error).split())
                else:
                    if predictor.strange_shapes(weights):
                        row["outside"].insert(0, "no train model has tensors of these names and shapes")
                about.append(row)
            tables.append(_answered(run, predictor, pairs, about, coverage=config.coverage))
            progress.advance(bar, len(some))
    return pd.concat(tables, ignore_index=True)


def _answered(
    run: Run, predictor: Predictor, pairs: list[tuple[Weights, Weights]], about: list[dict[str, Any]], *, coverage: float
) -> pd.DataFrame:
    """Returns the rows of some checkpoints, with answers where there are weights."""
    read = [number for number, row in enumerate(about) if not row["error"]]
    found = predictor(run.embed_invariants(invariants(pairs)), coverage=coverage).set_axis(read) if pairs else pd.DataFrame()
    for number in read:
        distance = found["distance"][number]
        if pd.isna(distance):
            about[number]["outside"].append("weights are not finite")
        elif distance > 1:
            about[number]["outside"].append(f"{distance:.1f} times as far from the train models as the limit")
    table = pd.DataFrame([row | {"outside": "; ".join(row["outside"])} for row in about])
    return pd.concat([table, found], axis=1)


def checkpoints_in(path: Path) -> Mapping[str, tuple[Path, Weights | None]]:
    """Returns what there is to predict by name: the place of each checkpoint, and the weights of its root where a zoo tells.

    Raises `InputError` for a folder without checkpoints.
    """
    if (path / "zoo.json").is_file():
        zoo = Zoo.open(path)
        final = list(zoo.select(stage="finetune", final=True))
        roots = {name: in_float32(zoo.final(name).state_dict()) for name in {one.root for one in final}}
        return {one.model: (one.path, roots[one.root]) for one in final}
    if not path.is_dir() or _is_checkpoint(path):
        return {path.name: (path, None)}
    found = {one.name: (one, None) for one in _members(path)}
    if not found:
        raise InputError(f"{path} holds no checkpoint; name a file of weights, a folder of them, or a zoo")
    return found


def _members(folder: Path) -> Iterator[Path]:
    for one in sorted(folder.iterdir()):
        if _is_checkpoint(one) if one.is_dir() else one.name.endswith((".safetensors", *TORCH_SUFFIXES)):
            yield one


def _is_checkpoint(folder: Path) -> bool:
    return any((folder / name).exists() for name in (*WHOLE, *(f"{name}{INDEX}" for name in WHOLE), ADAPTER))


def _root_of(
    weights: Weights, own: Weights | None, roots: Mapping[str, Weights], predictor: Predictor, place: Path
) -> tuple[Weights, str, list[str]]:
    """Returns the root of a checkpoint (the one that is known, else the nearest), its name, and what is strange about it."""
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


def shown(table: pd.DataFrame) -> Table:
    """Returns the table for the terminal: all answers to one checkpoint, or the first to many."""
    ends = ("_low", "_high", "_probability", "_set")
    targets = [name for name in table if not str(name).endswith(ends) and name not in _ABOUT]
    if len(table) == 1:
        row, view = table.iloc[0], Table("", str(table["checkpoint"][0]))
        for name in targets:
            view.add_row(str(name), _cell(row, str(name)))
        view.add_row("taken root", escape(str(row["taken_root"])))
        view.add_row("outside", escape(str(row["outside"])) or "no")
        return view
    view = Table(Column("checkpoint", overflow="fold"), *SHOWN, "outside")
    for _, row in table.head(40).iterrows():
        view.add_row(
            escape(str(row["checkpoint"])), *(_cell(row, name) for name in SHOWN), escape(str(row["error"] or row["outside"]))
        )
    far = int((table["outside"] != "").sum())
    view.caption = f"{len(table)} checkpoints, {far} outside the population of the run; out=<file>.csv has all rows and targets"
    return view


_ABOUT = ("checkpoint", "taken_root", "outside", "error", "distance")


def _cell(row: pd.Series, name: str) -> str:
    if name not in row or pd.isna(row[name]):
        return "-"
    if f"{name}_low" not in row:
        every = str(row[f"{name}_set"])
        return escape(f"{row[name]} {row[f'{name}_probability']:.2f}" + (f" ({every})" if " or " in every else ""))
    return f"{row[name]:.3g} {row[f'{name}_low']:.3g}…{row[f'{name}_high']:.3g}"


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
