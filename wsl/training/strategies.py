"""Strategies: by which processes a training is computed, and what each of them keeps of the model.

Lightning Fabric moves tensors and averages gradients; processes are started here, so that every strategy is started, watched and
ended in the same way, also from a sweep or a test. All are on this machine.
"""

import logging
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.lightning import LightningEnvironment, find_free_network_port
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
from lightning_fabric.strategies.strategy import Strategy as FabricStrategy
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.multiprocessing import get_context
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from zoo_gen.errors import InputError
from zoo_gen.executors.local import out_of_reach, start_worker

METHODS = ("encode", "decode")
"""Methods of a model, beside `forward`, that objectives and validation call."""


@dataclass(frozen=True)
class Hardware:
    """What to compute on: Lightning Fabric's `accelerator`, number of `devices`, and `precision`."""

    accelerator: str
    devices: int
    precision: Any

    def fabric(self, strategy: FabricStrategy | str) -> Fabric:
        """Returns a Fabric. Raises `InputError` for what it does not know or this machine does not have."""
        chosen = {"accelerator": self.accelerator, "devices": self.devices, "precision": self.precision}
        plugins: Any = [] if isinstance(strategy, str) else [LightningEnvironment()]  # whatever cluster this is a job of
        try:
            return Fabric(**chosen, strategy=strategy, plugins=plugins)
        except (ValueError, RuntimeError, MisconfigurationException) as error:
            names = " and ".join(f"{name}={value}" for name, value in chosen.items())
            raise InputError(f"cannot train with {names}: {error}") from error


class Strategy(Protocol):
    """A way to compute a training."""

    def fabric(self, hardware: Hardware) -> Fabric:
        """Returns the Fabric of one of the processes, not yet launched. Raises `InputError` for what cannot be had."""
        ...

    def run(self, hardware: Hardware, work: Callable[[Fabric], None]) -> None:
        """Calls `work`, which can be pickled, in a process for each device, and returns when all are done.

        Raises the expected error, or the signal, that one of them died of.
        """
        messages = get_context("spawn").SimpleQueue()
        logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # one error is one message
        arguments = (self, hardware, work, find_free_network_port(), messages)
        try:
            with out_of_reach():
                context: Any = start_processes(_process, args=arguments, nprocs=hardware.devices, join=False, start_method="spawn")
            try:
                while not context.join():
                    pass
            except KeyboardInterrupt:
                for process in context.processes:
                    process.terminate()
                raise
        except ProcessRaisedException as error:  # what was raised there arrives as text
            if not messages.empty():
                raise messages.get() from None
            raise RuntimeError(str(error).strip().splitlines()[-1]) from error
        except ProcessExitedException as error:
            raise InputError(f"training ended with: {error}; the same command goes on where it was") from error


class Single(Strategy):
    """One device, in this process."""

    def fabric(self, hardware: Hardware) -> Fabric:
        """Returns a Fabric of one device."""
        if hardware.devices != 1:
            raise InputError(f"strategy=single is one device, not {hardware.devices}; choose strategy=ddp or strategy=fsdp")
        return hardware.fabric("auto")

    def run(self, hardware: Hardware, work: Callable[[Fabric], None]) -> None:
        """Calls `work`."""
        work(self.fabric(hardware))


class DataParallel(Strategy):
    """Processes that each have the whole model, and their share of every batch."""

    def fabric(self, hardware: Hardware) -> Fabric:
        """Returns a Fabric of one of the processes; buffers are constants, which nobody has to send around."""
        return hardware.fabric(DDPStrategy(broadcast_buffers=False))


class FullySharded(Strategy):
    """Processes that each have a part of every weight, gather a block's weights when it is run, and share every batch."""

    def fabric(self, hardware: Hardware) -> Fabric:
        """Returns a Fabric of one of the processes."""
        sizes: Any = {"data_parallel_size": hardware.devices, "tensor_parallel_size": 1}
        return hardware.fabric(ModelParallelStrategy(parallelize_fn=shard, **sizes))


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The repeated parts of a model: the entries of its module lists. They are sharded, and compiled, one by one."""
    return [block for module in model.modules() if isinstance(module, nn.ModuleList) for block in module]


def shard(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Shards a model in place over the data-parallel devices of a mesh.

    The outermost weights go back to shards after each call, as those of blocks do: validation and averages change the shards, and
    gathered weights that outlive a call would be stale.
    """
    devices = mesh["data_parallel"]
    for block in blocks_of(model):
        fully_shard(block, mesh=devices, reshard_after_forward=True)
    fully_shard(model, mesh=devices, reshard_after_forward=True)
    for name in METHODS:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)
    return model


def _process(rank: int, strategy: Strategy, hardware: Hardware, work: Callable[[Fabric], None], port: int, messages: Any) -> None:
    """One of the processes; it ends when its parent does."""
    start_worker()
    os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module")  # on in-place changes of outputs; there are none
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # not in all versions of PyTorch
    try:
        fabric = strategy.fabric(hardware)
        fabric.launch()
        work(fabric)
    except (InputError, OSError) as error:
        messages.put(error)
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
