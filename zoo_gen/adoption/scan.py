"""What a folder holds: files and folders of weights, each with the model and the epoch that its name tells.

Names are read where they are obvious: `epoch=9-step=1000.ckpt` (Lightning counts from 0), `epoch_3.pt`, `checkpoint-9.pth.tar`,
`epochs/0003.safetensors`, and folders `checkpoint-500` of a Trainer, whose number is a step.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from zoo_gen.errors import InputError
from zoo_gen.formats.checkpoint import ADAPTER, INDEX, SUFFIXES, WHOLE_OR_INDEX
from zoo_gen.formats.shapes import SHARD
from zoo_gen.reader import read_json

OTHERS = (".h5", ".keras", ".onnx", ".npz", ".npy", ".pkl", ".pickle", ".tflite", ".gguf", ".msgpack", ".joblib", ".tar", ".zip")
"""Suffixes of files that may well be models, and are none that can be read."""

TRAINER = re.compile(
    r"(optimizer|scheduler|rng_state(_\d+)?|training_args|scaler|optim_states.*|random_states_\d+)\.(pt|pth|bin|pkl|safetensors)"
)
"""Files that trainers keep beside the weights."""

SKIPPED = ("blobs", "refs", "__pycache__", "__MACOSX", "wandb", "node_modules")
_CONTAINERS = ("epochs", "checkpoints", "ckpts", "ckpt", "checkpoint", "weights")
_WORDS = frozenset(["model", "checkpoint", "ckpt", "weights", "state", "dict", "best", "last", "final", "pytorch", "epoch", "step"])
_EPOCH = re.compile(r"(?i)(?:^|(?<=[-_. ]))(?:epoch|ep|checkpoint|ckpt)([-_= ]?)(\d{1,6})(?=$|[-_. ])")
_SETTING = re.compile(r"(?i)(?:^|(?<=[-_. ]))[a-z][\w/]*=[-+\d.e]+|(?:^|(?<=[-_. ]))step[-_ ]?\d+|(?<=[-_. ])v\d+$")


@dataclass(frozen=True)
class Found:
    """A file or folder of weights.

    Attributes:
        path: of the file or folder.
        name: relative to the folder that was looked through, with `/`.
        model: what its name says of the model.
        epoch: what its name says of the epoch, None for nothing; of names that count from 0, one more.
        step: of a Trainer's folder, None for nothing.
        word: `last` or `best` where the name says that; empty for other names.
        config: the folder whose config.json describes it.
    """

    path: Path
    name: str
    model: str
    epoch: int | None
    step: int | None
    word: str
    config: Path

    @property
    def is_adapter(self) -> bool:
        """Whether it is the folder of a LoRA adapter."""
        return (self.path / ADAPTER).is_file()

    @property
    def shown(self) -> str:
        """How messages call it: by its model, and its epoch if that is known."""
        return self.model if self.epoch is None else f"{self.model} (epoch {self.epoch})"


@dataclass(frozen=True)
class LeftOut:
    """A row of the report: what was left out, or in part, and why."""

    file: str
    reason: str


def scan(folder: Path, *, but: Path) -> Iterator[Found | LeftOut]:
    """Yields the files and folders of weights in a folder, and what looks like weights and is none.

    Args:
        folder: is looked through, with its folders; hidden ones are passed over, links are followed once.
        but: a folder that is passed over, of the zoo that is made.
    """
    seen = {folder.resolve()}
    for at, folders, files in os.walk(folder, followlinks=True):
        here = Path(at)
        inside = sorted(name for name in folders if not name.startswith(".") and name not in SKIPPED)
        folders[:] = [name for name in inside if not _is_seen(here / name, seen) and (here / name).resolve() != but.resolve()]
        if here != folder and "zoo.json" in files:
            folders.clear()
            yield LeftOut(_relative(here, folder), "it is a zoo, which Zoo.open reads; adopt the folder of its weights by itself")
            continue
        if here.name == "snapshots" and here.parent.name.startswith("models--"):
            yield from _snapshots(here, folders, folder)
        yield from _here(here, sorted(files), folder)


def found_at(place: Path, folder: Path) -> Found:
    """Returns what one place holds that lies in the folder or elsewhere. Raises `InputError` if there is nothing."""
    if not place.exists():
        raise InputError(f"there is no file or folder {place.absolute()}; name a checkpoint")
    return _found(Path(os.path.abspath(place)), folder)


def _is_seen(place: Path, seen: set[Path]) -> bool:
    """Whether a folder that a link leads to was looked through already."""
    real = place.resolve()
    is_seen = real in seen
    seen.add(real)
    return is_seen


def _snapshots(here: Path, folders: list[str], folder: Path) -> Iterator[LeftOut]:
    """Leaves of several snapshots of a model in the hub's cache the one of `main`."""
    main = here.parent / "refs" / "main"
    try:
        name = main.read_text(encoding="utf-8").strip() if main.is_file() and main.stat().st_size < 200 else None
    except (OSError, UnicodeDecodeError):
        name = None
    if len(folders) > 1 and name in folders:
        folders[:] = [name]
    elif len(folders) > 1:
        there = ", ".join(folders)
        folders.clear()
        yield LeftOut(_relative(here.parent, folder), f"it has the snapshots {there} and refs/main names none; adopt one by itself")


def _here(here: Path, files: list[str], folder: Path) -> Iterator[Found | LeftOut]:
    """Yields what one folder holds, its own folders aside."""
    if ADAPTER in files:
        yield _found(here, folder)
        return
    whole = next((name for name in WHOLE_OR_INDEX if name in files), None)
    if whole is not None:
        yield _found(here, folder)
    for name in files:
        place = here / name
        if name.startswith(".") or name in WHOLE_OR_INDEX or TRAINER.fullmatch(name):
            continue
        if name.endswith(INDEX):
            yield _found(place, folder)
        elif shard := SHARD.search(name):
            if not any(other.endswith(INDEX) for other in files) and int(shard[1]) == 1:
                yield LeftOut(
                    _relative(place, folder), f"it is one of {int(shard[2])} files of one model, and their index is missing"
                )
        elif name.endswith(SUFFIXES):
            yield _found(place, folder)
        elif name.endswith(OTHERS) and whole is None:
            yield LeftOut(
                _relative(place, folder), "it is of a kind that is not read; save the model as safetensors, or by torch.save"
            )


def _relative(place: Path, folder: Path) -> str:
    return PurePosixPath(os.path.relpath(place, folder)).as_posix() if place.is_relative_to(folder) else str(place)


def _found(place: Path, folder: Path) -> Found:
    """Describes a place by its name."""
    name, is_folder = _relative(place, folder), place.is_dir()
    parts = [part for part in (Path(name).parts if place.is_relative_to(folder) else place.parts[-1:]) if part != "."]
    if hub := next((number for number, part in enumerate(parts) if part.startswith("models--")), None):
        parts = parts[hub:]
    parts = parts or [folder.name]
    if parts[0].startswith("models--"):
        parts = [parts[0].removeprefix("models--"), *parts[3:]]
    elif place.parent.name == "snapshots" and place.parent.parent.name.startswith("models--"):
        parts = [place.parent.parent.name.removeprefix("models--")]
    *outer, last = parts
    stem = last if is_folder else _stem(last)
    epoch, step, word, rest = _told(stem, container=outer[-1] if outer else "", is_folder=is_folder)
    dropped = [*outer]
    while dropped and dropped[-1].lower() in _CONTAINERS and (epoch is not None or word):
        dropped.pop()
    config = place if is_folder else place.parent
    while (
        config != folder
        and config.is_relative_to(folder)
        and config.name.lower() in _CONTAINERS
        and not (config / "config.json").is_file()
    ):
        config = config.parent
    told = [*dropped, rest] if rest or not dropped else dropped
    nameless = stem if epoch is None and step is None else folder.name
    return Found(place, name, model_id("--".join(filter(None, told)) or nameless), epoch, step, word, config)


def _stem(name: str) -> str:
    """A file's name without the suffix of its kind."""
    ends = sorted((INDEX, *SUFFIXES), key=len, reverse=True)
    return next((name.removesuffix(end) for end in ends if name.endswith(end)), name)


def _told(stem: str, *, container: str, is_folder: bool) -> tuple[int | None, int | None, str, str]:
    """What a name says: epoch, step, `last` or `best`, and what is left of it to name the model."""
    if is_folder:
        number = re.fullmatch(r"checkpoint-(\d{1,9})", stem)
        return (None, int(number[1]), "", "") if number else (None, None, "last" if _is_epochs(stem) else "", stem)
    if re.fullmatch(r"\d{1,6}", stem) and container.lower() in _CONTAINERS:
        return int(stem), None, "", ""
    match = _EPOCH.search(stem)
    rest = _SETTING.sub("", stem if match is None else f"{stem[: match.start()]}{stem[match.end() :]}")
    words = [word for word in re.split(r"[-_. =]+", rest) if word]
    plain = all(word.lower() in _WORDS for word in words)
    if match is not None:
        return int(match[2]) + (match[1] == "="), None, "", "" if plain else "-".join(words)
    if plain and words:
        return None, None, "best" if "best" in map(str.lower, words) else "last", ""
    return None, None, "", stem


def _is_epochs(stem: str) -> bool:
    return stem.lower() in ("last", "final", "best")


def model_id(text: str) -> str:
    """A text as the name of a model's folder.

    >>> model_id("runs/a (1)")
    'runs_a__1_'
    """
    return re.sub(r"[^\w.+=-]", "_", text).lstrip(".")[:120] or "model"


def epoch_of_trainer(place: Path) -> float | None:
    """The epoch that a Trainer's folder tells in its state; None where it does not."""
    try:
        told = read_json(place / "trainer_state.json").get("epoch")
    except (InputError, json.JSONDecodeError):
        return None
    return float(told) if isinstance(told, int | float) and not isinstance(told, bool) else None
