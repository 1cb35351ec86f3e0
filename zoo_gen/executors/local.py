"""Training on this machine: one process of one thread per core, so that the bits do not depend on the number of cores."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from zoo_gen.blueprint import ModelSpec
from zoo_gen.errors import InputError
from zoo_gen.generate import train_stack
from zoo_gen.hardware import Hardware, models_that_fit
from zoo_gen.reader import read_json
from zoo_gen.wording import counted
from zoo_gen.writer import epochs_done


class LocalExecutor:
    """An executor that trains stacks in processes of this machine."""

    ranks = 1

    def __init__(self, *, processes: int | None, device: str, precision: str, compile: str | None):
        if processes is not None and not (isinstance(processes, int) and processes >= 1):
            raise InputError(f"processes must be at least 1, or null for one per core, not {processes}")
        self.processes = processes or len(os.sched_getaffinity(0))
        self.hardware = Hardware(device=device, precision=precision, compile=compile)

    def models_at_once(self, spec: ModelSpec) -> int:
        """How many models like this one fit in the memory of one process."""
        return models_that_fit(spec, self.hardware, processes=self.processes)

    def run(self, zoo: Path, stacks: Sequence[str]) -> Iterator[str]:
        """Trains stacks, as many at once as there are processes."""
        if not stacks:
            return
        context = multiprocessing.get_context("spawn")
        workers = min(self.processes, len(stacks))
        with ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker) as pool:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited: Ctrl-C is this process's to tell
            running = {pool.submit(train_stack, zoo, name, hardware=self.hardware): name for name in stacks}
            try:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
                yield from watch(zoo, running)
            except BaseException:  # an error, Ctrl-C, or nobody listens any more; futures stay the pool's, which breaks with them
                for process in list((pool._processes or {}).values()):
                    process.terminate()
                raise


@contextmanager
def out_of_reach() -> Iterator[None]:
    """A context in which processes are started that Ctrl-C does not reach: it is for this process to end them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which they inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def progress_of(zoo: Path, plans: Mapping[str, Mapping[str, Any]]) -> Iterator[Callable[[], None]]:
    """A context with a progress bar of stacks, by their plans; it yields the function that brings the bar up to date."""
    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "model epochs", TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        total = sum(len(plan["models"]) * plan["epochs"] for plan in plans.values())
        bar = progress.add_task(f"{zoo.name}: {counted(len(plans), 'stack')}", total=total)
        yield lambda: progress.update(bar, completed=sum(len(plan["models"]) * epochs_done(zoo, plan) for plan in plans.values()))


def watch(zoo: Path, running: dict[Future[None], str]) -> Iterator[str]:
    """Yields the name of each stack as its training ends, with a progress bar meanwhile; raises what a training raised."""
    stacks = read_json(zoo / "zoo.json")["stacks"]
    with progress_of(zoo, {name: stacks[name] for name in running.values()}) as update:
        waiting = set(running)
        while waiting:
            done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            update()
            for future in done:
                try:
                    future.result()
                except BrokenProcessPool as error:
                    raise InputError(
                        "a worker process was killed, most likely for want of memory; train fewer models at once "
                        "(executor.processes=1, or a smaller zoo.stack_size in a new folder). The same command goes on where it was"
                    ) from error
                yield running[future]


def start_worker() -> None:
    """Prepares a worker: one thread, and an end as soon as the process that started it is gone."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def outlive() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=outlive, daemon=True).start()
