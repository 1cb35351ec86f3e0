"""Runs of the folds of a zoo, by the model, the split and the seed; and runs of other zoos that have seen no model of it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from wsl.data.leakage import refuse_seen_images
from wsl.features.features import Features
from wsl.run import Run
from zoo_gen import InputError, Zoo

ByFold = Mapping[int, Run]
ByModel = Mapping[str, Mapping[int, ByFold]]
"""Model -> seed -> fold -> run. The model that comes first gives its names to features of several models."""

SCHEME = "by_model"
"""The split of evaluations by few labels and on other zoos."""

Pretrained = Mapping[str, Mapping[int, Run]]
"""Model -> seed -> run."""


def find_runs(folders: Sequence[Path], zoo: Zoo) -> Mapping[str, ByModel]:
    """Returns the finished runs in some folders, by split.

    Raises:
        InputError: there are none, a run is of another zoo, or two are of the same model, split, fold and seed.
    """
    found: dict[str, dict[str, dict[int, ByFold]]] = {}
    for path in (path for folder in folders for path in sorted(folder.glob("[!.]*/model.safetensors"))):
        run = Run.open(path.parent, zoo=zoo.path)
        split, fold, seed = (run.config[key] for key in ("split", "fold", "seed"))
        if run.config["zoo"]["content_hash"] != zoo.content_hash:
            raise InputError(f"run {path.parent} was trained on another zoo than {zoo.path}; name the folder of its own runs")
        if run.config.get("other_zoos"):
            raise InputError(
                f"run {path.parent} has learned from other zoos than {zoo.path} as well, so it is no match for what sees this one "
                "alone; leave it out, or train on the others only and name the folder as pretrained=..."
            )
        seeds = found.setdefault(split, {}).setdefault(run.model_name, {})
        by_fold = seeds.get(seed, {})
        if fold in by_fold:
            raise InputError(
                f"runs {by_fold[fold].path} and {path.parent} are of one model, split, fold and seed; keep one of them"
            )
        seeds[seed] = dict(sorted({**by_fold, fold: run}.items()))
    if not found:
        names = " nor in ".join(map(str, folders))
        raise InputError(f"no finished run in {names}; train them with runs/property_prediction.sh")
    return found


def find_pretrained(folder: Path | None, zoo: Zoo) -> Pretrained:
    """Returns the finished runs on other zoos in a folder, by model and seed, as they see a zoo that is new to them.

    Raises:
        InputError: there are none, two have one model and seed, or one has seen models or test images of the zoo.
    """
    found: dict[str, dict[int, Run]] = defaultdict(dict)
    for path in sorted(folder.glob("[!.]*/model.safetensors")) if folder is not None else []:
        run = Run.open(path.parent)
        for seen in run.zoos:
            refuse_seen_images(seen, zoo)
        if run.config["seed"] in found[run.model_name]:
            raise InputError(f"{folder} holds two runs of model={run.model_name}, seed {run.config['seed']}; keep one of them")
        found[run.model_name][run.config["seed"]] = run.transferred(zoo)
    if folder is not None and not found:
        raise InputError(f"no finished run in {folder}; train them with FURTHER=<zoo> runs/property_prediction.sh")
    return found


def usable(extractors: Mapping[str, Features], zoo: Zoo, console: Console) -> dict[str, Features]:
    """Returns the features that a zoo has all for; a line says which are left out, and why. Raises `InputError` if all are."""
    lacks = {name: lack for name, extractor in extractors.items() if (lack := extractor.lack(zoo))}
    for lack in dict.fromkeys(lacks.values()):
        names = ", ".join(name for name, why in lacks.items() if why == lack)
        console.print(f"features left out: {names} ({lack})", soft_wrap=True, markup=False)
    found = {name: extractor for name, extractor in extractors.items() if name not in lacks}
    if not found:
        raise InputError(f"none of the features {', '.join(extractors)} can be made of {zoo.path}; choose features=[embedding]")
    return found


def all_folds(by_model: ByModel) -> list[int]:
    """Returns the folds that there are runs of: those of the model and seed that have most."""
    return list(max((by_fold for seeds in by_model.values() for by_fold in seeds.values()), key=len))


def variants(
    extractors: Mapping[str, Features], by_model: ByModel, pretrained: Pretrained
) -> Iterator[tuple[str, Features, int | None, ByFold]]:
    """Yields each kind of features, by the name of its rows, with the runs of all folds.

    Embeddings come for every model and seed whose runs have all folds, and once more for each seed of pretrained runs, as
    `<model>_pretrained`: one run serves all folds. Other features of a model come once for each model, all others once.
    """
    folds = all_folds(by_model)
    whole = {
        model: {seed: by_fold for seed, by_fold in seeds.items() if list(by_fold) == folds} for model, seeds in by_model.items()
    }
    whole = {model: seeds for model, seeds in whole.items() if seeds}
    first = next(iter(whole))
    for card, extractor in extractors.items():
        for model, seeds in whole.items() if extractor.of_model else [(first, whole[first])]:
            name = extractor.row_name(card, model)
            if name == card and model != first:
                name = f"{card}_{model}"
            several = extractor.kind in ("embedding", "joined")
            for seed, by_fold in seeds.items() if several else [(None, next(iter(seeds.values())))]:
                yield name, extractor, seed, by_fold
        if extractor.kind == "embedding":
            for model, runs in pretrained.items():
                name = f"{extractor.row_name(card, model)}_pretrained"
                yield from ((name, extractor, seed, dict.fromkeys(folds, run)) for seed, run in runs.items())
