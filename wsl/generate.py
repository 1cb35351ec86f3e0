"""`python -m wsl.generate run=demo generator=kde n=200`: new models from latents, beside the baselines they must beat.

The generator and every baseline are fitted on the run's train models (final epochs) and sampled n times. All samples
are scored as they are and judged for novelty and diversity; nothing is selected. The rows land in `generate.json`,
the generator's models as timm folders in `samples/<generator>/`.
"""

import itertools
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from wsl.generators.evaluation import Bench
from wsl.generators.family import Family, Generator, Sample
from wsl.run import Run
from wsl.tokenizers.tokens import Tokens
from zoo_gen.config import CONFIGS, command, instantiate
from zoo_gen.errors import InputError
from zoo_gen.files import write_json, write_weights
from zoo_gen.streams import stream
from zoo_gen.zoo import Checkpoint


@dataclass
class GenerateConfig:
    """Values of configs/generate.yaml."""

    run: str
    zoo: str | None
    generator: dict[str, Any]
    generator_name: str
    n: int
    seed: int
    baselines: list[str]
    scan: dict[str, Any]


@command("generate", GenerateConfig)
def main(config: GenerateConfig) -> None:
    """Samples, measures, writes and prints."""
    if config.n < 1:
        raise InputError(f"n={config.n} models cannot be sampled; ask for n=1 or more, n=200 for figures to be quoted")
    candidates = list(_candidates(config))
    run = Run.open(config.run, zoo=config.zoo)
    families = families_of(run)
    with Progress(transient=True) as progress:
        bar = progress.add_task("train models", total=config.n * len(candidates))
        bench = Bench(families, run.zoo.images("finetune"), seed=config.seed)
        rows = [bench.measure_train()]
        for i, (name, card) in enumerate(candidates):
            progress.update(bar, description=name)
            generator: Generator = instantiate(card)
            samples = generator.fit(families).sample(config.n, stream(config.seed, "sample", name))
            settings = {key: value for key, value in card.items() if key != "_target_"}
            scored = bench.score(samples, advance=lambda done: progress.advance(bar, done))
            rows.append(bench.measure(name, settings, scored))
            progress.update(bar, completed=config.n * (i + 1))
            if i == 0:
                rows.append(bench.measure_nearest(scored))
                write_samples(run.path / "samples" / name, samples)
    write_json(run.path / "generate.json", rows)
    console = Console()
    console.print(table(rows))
    console.print(f"{run.path / 'generate.json'}, models in {run.path / 'samples' / config.generator_name}")


def _candidates(config: GenerateConfig) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields names and cards: the generator as it is, then what is scanned and the baselines."""
    yield config.generator_name, config.generator
    cards = {name: _card(name) for name in {*config.baselines, *config.scan}} | {config.generator_name: config.generator}
    for name in dict.fromkeys([config.generator_name, *config.baselines]):
        card, scan = cards[name], config.scan.get(name, {})
        if unknown := sorted(set(scan) - set(card)):
            raise InputError(f"scan.{name} names {unknown}, which configs/generator/{name}.yaml does not have")
        if scan or name != config.generator_name:
            for values in itertools.product(*scan.values()):
                yield name, {**card, **dict(zip(scan, values, strict=True))}


def _card(name: str) -> dict[str, Any]:
    folder = CONFIGS / "generator"
    if not (folder / f"{name}.yaml").is_file():
        known = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
        raise InputError(f"no generator '{name}'; choose among {known}")
    card = OmegaConf.to_container(OmegaConf.load(folder / f"{name}.yaml"))
    assert isinstance(card, dict)
    return {str(key): value for key, value in card.items()}


def families_of(run: Run) -> list[Family]:
    """Gathers the train models of a run, final epochs, by root and head type; diverged models are left out.

    Raises `InputError` if none is left.
    """
    finals = run.split.train.select(final=True, status="ok")
    groups: dict[tuple[str, str], list[int]] = {}
    for i, checkpoint in enumerate(finals):
        groups.setdefault((checkpoint.root, checkpoint.factors["head"]), []).append(i)
    if not groups:
        raise InputError(f"run {run.path} has no train model that finished without diverging; make a larger zoo")
    checkpoints, encoded = list(finals), list(run.latents(finals))
    return [_family(run, [checkpoints[i] for i in members], [encoded[i] for i in members]) for members in groups.values()]


def _family(run: Run, checkpoints: Sequence[Checkpoint], encoded: Sequence[tuple[Tokens, Tensor]]) -> Family:
    first, tokens = checkpoints[0], encoded[0][0]
    root_state = run.zoo.root(first).state_dict()
    return Family(
        root=first.root,
        head=first.factors["head"],
        architecture=first.architecture,
        root_state=root_state,
        states=[checkpoint.state_dict() for checkpoint in checkpoints],
        val_accuracy=np.array([checkpoint.results["val_accuracy"] for checkpoint in checkpoints]),
        latents=np.stack([latents.numpy() for _, latents in encoded]),
        decode=lambda latents: run.decode(tokens, torch.from_numpy(latents).float(), root=root_state),
    )


def write_samples(folder: Path, samples: Sequence[Sample]) -> None:
    """Writes each model as a timm folder `0000`, `0001`, ..., replacing what an earlier command left in `folder`."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for i, (family, state) in enumerate(samples):
        write_json(partial / f"{i:04d}" / "config.json", family.architecture)
        write_weights(partial / f"{i:04d}" / "model.safetensors", state)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The rows for the terminal, in 80 columns."""
    out = Table(
        title="Generated models as sampled: medians over all of them \\[quartiles]",
        caption="novelty, diversity: 1 is as far apart as train models are, in weights or in\n"
        "behaviour, whichever is smaller; below 0.25: memorized; weights: modulo symmetry",
        box=SIMPLE,
        padding=(0, 0, 0, 1),
    )
    out.add_column("generator")
    for heading in ("n", "test accuracy", "novelty", "diversity"):
        out.add_column(heading, justify="right")
    out.add_column("")
    for row in rows:
        accuracy = row["accuracy"]
        settings = " ".join(f"{key}={value}" for key, value in row["settings"].items() if value is not None)
        out.add_row(
            f"{row['generator']} [dim]{settings}[/]",
            str(row["n"]),
            f"{accuracy['median']:.2f} \\[{accuracy['q25']:.2f}, {accuracy['q75']:.2f}]",
            *("–" if row[figure] is None else f"{row[figure]:.2f}" for figure in ("novelty", "diversity")),
            "[red]memorized[/]" if row["flags"] else "",
        )
    return out


if __name__ == "__main__":
    main()
