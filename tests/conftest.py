"""Fixtures shared by all tests: one tiny zoo made by the real generator."""

import fcntl
import os
from pathlib import Path

import pytest
import torch

from tests.zoos import make_zoo

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def tiny_zoo(shared: Path) -> Path:
    """The digits_mini blueprint (3 roots x 24) with two epochs each and little data: 75 models in seconds."""
    with (shared / "tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return make_zoo(shared / "tiny").path
