"""The benchmark of property prediction: `python -m wsl.property_prediction zoo=digits runs=<folder>`.

Every model is tested exactly once per split: in its fold, representation and probe are fitted on the other folds, one of them as
val. Predictions are pooled over the folds and scored once, with paired differences of the embedding to the best baseline.
`runs/property_prediction.sh` trains the runs; the rows go to a JSON file, beside it tables (`.md`) and figures (`.svg`).

Runs in the folder `pretrained` have learned from other zoos and seen no model of this one, neither of its train folds: one such run
answers for all folds. Their rows are called `hyperrep_pretrained`. They had more models to learn from, if none with labels.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console

from wsl.data.leakage import refuse_seen_images
from wsl.features.embedding import Embedding
from wsl.features.features import Features
from wsl.probe import ask, cards, cross_validation_of, probed, tables_of
from wsl.probes.comparison import compare, marked
from wsl.probes.cross_validation import Finding
from wsl.reporting.benchmark_tables import tables, write_figures
from wsl.run import Run
from zoo_gen.blueprint import FOLDS
from zoo_gen.config import command
from zoo_gen.errors import InputError
from zoo_gen.files import write_atomically, write_json
from zoo_gen.zoo import Zoo, zoo_folder

Runs = dict[str, dict[int, dict[int, Run]]]
"""Split -> seed -> fold -> run."""


@dataclass
class PropertyPredictionConfig:
    """The values of configs/property_prediction.yaml."""

    zoo: str
    runs: str
    pretrained: str | None
    out: str
    targets: list[str]
    features: list[str]
    penalties: list[float]
    n_bootstrap: int
    n_permutations: int
    noise_ceiling_checkpoints: int
    seed: int


@command("property_prediction", PropertyPredictionConfig)
def main(config: PropertyPredictionConfig) -> None:
    """Writes the rows, the tables and the figures."""
    console = Console()
    zoo = Zoo.open(zoo_folder(config.zoo))
    pretrained = {} if config.pretrained is None else find_pretrained(Path(config.pretrained), zoo)
    rows = benchmark(zoo, find_runs(Path(config.runs), zoo), config, console, pretrained=pretrained)
    out = Path(config.out)
    write_json(out, rows)
    text = tables(rows, zoo=f"{zoo.name} seed={zoo.seed}")
    write_atomically(out.with_suffix(".md"), lambda beside: _write_text(beside, text))
    write_figures(rows, out)
    console.print(f"wrote {out}", soft_wrap=True)


def find_runs(folder: Path, zoo: Zoo) -> Runs:
    """Returns the finished runs in a folder.

    Raises:
        InputError: there are none, a run is of another zoo, or two are of the same split, fold and seed.
    """
    found: Runs = defaultdict(lambda: defaultdict(dict))
    for path in sorted(folder.glob("*/model.safetensors")):
        run = Run.open(path.parent, zoo=zoo.path)
        split, fold, seed = (run.config[key] for key in ("split", "fold", "seed"))
        if run.config["zoo"]["content_hash"] != zoo.content_hash:
            raise InputError(f"run {path.parent} was trained on another zoo than {zoo.path}; name the folder of its own runs")
        if run.config.get("other_zoos"):
            raise InputError(
                f"run {path.parent} has learned from other zoos than {zoo.path} as well, so it is no match for what sees this one "
                "alone; leave it out, or train on the others only and name the folder as pretrained=..."
            )
        if fold in found[split][seed]:
            raise InputError(f"{folder} holds two runs of {split}, fold {fold}, seed {seed}; keep one of them")
        found[split][seed][fold] = run
    if not found:
        raise InputError(f"no finished run in {folder}; train them with runs/property_prediction.sh")
    return {split: {seed: dict(sorted(runs.items())) for seed, runs in by_seed.items()} for split, by_seed in found.items()}


def find_pretrained(folder: Path, zoo: Zoo) -> dict[int, Run]:
    """Returns the finished runs on other zoos in a folder, by seed, as they see a zoo that is new to them.

    Raises:
        InputError: there are none, two have one seed, or one has seen models or test images of the zoo.
    """
    found: dict[int, Run] = {}
    for path in sorted(folder.glob("*/model.safetensors")):
        run = Run.open(path.parent)
        if run.model_encoder is None:
            raise InputError(f"run {path.parent} has no model encoder, which reads models of other zoos; train one that has")
        for seen in run.zoos:
            refuse_seen_images(seen, zoo)
        if run.config["seed"] in found:
            raise InputError(f"{folder} holds two runs of seed {run.config['seed']}; keep one of them")
        found[run.config["seed"]] = run.transferred(zoo)
    if not found:
        raise InputError(f"no finished run in {folder}; train them with FURTHER=<zoo> runs/property_prediction.sh")
    return found


def benchmark(
    zoo: Zoo,
    runs: Runs,
    config: PropertyPredictionConfig,
    console: Console,
    *,
    pretrained: Mapping[int, Run] = MappingProxyType({}),
) -> list[dict[str, Any]]:
    """Asks all features all questions, under every split that there are runs of.

    Args:
        zoo: that is asked about.
        runs: of its folds.
        config: the questions, and what is asked.
        console: that shows the progress.
        pretrained: runs that answer for all folds, by seed; see `find_pretrained`.

    Raises:
        InputError: a card is unknown, or a split or the features of a fold leak.
    """
    probes, extractors = cards("probe", config.targets), cards("features", config.features)
    children = probed(zoo)
    rows = []
    for scheme, by_seed in runs.items():
        folds = FOLDS if scheme == "by_model" else children.frame["root"].nunique()
        most = max(by_seed.values(), key=len)
        survey = cross_validation_of(children, {fold: children.split(scheme, fold=fold) for fold in most}, scheme, config)
        about = {"split": scheme, "fold": None, "folds": len(most), "smoke_test": len(most) < folds}
        found: dict[tuple[str, int | None, str], list[Finding]] = defaultdict(list)
        kinds = {}
        for name, extractor, seed, by_fold in variants(extractors, by_seed, pretrained):
            kinds[name] = extractor.kind
            with console.status(f"{scheme}: {name}" + ("" if seed is None else f", seed {seed}")):
                for subset, finding in ask(survey, probes, tables_of(extractor, by_fold, scheme, children)):
                    found[name, seed, subset].append(marked(finding, extractor.reads, probes))
        rows += [about | row for row in compare(found, kinds)]
        for subset, planted in _planted(survey, probes):
            rows.append(about | {"subset": subset, "features": "planted", "kind": "control", "seed": None} | planted.row)
    return rows


def variants(
    extractors: Mapping[str, Features],
    by_seed: Mapping[int, Mapping[int, Run]],
    pretrained: Mapping[int, Run] = MappingProxyType({}),
) -> Iterator[tuple[str, Features, int | None, Mapping[int, Run]]]:
    """Yields each kind of features, by name, with the runs of all folds: of every seed where training makes them, else once.

    Embeddings come once more for each seed of pretrained runs, as `<name>_pretrained`: one run answers for all folds.
    """
    most = max(by_seed.values(), key=len)
    whole = {seed: by_fold for seed, by_fold in by_seed.items() if by_fold.keys() == most.keys()}
    for name, extractor in extractors.items():
        if extractor.kind in ("embedding", "joined"):
            yield from ((name, extractor, seed, by_fold) for seed, by_fold in whole.items())
        else:
            yield name, extractor, None, next(iter(whole.values()))
        if isinstance(extractor, Embedding):
            yield from ((f"{name}_pretrained", extractor, seed, dict.fromkeys(most, run)) for seed, run in pretrained.items())


def _planted(survey: Any, probes: Mapping[str, Any]) -> Iterator[tuple[str, Finding]]:
    final = survey.frame["final"].to_numpy(dtype=bool)
    for subset, chosen in {"all": final | True, "final": final}.items():
        yield from ((subset, finding) for finding in survey.planted(probes, subset=chosen))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
