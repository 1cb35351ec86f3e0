"""Training on this machine: one process of one thread per core.

Two such processes are nearly twice as fast as one process of two threads at the size of the digits models, and the number of
threads per process does not change with the machine, so neither do the bits.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn, TimeRemainingColumn

from zoo_gen.hardware import Hardware
from zoo_gen.reader import read_json
from zoo_gen.writer import epochs_done


class LocalExecutor:
    """An executor that trains stacks in processes of this machine."""

    def __init__(self, *, processes: int | None, device: str, precision: str, compile: str | None):
        """Chooses how many processes to use (None: one per core) and their hardware, as of `zoo_gen.hardware.Hardware`."""
        self.processes = processes or len(os.sched_getaffinity(0))
        self.hardware = Hardware(device=device, precision=precision, compile=compile)

    def run(self, zoo: Path, stacks: Sequence[str]) -> Iterator[str]:
        """Trains stacks, largest first, with a progress bar that counts the epochs on disk."""
        if not stacks:
            return
        plans = {name: read_json(zoo / "zoo.json")["stacks"][name] for name in stacks}
        ordered = sorted(stacks, key=lambda name: -len(plans[name]["models"]) * plans[name]["epochs"])
        context = multiprocessing.get_context("spawn")
        workers = min(self.processes, len(stacks))
        columns = (
            "{task.description}",
            BarColumn(),
            MofNCompleteColumn(),
            "model epochs",
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with (
            Progress(*columns) as progress,
            ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(os.getpid(),)) as pool,
        ):
            total = sum(len(plan["models"]) * plan["epochs"] for plan in plans.values())
            bar = progress.add_task(f"{zoo.name}: {len(stacks)} stacks", total=total)
            futures: dict[Future[None], str] = {pool.submit(_train, zoo, name, self.hardware): name for name in ordered}
            try:
                while futures:
                    done, _ = wait(futures, timeout=0.5, return_when=FIRST_COMPLETED)
                    progress.update(bar, completed=sum(len(plan["models"]) * epochs_done(zoo, plan) for plan in plans.values()))
                    for future in done:
                        name = futures.pop(future)
                        future.result()
                        yield name
            except BaseException:  # a dead worker, Ctrl-C, a reader that stops early: whatever it is, no process may be left behind
                for future in futures:
                    future.cancel()
                for process in list((pool._processes or {}).values()):
                    process.terminate()
                raise


def _start_worker(parent: int) -> None:
    """Prepares a worker: one thread, and an end as soon as the process that started it is gone."""
    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train(zoo: Path, name: str, hardware: Hardware) -> None:
    """Trains one stack in a worker."""
    from zoo_gen.generate import train_stack

    train_stack(zoo, name, hardware=hardware)
