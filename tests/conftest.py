"""Fixtures shared by all tests: one tiny zoo made by the real generator.

The process that hands tests to workers reads this file, too, and shall not wait for PyTorch: it is imported in functions.
"""

import fcntl
import gc
import os
from pathlib import Path
from typing import Any

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What was imported stays, so the garbage collector need not look through it again and again: 7 % of all time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests use one thread per operation."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def tiny_zoo(shared: Path) -> Path:
    """The digits_mini blueprint with fewer values on its axes (3 roots x 16) and two epochs each: 51 models in seconds."""
    rates = [["adamw", 3e-3], ["adamw", 1e-4], ["sgd", 3e-2], ["sgd", 3e-3]]
    axes = {"head": ["linear", "mlp"], "optimizer,learning_rate": rates, "weight_decay": [0.1, 0.0]}
    return shared_zoo(shared, "tiny", axes=axes)


@pytest.fixture(scope="session")
def short_zoo(shared: Path) -> Path:
    """A zoo of 3 roots x 2 of one block, two epochs each; copy its folder before changing anything in it."""
    from tests.zoos import SHORT, TWO_RATES

    (shared / "short").mkdir(exist_ok=True)
    return shared_zoo(shared, "short/zoo", *SHORT, axes=TWO_RATES)


@pytest.fixture(scope="session")
def wide_zoo(shared: Path) -> Path:
    """Another zoo, wider, deeper and of other images: 3 roots x 2."""
    sizes = ("zoo.architecture.model_args.embed_dim=48", "zoo.architecture.model_args.depth=4")
    images = ("zoo.pretrain_images.classes=[5,6,7,8,9]", "zoo.finetune_images.classes=[0,1,2,3,4]")
    return shared_zoo(shared, "wide", *sizes, *images, axes={"learning_rate": [1e-3, 1e-2]})


def shared_zoo(shared: Path, name: str, *overrides: str, axes: dict[str, list[Any]] | None = None) -> Path:
    """A zoo that the workers of pytest-xdist share: the first one makes it."""
    from tests.zoos import make_zoo

    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return make_zoo(shared / name, *overrides, axes=axes).path
