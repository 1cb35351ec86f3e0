"""Threads: the cores of a machine, used by many small operations at once rather than by each of them.

Two threads inside one small operation of PyTorch are hardly faster than one, and wait for each other for ages where anything else
runs beside them. One operation per core has neither fault.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Returns `work(item)` of each item, in order, computed on all cores; PyTorch uses one thread in each.

    From the first call on, PyTorch uses one thread in the whole process.
    """
    torch.set_num_threads(1)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(work, items))
