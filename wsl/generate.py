"""`python -m wsl.generate run=demo generator=kde n=200`: new models from latents, beside the baselines they must beat.

The generator and every baseline are fitted on the train models of a run (final epochs) and sampled n times. The bench scores all
samples without training, for accuracy, novelty and diversity, on the scale of held-out models; none is selected. The headline is
the share of samples that are good and new. The generator's models land as timm folders in
`samples/<generator>/`, the rows in `generate.json` beside those of other generators. A repeated generator replaces its own rows.
A baseline that has samples of its own from an earlier call keeps its rows. Rows of another zoo, split, seed or model go.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wsl.data.logits import lack_to_run
from wsl.generators.candidates import Card, candidates
from wsl.generators.drawing import draw
from wsl.generators.evaluation import Bench
from wsl.generators.family import anchor_rule, write_samples
from wsl.generators.frontier import frontier
from wsl.generators.population import families_of, relatives_of
from wsl.generators.rows import joined, kept, sampled, state_of, stored_rows
from wsl.reporting.generator_table import generator_table
from wsl.run import Run
from zoo_gen.config import command, instantiate
from zoo_gen.errors import InputError
from zoo_gen.files import locked, write_json
from zoo_gen.streams import stream
from zoo_gen.wording import counted


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
    console = Console()
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("models"), TimeRemainingColumn()
    place, state = run.path / "generate.json", state_of(run, seed=config.seed)
    stored = stored_rows(place)
    alike = kept(stored, state=state, replaced=[])
    every = [(name, card) for name, card in every if name == config.generator_name or name not in sampled(alike)]
    if len(alike) < len(stored):
        console.print(f"left out: {counted(len(stored) - len(alike), 'row')} of another zoo, split, seed or model", soft_wrap=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("encoding train models", total=None)
        families, relatives = families_of(run), relatives_of(run)
        lack = lack_to_run(run.zoo)
        notes = [f"{lack}: samples are compared by their weights alone"] if lack else []
        judged = sum(len(kin.earlier) + len(kin.held_out) for kin in relatives)
        total = sum(map(len, families)) + judged + config.n * len(every)
        progress.update(bar, description="train models", total=total)
        images = None if lack else run.zoo.images("finetune")
        bench = Bench(families, images, seed=config.seed, relatives=relatives, advance=lambda n: progress.advance(bar, n))
        notes += filter(None, [bench.scale_note])
        rows, first = [bench.measure_train() | bench.about()], []
        rows += [bench.measure_held_out()] if bench.held_out else []
        for i, (name, card) in enumerate(every):
            done = total - config.n * (len(every) - i)
            progress.update(bar, description=name, completed=done)
            try:
                drawn = draw(instantiate(card), families, images, n=config.n, rng=stream(config.seed, "sample", name))
            except InputError as error:
                if i == 0:
                    raise
                notes.append(f"{name} is left out: {error}")
                continue
            scored = bench.score(drawn.samples)
            settings = {key: value for key, value in card.items() if key != "_target_"}
            rule: dict[str, str] = {}
            if isinstance(count := settings.get("anchors"), int):
                rule = {"anchors_by": f"anchors={count}: {anchor_rule(families, count)}"}
                notes += rule.values()
            rows.append(bench.measure(name, settings, scored) | drawn.about | rule)
            if i == 0:
                rows.append(bench.measure_nearest(name, scored))
                first = drawn.samples
    others = kept(alike, state=state, replaced=[name for name, _ in every])
    write_json(place, others)  # it is never of other samples than those beside it
    write_samples(run.path / "samples" / config.generator_name, first)
    table = joined(others, [{**row, "state": state} for row in rows])
    table[0] = {**table[0], "frontier": frontier(table, seed=config.seed)}
    write_json(place, table)
    for note in dict.fromkeys(notes):
        console.print(note, soft_wrap=True, markup=False)
    console.print(generator_table(table))
    console.print(f"wrote {place}", soft_wrap=True)
    console.print(f"models of {config.generator_name}: {run.path / 'samples' / config.generator_name}", soft_wrap=True)


if __name__ == "__main__":
    main()
