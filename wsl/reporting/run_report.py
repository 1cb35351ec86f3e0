"""The report of a run: one HTML page about its zoo, training, embedding, probes and generated models."""

from wsl.reporting.page import Section, page, text
from wsl.reporting.projection import project
from wsl.reporting.results import Results, command_for
from wsl.reporting.sections import (
    embedding_section,
    generation_section,
    introduction,
    missing_section,
    probe_section,
    training_section,
    zoo_section,
)
from wsl.run import Run


def report(run: Run, results: Results, *, checkpoints: int) -> str:
    """Returns the page of a run, the same one, byte for byte, every time.

    Args:
        run: the run.
        results: of the run; the page names the command that makes a missing one.
        checkpoints: about how many points the map of the embedding has.
    """
    children = run.zoo.select(stage="finetune")
    chance = 1 / children[0].architecture["num_classes"]
    return page(
        run.path.resolve().name,
        over="Report of a run",
        lead=introduction(run, results.metrics),
        sections=[
            zoo_section(children.frame, _varied(run), chance=chance),
            training_section(results.metrics),
            _embedding(run, checkpoints),
            probe_section(results.probes) if results.probes else missing_section("Probes", command_for(run, "probe")),
            generation_section(results.samples, chance=chance)
            if results.samples
            else missing_section("Generation", command_for(run, "generate")),
        ],
        footer=f"Made by <code>{text(command_for(run, 'report'))}</code>. One file that loads nothing.",
    )


def _embedding(run: Run, checkpoints: int) -> Section:
    """Returns the map of the embedding, which can be coloured by factors and results."""
    children = run.zoo.select(stage="finetune")
    results = [name for name in children[0].results if len(children.frame[name].dropna())]
    colourings = dict.fromkeys(["test_accuracy", *_varied(run), "split", "epoch", *results])
    points, explained = project(run, children, limit=checkpoints)
    return embedding_section(points, list(colourings), explained=explained, total=len(children))


def _varied(run: Run) -> list[str]:
    """Returns the root and the generating factors that differ between fine-tuned models."""
    children = run.zoo.select(stage="finetune")
    return [name for name in ("root", *children[0].factors) if len(set(children.frame[name].dropna())) > 1]
