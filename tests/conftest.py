"""Fixtures shared by all tests: one tiny zoo made by the real generator."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits_mini blueprint (3 roots x 24) with two epochs each and little data: 75 models in seconds."""
    from tests.zoos import make_tiny_zoo

    return make_tiny_zoo(tmp_path_factory.mktemp("zoos") / "tiny")
