"""Checks a zoo: `python -m zoo_gen.verify <zoo>` reads every checkpoint, and compares zoo.json, the records and the index.

With `--repair` it makes the index anew from the records, and gives a zoo of format 1 the hashes of format 2. Weights are never
repaired, they are made again by `python -m zoo_gen`. Of an adopted zoo, weights that lie elsewhere are read there and left alone.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from zoo_gen.blueprint import ModelSpec, planned
from zoo_gen.content import FORMAT_VERSION, SEAL, is_guarded, models_of, read_description, sealed
from zoo_gen.errors import InputError, one_clear_error, printable, refuse_bytes
from zoo_gen.files import json_sha256, locked, sha256_of, weights_sha256, write_json
from zoo_gen.index import COLUMNS, CONFIG, plain, read_record, record_path, rows_of
from zoo_gen.reader import inside, read_json, read_weights
from zoo_gen.reference import Reference, is_reference, read_reference
from zoo_gen.remote import refuse_remote
from zoo_gen.wording import counted, file_size
from zoo_gen.writer import write_index
from zoo_gen.zoo import Zoo, zoo_folder

_RESTORE = "restore it, or make the zoo again by the command that made it"
_MADE = "run python -m zoo_gen with the zoo's arguments"
_AGAIN = "adopt the models again: python -m zoo_gen.adopt"
_CHANGED = "put it back as it was, or adopt the models again: python -m zoo_gen.adopt"
_REPAIR = "rebuild it with --repair"


def problems(path: Path) -> Iterator[str]:
    """Yields what is wrong with a zoo, one sentence each, having read all of it.

    Raises `InputError` if the folder is no zoo or its index cannot be read.
    """
    zoo = Zoo.open(path)
    specs = _specs(zoo.config)
    yield from _description(path, zoo.config, specs)
    models, adopted = _models(zoo.config, specs), zoo.adopted
    expected: list[dict[str, Any]] = []
    finished = 0
    for model in models:
        if not record_path(path, model).exists():
            continue
        try:
            record = read_record(path, model)
            yield from _record(path, record, specs.get(model), guarded=is_guarded(zoo.config))
        except InputError as error:
            yield str(error)
            continue
        finished += bool(record["checkpoints"] and record["checkpoints"][-1]["final"])
        expected += rows_of(record)
        for checkpoint in record["checkpoints"]:
            yield from _damage(path, checkpoint, adopted=adopted)
    columns = plain(zoo.frame)
    yield from _index([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)], expected)
    yield from _copies(expected, "adopt the models again, which leaves copies out" if adopted else "delete the folder of the copy")
    yield from _surplus(path, models, {row["path"] for row in expected}, "move it elsewhere" if adopted else "delete it")
    if finished < len(models):
        what = f"lack their record; {_AGAIN}" if adopted else "are not finished; run python -m zoo_gen with the zoo's arguments"
        yield f"{len(models) - finished} of {len(models)} models {what}"


def _specs(description: Mapping[str, Any]) -> dict[str, ModelSpec]:
    """Returns the models that a zoo's configuration plans, by id; none where it is no blueprint, or another version's."""
    specs = planned(description["config"], seed=description["seed"], most=len(models_of(description)))
    return {spec.model: spec for spec in specs}


def _models(description: Mapping[str, Any], specs: Mapping[str, ModelSpec]) -> list[str]:
    """Returns the ids of a zoo's models in the order of the index: as they are planned, or else as they are stacked."""
    models = dict.fromkeys(models_of(description))
    return [*(model for model in specs if model in models), *(model for model in models if model not in specs)]


def _description(path: Path, description: Mapping[str, Any], specs: Mapping[str, ModelSpec]) -> Iterator[str]:
    """Yields what is wrong with zoo.json."""
    place, models = path / "zoo.json", models_of(description)
    if (is_guarded(description) or SEAL in description) and sealed(description)[SEAL] != description.get(SEAL):
        yield f"{place} was changed since it was written (its '{SEAL}' differs); restore it"
    if description["models"] != len(models):
        yield f"{place} has {description['models']} in 'models' and names {counted(len(models), 'model')}; restore it"
    for model, count in Counter(models).items():
        if count > 1:
            yield f"{place} names {model} {count} times; restore it"
        elif specs and model not in specs:
            yield f"{place} names {model} in 'stacks', which its 'config' does not plan; restore it"


def _record(path: Path, record: Mapping[str, Any], spec: ModelSpec | None, *, guarded: bool) -> Iterator[str]:
    """Yields where a record disagrees with the plan of zoo.json, with config.json, or with itself."""
    model, place = record["model"], record_path(path, record["model"])
    described = path / "models" / model / "config.json"
    found = json_sha256(read_json(inside(path, f"models/{model}/config.json")))
    if record.get(CONFIG, None if guarded else found) != found:
        yield f"{described} is not the one that {place} was written with ('{CONFIG}' differs); {_RESTORE}"
    if spec is not None:
        lineage = ("root", "parent", "stage", "fold")
        told = {**record["factors"], **{key: record[key] for key in lineage}}
        plan = {**spec.factors, **{key: getattr(spec, key) for key in lineage}}
        if differ := sorted(key for key in told.keys() | plan if told.get(key) != plan.get(key) and (guarded or key in told)):
            yield f"{place} has another {', '.join(differ)} than zoo.json plans for {model}; {_RESTORE}"
        if found != json_sha256(spec.architecture):
            yield f"{described} is not the architecture that zoo.json plans for {model}; {_RESTORE}"
    epochs = [checkpoint["epoch"] for checkpoint in record["checkpoints"]]
    if epochs != sorted(set(epochs)) or any(checkpoint["final"] for checkpoint in record["checkpoints"][:-1]):
        yield f"{place} has its epochs twice, in another order, or one after the final one; {_RESTORE}"
    for checkpoint in record["checkpoints"]:
        if not checkpoint["path"].startswith(f"models/{model}/"):
            yield f"{place} names {checkpoint['path']}, which is not in the folder of {model}; {_RESTORE}"


def _index(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> Iterator[str]:
    """Yields where the index disagrees with the rows that the records make."""
    known = {row["path"]: row for row in expected}
    seen: Counter[str] = Counter()
    for row in rows:
        name = row["path"]
        seen[name] += 1
        if name not in known:
            yield f"the index lists {name}, which no record names; {_REPAIR}"
        elif differ := [one for one in dict.fromkeys((*COLUMNS, *row, *known[name])) if row.get(one) != known[name].get(one)]:
            yield f"the index does not agree with the record on {', '.join(differ)} of {name}; {_REPAIR}"
    for name, count in seen.items():
        if count > 1:
            yield f"the index lists {name} {count} times; {_REPAIR}"
    for name in known.keys() - seen.keys():
        yield f"the index lacks {name}, which a record names; {_REPAIR}"
    if [row["path"] for row in rows] != [row["path"] for row in expected] and seen == Counter(row["path"] for row in expected):
        yield f"the rows of the index are in another order than the models of zoo.json; {_REPAIR}"


def _copies(rows: list[dict[str, Any]], advice: str) -> Iterator[str]:
    """Yields models that have equal weights under two names; those that diverged may be equal, as all NaN is."""
    first: dict[str, str] = {}
    pairs = Counter[tuple[str, str]]()
    for row in rows:
        other = first.setdefault(row["weights_sha256"], row["model"])
        pairs[other, row["model"]] += other != row["model"] and row["status"] == "ok"
    for (one, other), count in pairs.items():
        if count:
            yield f"models {one} and {other} have equal weights ({counted(count, 'checkpoint')}); {advice}"


def _surplus(path: Path, models: list[str], named: set[str], advice: str) -> Iterator[str]:
    """Yields folders of models that zoo.json does not name, files of weights that no record names, and links."""
    for folder in sorted((path / "models").iterdir() if (path / "models").is_dir() else []):
        if folder.name not in models:
            yield f"{folder} is of no model of zoo.json; move it elsewhere"
    for file in sorted((path / "models").rglob("*")):
        if file.is_symlink():
            yield f"{file} is a symbolic link; put the file itself there"
        elif (file.suffix == ".safetensors" or is_reference(file)) and str(file.relative_to(path)) not in named:
            yield f"{file} is named by no record; {advice}"


def _damage(path: Path, checkpoint: Mapping[str, Any], *, adopted: bool) -> Iterator[str]:
    """Yields what is wrong with one file of weights, or with the files of others that a reference names."""
    advice = _AGAIN if adopted else _MADE
    try:
        file = inside(path, checkpoint["path"])
        reference = read_reference(file) if adopted and is_reference(file) else None
        if not file.exists():
            yield f"{file} is gone; {advice if adopted else f'delete its folder and {advice}'}"
        elif not file.is_file():
            yield f"{file} is no file; {advice if adopted else f'delete it and {advice}'}"
        elif reference is not None:
            yield from _elsewhere(file, reference, checkpoint)
        elif sha256_of(file) != checkpoint["sha256"]:
            yield f"{file} is not the file that was written (sha256 differs); restore it"
        elif weights_sha256(read_weights(file, advice=advice)) != checkpoint["weights_sha256"]:
            yield f"{file} does not hold the weights of its record; restore it"
    except InputError as error:
        yield str(error)


def _elsewhere(file: Path, reference: Reference, checkpoint: Mapping[str, Any]) -> Iterator[str]:
    """Yields what is wrong with weights that lie outside of the zoo: they are read as a whole, whatever their times say."""
    reference.check()
    if reference.sha256 != checkpoint["sha256"]:
        yield f"{file} is not the reference of its record ('sha256' differs); {_RESTORE}"
    elif reference.sealed().sha256 != reference.sha256:
        yield f"{reference.path} has changed since it was adopted (sha256 differs); {_CHANGED}"
    elif weights_sha256(reference.tensors()) != checkpoint["weights_sha256"]:
        yield f"{file} does not lead to the weights of its record; {_RESTORE}"


def repair(path: Path) -> None:
    """Makes the index anew from the records, and gives a zoo of format 1 the hashes of format 2.

    Raises `InputError` if the folder holds no zoo, or, of format 1, one whose records are not as zoo.json plans them.
    """
    if not (path / "zoo.json").is_file():
        raise InputError(f"there is no zoo in {path.resolve()} whose index could be made anew")
    with locked(path / ".lock", f"zoo {path}"):
        description = read_description(path)
        specs = _specs(description)
        if not is_guarded(description):
            _guard(path, description, specs)
        write_index(path, _models(description, specs))


def _guard(path: Path, description: dict[str, Any], specs: Mapping[str, ModelSpec]) -> None:
    """Writes the hashes of format 2 into the records and zoo.json of a zoo of format 1; weights stay as they are."""
    wrong, changed = list(_description(path, description, specs)), {}
    for model in models_of(description):
        if record_path(path, model).exists():
            record = read_record(path, model)
            wrong += _record(path, record, specs.get(model), guarded=False)
            changed[model] = {CONFIG: json_sha256(read_json(inside(path, f"models/{model}/config.json"))), **record}
    if wrong:
        raise InputError(f"{wrong[0]}; nothing was written")
    for model, record in changed.items():
        write_json(record_path(path, model), record)
    write_json(path / "zoo.json", sealed({**description, "format_version": FORMAT_VERSION}))


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line (`zoo_gen.startup` calls it before the imports)."""
    parser = argparse.ArgumentParser(prog="python -m zoo_gen.verify", description="Checks every file of a zoo.")
    parser.add_argument("zoo", help="folder of the zoo, or its name under checkpoints/zoos")
    parser.add_argument("--repair", action="store_true", help="first make the index anew from the records")
    return parser


def main(given: list[str] | None = None) -> None:
    """Checks the zoo of the command line; exits with 1 if anything is wrong with it."""
    arguments = parser().parse_args(given)
    with one_clear_error():
        refuse_bytes(arguments.zoo)
        refuse_remote("verify", arguments.zoo)
        path = zoo_folder(arguments.zoo)
        if arguments.repair:
            repair(path)
        found = list(problems(path))
        for problem in found:
            print(printable(problem))
        if found:
            raise InputError(f"zoo {path} has {counted(len(found), 'problem')}")
        zoo = Zoo.open(path)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file() and not file.is_symlink())
        models = zoo.frame["model"].nunique()
        what = f"{counted(models, 'model')}, {counted(len(zoo), 'checkpoint')}, {file_size(size)}"
        print(f"{zoo.name}: {what}: every hash, the records and the index agree")


if __name__ == "__main__":
    main()
