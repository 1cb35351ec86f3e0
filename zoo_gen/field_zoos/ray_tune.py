"""Folders of Ray Tune, as the zoos of HSG-AIML have them (Schürholt et al., 2209.14764; SANE, 2406.09997).

A folder per trial holds `params.json`, `result.json` with one JSON object a line, and `checkpoint_<number>` folders, each with a
file `checkpoints` of `torch.save`. The number is written plainly or with leading zeros. A trial tests its model before it trains
in some zoos, so that a line is that of an epoch, or of the epoch before: `training_iteration` in the line tells, and nothing else.
Dropout shifts the indices of layers (`module_list.3` or `module_list.4`), so layers are counted: `layers.1` for both.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoo_gen.adoption.scan import TRAINER, Found, LeftOut, model_id
from zoo_gen.adoption.table import Row
from zoo_gen.errors import InputError
from zoo_gen.field_zoos.field_zoo import FieldZoo, Report, Track, counted_from_one, row_of
from zoo_gen.formats.checkpoint import SUFFIXES
from zoo_gen.reader import read_json, read_text
from zoo_gen.wording import counted

NEEDS = "no folder in it has params.json or result.json beside checkpoint_* folders"
NAMES = {
    "optim::optimizer": "optimizer",
    "optim::lr": "learning_rate",
    "optim::wd": "weight_decay",
    "optim::scheduler": "schedule",
    "training::batchsize": "batch_size",
    "training::epochs_train": "epochs",
    "model::dropout": "dropout",
    "model::init_type": "init",
    **{f"{split}_acc": f"{split}_accuracy" for split in ("train", "val", "test")},
}
"""Names of HSG-AIML of what the format knows."""

_OF_RAY = re.compile(
    r"time_.*|date|timestamp|timesteps_.*|episodes_total|done|pid|hostname|node_ip|experiment_.*|trial_id|config|iterations_since_restore"
    r"|should_checkpoint|warmup_time"
)
_PLACES = re.compile(r".*(path|dir|dump|device|cuda|workers|verbosity|::trainloader|::testloader).*")
_CHECKPOINT = re.compile(r"checkpoint_0*(\d{1,6})")
LINES = 2**28
"""Bytes of a result.json, at most."""


def is_one(folder: Path) -> bool:
    """Whether some folder in it is that of a trial."""
    return next(_trials(folder), None) is not None


def _trials(folder: Path) -> Iterator[Path]:
    """Yields the folders of trials, in the order of their names."""
    for at, folders, files in os.walk(folder):
        folders.sort()
        if {"params.json", "result.json"} & set(files) and any(_CHECKPOINT.fullmatch(name) for name in folders):
            folders.clear()
            yield Path(at)


def read(folder: Path, report: Report, track: Track) -> FieldZoo:
    """Reads the trials of a folder. Raises `InputError` if none has a checkpoint."""
    found: list[Found] = []
    rows: dict[Path, list[Row]] = {}
    models: set[str] = set()
    for trial in track(list(_trials(folder)), "trials"):
        name = trial.relative_to(folder).as_posix()
        lines = _lines(trial / "result.json", f"{name}/result.json", report)
        params = _params(trial, name, lines, report)
        of_model = row_of(name, {key: value for key, value in params.items() if not _PLACES.fullmatch(key)}, NAMES, report)
        model = model_id(name.replace("/", "--"))
        while model in models:  # names that were cut
            model += "_"
        models.add(model)
        for place, number in _checkpoints(trial, name, report):
            at = place.relative_to(folder).as_posix()
            found.append(Found(place, at, model, number, None, "", place.parent))
            told = {key: value for key, value in lines.get(number, {}).items() if not _OF_RAY.fullmatch(key)}
            if number not in lines:
                report(
                    LeftOut(at, f"result.json of {name} has no line of training_iteration {number}, so its results are not known")
                )
            rows[place] = [of_model, row_of(at, told | {"training_iteration": number}, NAMES, report)]
    if not found:
        raise InputError(f"no trial in {folder} has a checkpoint that can be read; see the folders checkpoint_*")
    return FieldZoo(counted_from_one(found, any(one.epoch == 0 for one in found)), rows, names="counted")


def _params(trial: Path, name: str, lines: dict[int, dict[str, Any]], report: Report) -> dict[str, Any]:
    """Returns the settings of a trial: those of params.json, or of the last line of result.json."""
    try:
        if (trial / "params.json").is_file():
            return read_json(trial / "params.json", advice="fetch it again")
    except InputError as error:
        report(LeftOut(f"{name}/params.json", str(error)))
    config = next((line["config"] for line in reversed(lines.values()) if isinstance(line.get("config"), dict)), None)
    return {} if config is None else config


def _lines(path: Path, name: str, report: Report) -> dict[int, dict[str, Any]]:
    """Returns the lines of result.json by their training iteration; of two of one iteration, as in resumed trials, the last one."""
    if not path.is_file():
        report(LeftOut(name, "there is none, so the results of this trial are not known"))
        return {}
    found: dict[int, dict[str, Any]] = {}
    try:
        text = read_text(path, advice="fetch it again", limit=LINES)
    except InputError as error:
        report(LeftOut(name, str(error)))
        return {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            told = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError):
            report(LeftOut(f"{name}, line {number}", "it is no JSON; a trial that was stopped may end so"))
            continue
        if told is None:
            continue
        iteration = told.get("training_iteration") if isinstance(told, dict) else None
        if not isinstance(iteration, int) or isinstance(iteration, bool):
            report(LeftOut(f"{name}, line {number}", "it has no training_iteration, which tells the epoch"))
            continue
        found[iteration] = told
    return found


def _checkpoints(trial: Path, name: str, report: Report) -> Iterator[tuple[Path, int]]:
    """Yields the files of weights of a trial with their numbers, in order."""
    there = [(int(match[1]), at) for at in trial.iterdir() if at.is_dir() and (match := _CHECKPOINT.fullmatch(at.name))]
    for number, at in sorted(there):
        files = sorted(place for place in at.iterdir() if place.is_file() and not place.name.startswith("."))
        named = [place for place in files if place.name == "checkpoints"]
        named = named or [place for place in files if place.name.endswith(SUFFIXES) and not TRAINER.fullmatch(place.name)]
        if len(named) == 1:
            yield named[0], number
        else:
            what = "no file 'checkpoints' and no other" if not named else counted(len(named), "file")
            report(LeftOut(f"{name}/{at.name}", f"it holds {what} of weights, where one is needed"))
