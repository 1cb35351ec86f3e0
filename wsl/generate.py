"""`python -m wsl.generate run=demo generator=kde n=200`: new models from latents, beside the baselines they must beat.

The generator and every baseline are fitted on the train models of a run (final epochs) and sampled n times. The bench scores all
samples without training, for accuracy, novelty and diversity; none is selected. The rows land in `generate.json`, the generator's
models as timm folders in `samples/<generator>/`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wsl.generators.candidates import Card, candidates
from wsl.generators.evaluation import Bench
from wsl.generators.family import Generator, families_of, write_samples
from wsl.reporting.terminal_tables import generator_table
from wsl.run import Run
from zoo_gen.config import command, instantiate
from zoo_gen.errors import InputError
from zoo_gen.files import locked, write_json
from zoo_gen.streams import stream


@dataclass
class GenerateConfig:
    """The values of configs/generate.yaml."""

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
    """Fits, samples, measures and writes each candidate, and prints the table."""
    if config.n < 1:
        raise InputError(f"n={config.n} models cannot be sampled; ask for n=1 or more, n=200 for figures to be quoted")
    every = list(candidates(config.generator_name, config.generator, baselines=config.baselines, scan=config.scan))
    run = Run.open(config.run, zoo=config.zoo)
    with locked(run.path / "lock", f"run {run.path}"):
        _generate(config, every, run)


def _generate(config: GenerateConfig, every: Sequence[tuple[str, Card]], run: Run) -> None:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("models"), TimeRemainingColumn()
    with Progress(*columns, transient=True) as progress:
        bar = progress.add_task("encoding train models", total=None)
        families = families_of(run)
        total = sum(map(len, families)) + config.n * len(every)
        progress.update(bar, description="train models", total=total)
        bench = Bench(families, run.zoo.images("finetune"), seed=config.seed, advance=lambda n: progress.advance(bar, n))
        rows, first = [bench.measure_train()], []
        for i, (name, card) in enumerate(every):
            done = total - config.n * (len(every) - i)
            progress.update(bar, description=name, completed=done)
            generator: Generator = instantiate(card)
            samples = generator.fit([family.private() for family in families]).sample(config.n, stream(config.seed, "sample", name))
            scored = bench.score(samples)
            settings = {key: value for key, value in card.items() if key != "_target_"}
            rows.append(bench.measure(name, settings, scored))
            if i == 0:
                rows.append(bench.measure_nearest(scored))
                first = samples
    (run.path / "generate.json").unlink(missing_ok=True)  # it is never of other samples than those beside it
    write_samples(run.path / "samples" / config.generator_name, first)
    write_json(run.path / "generate.json", rows)
    console = Console()
    console.print(generator_table(rows))
    console.print(f"wrote {run.path / 'generate.json'}", soft_wrap=True)
    console.print(f"models of {config.generator_name}: {run.path / 'samples' / config.generator_name}", soft_wrap=True)


if __name__ == "__main__":
    main()
