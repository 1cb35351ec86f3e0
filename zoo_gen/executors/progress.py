"""The progress bar of executors: epochs of models on disk, whoever trained them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from zoo_gen.reader import read_json
from zoo_gen.writer import epochs_done


def watch(zoo: Path, running: dict[Future[None], str]) -> Iterator[str]:
    """Yields the name of each stack as its training ends, with a progress bar meanwhile; raises what a training raised.

    Args:
        zoo: folder of the zoo.
        running: trainings and the stacks they train.
    """
    plans = {name: read_json(zoo / "zoo.json")["stacks"][name] for name in running.values()}
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "model epochs", TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        total = sum(len(plan["models"]) * plan["epochs"] for plan in plans.values())
        bar = progress.add_task(f"{zoo.name}: {len(plans)} stacks", total=total)
        waiting = set(running)
        while waiting:
            done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            progress.update(bar, completed=sum(len(plan["models"]) * epochs_done(zoo, plan) for plan in plans.values()))
            for future in done:
                future.result()
                yield running[future]


def longest_first(zoo: Path, stacks: Sequence[str]) -> list[str]:
    """Returns the stacks in the order that ends soonest: the most model epochs first."""
    plans = read_json(zoo / "zoo.json")["stacks"]
    return sorted(stacks, key=lambda name: -len(plans[name]["models"]) * plans[name]["epochs"])
