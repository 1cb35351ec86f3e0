"""Threads: the cores of a machine, used by many small operations at once rather than by each of them.

Two threads inside one small operation of PyTorch are hardly faster than one, and wait for each other for ages where anything else
runs beside them. One operation per core has neither fault.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice, pairwise
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Yields `work(item)` of each item, in order, computed on all cores; a few items are read ahead, never all.

    Until the last one, PyTorch uses one thread per operation in the whole process; then as many as before.
    """
    cores, before = len(os.sched_getaffinity(0)), torch.get_num_threads()
    torch.set_num_threads(1)
    waiting: deque[Future[R]] = deque()
    try:
        with ThreadPoolExecutor(cores) as pool:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * cores:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
    finally:
        torch.set_num_threads(before)


def batched(items: Iterable[T], n: int) -> Iterator[list[T]]:
    """Yields the items, n at a time."""
    left = iter(items)
    return iter(lambda: list(islice(left, n)), [])


def pieces(count: int, most: int) -> list[slice]:
    """Divides `count` items into as few pieces of at most `most` as there can be, of nearly equal size: they end together."""
    number = -(-count // most)
    bounds = [count * i // number for i in range(number + 1)] if count else [0]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
