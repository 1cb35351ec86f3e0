"""Checks a zoo: `python -m zoo_gen.verify <zoo>` reads every checkpoint and compares it with the records and the index.

With `--repair` it makes the index anew from the records; weights are never repaired, they are made again by `python -m zoo_gen`.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from zoo_gen.blueprint import blueprint_of
from zoo_gen.config import one_clear_error
from zoo_gen.errors import InputError, printable
from zoo_gen.files import locked, sha256_of, weights_sha256
from zoo_gen.index import read_record, record_path
from zoo_gen.reader import inside, read_json, read_weights
from zoo_gen.writer import write_index
from zoo_gen.zoo import Zoo, zoo_folder


def problems(path: Path) -> Iterator[str]:
    """Yields what is wrong with a zoo, one sentence each, having read all of it.

    Raises `InputError` if the folder is no zoo or its index cannot be read.
    """
    zoo = Zoo.open(path)
    rows = {row["path"]: row for row in zoo.frame.to_dict("records")}
    models = [model for stack in zoo.config["stacks"].values() for model in stack["models"]]
    listed: set[str] = set()
    finished = 0
    for model in models:
        record = record_path(path, model)
        if not record.exists():
            continue
        checkpoints = read_record(path, model)["checkpoints"]
        finished += bool(checkpoints and checkpoints[-1]["final"])
        for checkpoint in checkpoints:
            name = checkpoint["path"]
            listed.add(name)
            row = rows.get(name)
            if row is None or any(row[key] != checkpoint[key] for key in ("epoch", "final", "sha256", "weights_sha256")):
                yield f"the index does not agree with {record} on {name}; rebuild it with --repair"
            elif any(value != (None if pd.isna(row[key]) else row[key]) for key, value in checkpoint["results"].items()):
                yield f"the index does not agree with {record} on the results of {name}; rebuild it with --repair"
            yield from _damage(inside(path, name), checkpoint)
    for name in sorted(rows.keys() - listed):
        yield f"the index lists {name}, which no record names; rebuild it with --repair"
    found = {str(file.relative_to(path)) for file in (path / "models").rglob("*.safetensors")}
    for name in sorted(found - listed):
        yield f"{path / name} is named by no record; delete it"
    if finished < len(models):
        yield f"{len(models) - finished} of {len(models)} models are not finished; run python -m zoo_gen with the zoo's arguments"


def _damage(file: Path, checkpoint: dict[str, str]) -> Iterator[str]:
    """Yields what is wrong with one file of weights."""
    if not file.exists():
        yield f"{file} is gone; delete the model's folder and run python -m zoo_gen with the zoo's arguments"
    elif not file.is_file():
        yield f"{file} is no file; delete it and run python -m zoo_gen with the zoo's arguments"
    elif sha256_of(file) != checkpoint["sha256"]:
        yield f"{file} is not the file that was written (sha256 differs); restore it"
    elif weights_sha256(read_weights(file)) != checkpoint["weights_sha256"]:
        yield f"{file} does not hold the weights of its record; restore it"


def repair(path: Path) -> None:
    """Makes the index anew from the records. Raises `InputError` if the folder holds no zoo."""
    if not (path / "zoo.json").is_file():
        raise InputError(f"there is no zoo in {path.resolve()} whose index could be made anew")
    with locked(path / ".lock", f"zoo {path}"):
        description = read_json(path / "zoo.json")
        write_index(path, [spec.model for spec in blueprint_of(description["config"], load=[]).plan(description["seed"])])


def main(given: list[str] | None = None) -> None:
    """Checks the zoo of the command line; exits with 1 if anything is wrong with it."""
    parser = argparse.ArgumentParser(prog="python -m zoo_gen.verify", description="Checks every file of a zoo.")
    parser.add_argument("zoo", help="folder of the zoo, or its name under checkpoints/zoos")
    parser.add_argument("--repair", action="store_true", help="make the index anew from the records first")
    arguments = parser.parse_args(given)
    with one_clear_error():
        path = zoo_folder(arguments.zoo)
        if arguments.repair:
            repair(path)
        found = list(problems(path))
        for problem in found:
            print(printable(problem))
        if found:
            raise InputError(f"zoo {path} has {len(found)} problem{'s' if len(found) > 1 else ''}")
        zoo = Zoo.open(path)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
        models = zoo.frame["model"].nunique()
        print(f"{zoo.name}: {models} models, {len(zoo)} checkpoints, {size / 1e6:,.0f} MB: every hash and the index agree")


if __name__ == "__main__":
    main()
