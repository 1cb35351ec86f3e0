"""Threads: the cores of a machine, used by many small operations at once rather than by each of them.

Two threads inside one small operation of PyTorch are hardly faster than one, and wait for each other for ages where anything else
runs beside them. One operation per core has neither fault.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yields `work(item)` of each item, in order, computed on all cores; a few items are read ahead, never all.

    From the first call on, PyTorch uses one thread per operation in the whole process.
    """
    torch.set_num_threads(1)
    cores = len(os.sched_getaffinity(0))
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@contextmanager
def threads_kept() -> Iterator[None]:
    """A context after which PyTorch has as many threads per operation as before: those of a training are the user's choice."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def batched(items: Iterable[T], n: int) -> Iterator[list[T]]:
    """Yields the items, n at a time."""
    left = iter(items)
    return iter(lambda: list(islice(left, n)), [])
