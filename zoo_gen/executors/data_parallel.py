"""Data-parallel training for models that fill a GPU alone: one stack after the other, every batch shared by several processes.

Lightning Fabric starts the processes and moves the gradients (NCCL on GPUs, Gloo on CPUs); a process's share is its `Team`'s.
"""

import logging
import multiprocessing
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from lightning_fabric import Fabric
from torch.multiprocessing.spawn import ProcessException

from zoo_gen.blueprint import ModelSpec
from zoo_gen.errors import InputError
from zoo_gen.executors.local import out_of_reach, start_worker, watch
from zoo_gen.generate import train_stack
from zoo_gen.hardware import Hardware, models_that_fit
from zoo_gen.team import Team

for _logger, _level in {"lightning_fabric": logging.WARNING, "torch.multiprocessing.spawn": logging.ERROR}.items():
    logging.getLogger(_logger).setLevel(_level)  # in each process, before Fabric begins: one error is one message


class DataParallelExecutor:
    """An executor whose `ranks` processes, one per GPU, train one stack together."""

    def __init__(self, *, ranks: int, device: str, precision: str, compile: str | None):
        if not isinstance(ranks, int) or ranks < 1 or device not in ("cpu", "cuda"):
            raise InputError(f"data-parallel training needs ranks >= 1 on device cpu or cuda, not {ranks} on {device}")
        self.ranks = ranks
        self.hardware = Hardware(device=device, precision=precision, compile=compile)

    def models_at_once(self, spec: ModelSpec) -> int:
        """How many models like this one fit in the memory of one process, at its share of the batch."""
        share = replace(spec, recipe=replace(spec.recipe, batch_size=max(1, spec.recipe.batch_size // self.ranks)))
        return models_that_fit(share, self.hardware, processes=self.ranks if self.hardware.device == "cpu" else 1)

    def run(self, zoo: Path, stacks: Sequence[str]) -> Iterator[str]:
        """Trains one stack after the other."""
        for name in stacks:
            with ThreadPoolExecutor(1) as starter:
                running: dict[Future[None], str] = {starter.submit(self.launch, zoo, name): name}
                try:
                    yield from watch(zoo, running)
                except BaseException:  # an error, Ctrl-C, or nobody listens any more
                    while wait(running, timeout=0.1).not_done:  # processes may be about to start
                        for process in multiprocessing.active_children():
                            process.terminate()
                    raise

    def launch(self, zoo: Path, name: str) -> None:
        """Starts the processes, and waits for them. Raises `InputError` with the error or the signal that one of them died of."""
        fabric = Fabric(accelerator=self.hardware.device, devices=self.ranks, strategy="ddp_spawn")
        try:
            with out_of_reach():
                fabric.launch(partial(_train, zoo=zoo, name=name, hardware=self.hardware))
        except ProcessException as error:  # what was raised there arrives as text
            reason = str(error).strip().splitlines()[-1]
            raise InputError(f"training of stack {name} ended with: {reason}; the same command goes on where it was") from error


def _train(fabric: Fabric, *, zoo: Path, name: str, hardware: Hardware) -> None:
    start_worker()
    warnings.filterwarnings("ignore", message="torch.distributed.nn.functional.all_gather is deprecated")  # Fabric calls it
    try:
        train_stack(zoo, name, hardware=replace(hardware, device=str(fabric.device)), team=Team(fabric))
    finally:
        if torch.distributed.is_initialized():  # else its threads may outlive the interpreter, which aborts
            torch.distributed.destroy_process_group()
