"""A tokenized family of small ViTs, which differ from their root by low-rank updates of all sizes, and a tiny run."""

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

import wsl.train  # noqa: F401 (its settings, for `compose`)
from wsl.data import cache
from wsl.run import Run
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.tokens import Tokens
from wsl.training.run_training import train
from wsl.training.settings import TrainConfig
from zoo_gen import Zoo
from zoo_gen.architecture import build
from zoo_gen.config import compose

ARCHITECTURE = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 5,
    "model_args": {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 16, "depth": 2, "num_heads": 2},
}
TOKENIZER = Residual(width=16, reference="root")


def planted(shape: torch.Size, basis: torch.Generator, rng: torch.Generator) -> Tensor:
    """Rows in the span of two directions that all children share."""
    directions = torch.randn(2, shape[-1], generator=basis)
    return torch.randn(*shape[:-1], 2, generator=rng) @ directions


def noise(shape: torch.Size, basis: torch.Generator, rng: torch.Generator) -> Tensor:
    """Rows in any direction."""
    return torch.randn(shape, generator=rng)


Change = Callable[[torch.Size, torch.Generator, torch.Generator], Tensor]


def make_family(count: int, change: Change) -> list[Tokens]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        root = build(ARCHITECTURE).state_dict()
    rng, children = torch.Generator().manual_seed(1), []
    for number in range(count):
        basis, scale = torch.Generator().manual_seed(2), 10.0 ** -(number % 4)
        children.append({name: w + scale * change(w.shape, basis, rng) for name, w in root.items()})
    return [TOKENIZER.encode(child, root=root) for child in children]


@pytest.fixture(scope="session", autouse=True)
def features(shared: Path) -> None:
    """Features of zoos are made once for all tests, and not in the working tree."""
    cache.FOLDER = shared / "features"


@pytest.fixture(scope="session")
def family() -> list[Tokens]:
    """Twelve checkpoints with structure."""
    return make_family(12, planted)


@pytest.fixture(scope="session")
def noisy_family() -> list[Tokens]:
    """Twelve checkpoints without."""
    return make_family(12, noise)


OF_BOTH = ("accelerator=cpu", "log_every=1", "steps=4")
SMALL = [
    *OF_BOTH,
    *("model.width=32", "model.heads=2", "tokenizer=residual", "objective=reconstruction", "rehearsal.steps=0"),
    *("window=64", "batch_size=4", "warmup=2", "validate_every=2", "validation_batches=1", "model_name=hyperrep"),
]
"""Overrides of the train command that train a hyper-representation in seconds, without rehearsals."""

SMALL_ENCODER = [*OF_BOTH, "model=invariant_encoder", "model_name=invariant_encoder", "model.latent=8", "objective.images=4"]
"""Overrides of the train command that train an invariant encoder in seconds."""


def train_small(zoo: Path, folder: Path, *overrides: str) -> Run:
    small = SMALL_ENCODER if "model=invariant_encoder" in overrides else SMALL
    config = TrainConfig(**compose("train", [*small, *overrides, f"zoo={zoo}"]))
    train(config, [Zoo.open(zoo)], folder, Console(quiet=True))
    return Run.open(folder)


@pytest.fixture(scope="session")
def tiny_run(tiny_zoo: Path, shared: Path) -> Run:
    """A finished hyper-representation of the tiny zoo, hardly trained; copy its folder before changing anything in it."""
    return shared_run(tiny_zoo, shared / "tiny_run")


@pytest.fixture(scope="session")
def tiny_encoder(tiny_zoo: Path, shared: Path) -> Run:
    """A finished invariant encoder on the tiny zoo, hardly trained; copy its folder before changing anything in it."""
    return shared_run(tiny_zoo, shared / "tiny_encoder", "model=invariant_encoder")


def shared_run(zoo: Path, folder: Path, *overrides: str) -> Run:
    """A run that the workers of pytest-xdist share: the first one trains it."""
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return train_small(zoo, folder, *overrides)
