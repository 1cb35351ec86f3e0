"""Training on a Ray cluster: a stack is a task, which goes on from its saved state wherever Ray starts it again.

The zoo lies on a disk that all nodes see. Tasks hand back nothing but the name of their node.
"""

import importlib
import os
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from zoo_gen.blueprint import ModelSpec
from zoo_gen.errors import InputError, printable
from zoo_gen.executors.local import progress_of
from zoo_gen.files import sha256_of
from zoo_gen.generate import train_stack
from zoo_gen.hardware import Hardware, models_that_fit
from zoo_gen.reader import read_json
from zoo_gen.writer import epochs_done

T = TypeVar("T")

LOCAL = "local"
"""The address of a cluster that is this machine alone, started for one command."""

PATIENCE = 120
"""Seconds until files that another node has written must be seen here; network file systems remember for up to a minute."""

SHARED = "choose path=<a folder on a disk that all nodes share>"


class RayExecutor:
    """An executor that trains stacks as tasks of a Ray cluster, each in a process of one thread.

    Args:
        address: of the cluster: `auto` for the one that this machine belongs to, `<head>:6379`, `ray://<head>:10001`, or `local`.
        device: `cpu` or `cuda`.
        cpus: cores that a stack takes.
        gpus: GPUs, or the share of one, that a stack takes on `cuda`.
        retries: how often a stack is started again whose node or process died; -1: always.
        in_flight: stacks that are handed to Ray at once.
        precision, compile: as of `Hardware`.

    Raises `InputError` for values that make no sense, or without the package `ray`.
    """

    ranks = 1

    def __init__(
        self,
        *,
        address: str,
        device: str,
        cpus: float,
        gpus: float,
        retries: int,
        in_flight: int,
        precision: str,
        compile: str | None,
    ):
        if device not in ("cpu", "cuda"):
            raise InputError(f"a stack trains on device cpu or cuda, not {device}; Ray chooses which of a node's GPUs")
        if not (cpus > 0 and gpus > 0 and retries >= -1 and in_flight >= 1):
            raise InputError(
                "executor=ray needs cpus > 0, gpus > 0, retries >= -1 and in_flight >= 1, "
                f"not cpus={cpus} gpus={gpus} retries={retries} in_flight={in_flight}"
            )
        try:
            self._ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise InputError("executor=ray needs the package ray; install it with: pip install 'vit-weight-space[ray]'") from error
        self.address, self.retries, self.in_flight = address, retries, in_flight
        self.hardware = Hardware(device=device, precision=precision, compile=compile)
        self.needs = {"CPU": cpus} | ({"GPU": gpus} if device == "cuda" else {})

    def models_at_once(self, spec: ModelSpec) -> int:
        """How many models like this one fit in the memory of one task, on a node that Ray chooses; others are alike."""
        self.connect()
        nodes = [node for node in self._nodes() if self._has_room(node)]
        scarce = "GPU" if "GPU" in self.needs else "CPU"  # with GPUs, a task takes its share of one
        most = 1.0 if scarce == "GPU" else max((node.get(scarce, 0) for node in nodes), default=1.0)
        share = max(1, int(most / self.needs[scarce]))
        return self._get(self._task(models_that_fit).remote(spec, self.hardware, processes=share), "the measure of memory")

    def run(self, zoo: Path, stacks: Sequence[str]) -> Iterator[str]:
        """Trains stacks, as many at once as the cluster has room for."""
        if not stacks:
            return
        zoo, plans = zoo.resolve(), read_json(zoo / "zoo.json")["stacks"]
        told = (str(zoo), sha256_of(zoo / "zoo.json"), os.getcwd(), self.hardware)
        with progress_of(zoo, {name: plans[name] for name in stacks}) as update:
            for name, node in self.each(train, stacks, *told, meanwhile=update):
                _await_files(zoo, name, plans[name], node=node)
                yield name

    def each(
        self, work: Callable[..., T], items: Sequence[str], *told: Any, meanwhile: Callable[[], None]
    ) -> Iterator[tuple[str, T]]:
        """Calls `work(item, *told)` as a task for each item; yields the item and what came of it as each ends.

        Raises what a task has raised, or `InputError` if Ray has given it up, after the others have been cancelled.
        """
        self.connect()
        task, waiting, running = self._task(work), deque(items), {}
        try:
            while waiting or running:
                while waiting and len(running) < self.in_flight:
                    item = waiting.popleft()
                    running[task.remote(item, *told)] = item
                done, _ = self._ray.wait(list(running), timeout=1)
                meanwhile()
                for one in done:
                    item = running.pop(one)
                    yield item, self._get(one, item)
        except BaseException:  # an error, Ctrl-C, or nobody listens any more
            with suppress(Exception):  # the cluster may be gone
                for one in running:
                    self._ray.cancel(one, force=True)
                self._ray.wait(list(running), num_returns=len(running), timeout=10)
            raise

    def connect(self) -> None:
        """Connects this process to the cluster, unless it is already. Raises `InputError` if that is not possible."""
        if self._ray.is_initialized():
            return
        local = {"num_cpus": len(os.sched_getaffinity(0)), "include_dashboard": False} if self.address == LOCAL else {}
        try:
            host, _, port = self.address.rpartition("/")[2].rpartition(":")
            if host and port.isdecimal():  # Ray itself waits for minutes for a machine that does not answer
                socket.create_connection((host, int(port)), timeout=10).close()
            self._ray.init(address=self.address, logging_level="ERROR", log_to_driver=False, **local)
        except (
            ConnectionError,
            OverflowError,
            ValueError,
            RuntimeError,
            OSError,
            AssertionError,
            self._ray.exceptions.RayError,
        ) as error:
            reason = str(error).strip().partition("\n")[0]
            raise InputError(
                f"no Ray cluster at {printable(self.address, limit=100)} ({printable(reason, limit=300)}); start one with: "
                f"ray start --head, name another by executor.address=<head>:6379, or choose executor.address={LOCAL}"
            ) from error
        if not any(map(self._has_room, self._nodes())):
            has = "; ".join(str({kind: node.get(kind, 0) for kind in self.needs}) for node in self._nodes()) or "there is none"
            if self.address == LOCAL:
                raise InputError(
                    f"a stack needs {self.needs} of this machine, which has {has}; change executor.cpus or executor.gpus"
                )
            print(f"waiting for a node with {self.needs}; nodes of the cluster have: {has}", file=sys.stderr)

    def _nodes(self) -> list[Mapping[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _has_room(self, node: Mapping[str, float]) -> bool:
        return all(node.get(kind, 0) >= count for kind, count in self.needs.items())

    def _task(self, work: Any) -> Any:
        room = {"num_cpus": self.needs["CPU"], "num_gpus": self.needs.get("GPU", 0)}
        return self._ray.remote(max_retries=self.retries, scheduling_strategy="SPREAD", **room)(work)

    def _get(self, one: Any, what: str) -> Any:
        """Returns what a task has returned. Raises what it has raised, or `InputError` if Ray has given it up."""
        errors = self._ray.exceptions
        try:
            return self._ray.get(one)
        except errors.RayTaskError as error:
            raise error.cause from error
        except errors.RayError as error:
            reason = printable(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}", limit=300)
            raise InputError(
                f"{printable(what, limit=200)} was given up by Ray ({reason}); the same command goes on where it was, "
                "retries says how often a task is started again"
            ) from error


def train(name: str, zoo: str, sha256: str, folder: str, hardware: Hardware) -> str:
    """Trains a stack on a node, from its saved state if there is one, and returns the name of the node.

    Args:
        name: of the stack.
        zoo: the folder of the zoo, the same on all nodes.
        sha256: of its zoo.json.
        folder: that the command was given in, from which relative paths of images lead.
        hardware: of the training.

    Raises `InputError` if the node does not see the zoo.
    """
    torch.set_num_threads(1)
    node, place = os.uname().nodename, Path(zoo)
    with suppress(OSError):
        os.chdir(folder)
    if not (place / "zoo.json").is_file() or sha256_of(place / "zoo.json") != sha256:
        raise InputError(f"node {node} of the Ray cluster does not see the zoo at {zoo}; {SHARED}")
    plan = read_json(place / "zoo.json")["stacks"][name]
    if epochs_done(place, plan) < plan["epochs"]:  # else a task that has died had just finished it
        train_stack(place, name, hardware=hardware)
    return node


def _await_files(zoo: Path, name: str, plan: Mapping[str, Any], *, node: str) -> None:
    """Waits until the files of a finished stack are seen here. Raises `InputError` if they do not appear."""
    for _ in range(PATIENCE):
        if epochs_done(zoo, plan) >= plan["epochs"]:
            return
        time.sleep(1)
    raise InputError(f"stack {name} was trained on node {node}, and its files are not at {zoo}; {SHARED}")
