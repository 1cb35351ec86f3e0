"""Processes that train stacks end without a word, whatever ends them."""

import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from zoo_gen.executors import local
from zoo_gen.executors.local import LocalExecutor

STACKS = [f"finetune_{number:03d}" for number in range(6)]


@pytest.mark.parametrize("end", [KeyboardInterrupt, GeneratorExit, ValueError])
def test_what_ends_a_training_leaves_no_error_of_the_pool_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: type[BaseException]
) -> None:
    futures: list[Future[None]] = []
    said: list[threading.ExceptHookArgs] = []

    def ended(zoo: Path, running: dict[Future[None], str]) -> Iterator[str]:
        futures.extend(running)
        while not futures[1].running():  # the queue of the pool is full, and others wait
            time.sleep(0.01)
        raise end
        yield

    monkeypatch.setattr(local, "watch", ended)
    monkeypatch.setattr(threading, "excepthook", said.append)
    executor = LocalExecutor(processes=1, device="cpu", precision="float32", compile=None)
    with pytest.raises(end):
        list(executor.run(tmp_path, STACKS))
    assert [error.exc_type for error in said] == []  # of the pool's own thread
    assert multiprocessing.active_children() == []
    assert len(futures) == len(STACKS)
    assert all(future.done() for future in futures)
    assert isinstance(futures[-1].exception(), BrokenProcessPool)
