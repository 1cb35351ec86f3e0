"""Every card of a model and of an objective is trained for a step, and the run opens."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.wsl.conftest import SMALL, SMALL_ENCODER
from wsl.run import Run
from wsl.training.run_training import train
from wsl.training.settings import TrainConfig
from zoo_gen import Zoo
from zoo_gen.config import CONFIGS, compose, instantiate

MODELS = sorted(path.stem for path in (CONFIGS / "model").glob("*.yaml"))
OBJECTIVES = sorted(path.stem for path in (CONFIGS / "objective").glob("*.yaml"))


def train_steps(zoo: Path, folder: Path, *overrides: str, steps: int = 1) -> Run:
    config = TrainConfig(**compose("train", [*overrides, "accelerator=cpu", "log_every=1", f"steps={steps}", f"zoo={zoo}"]))
    train(config, [Zoo.open(zoo)], folder, Console(quiet=True))
    return Run.open(folder)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_card_is_trained_with_its_own_settings_and_embeds(name: str, tiny_zoo: Path, tmp_path: Path):
    small = {"hyperrep": SMALL, "invariant_encoder": SMALL_ENCODER}.get(name, [])
    run = train_steps(tiny_zoo, tmp_path / name, f"model={name}", *small, f"model_name={name}")
    some = run.split.test.select(final=True)
    embedding, fresh = run.embed(some), run.untrained()
    assert np.isfinite(embedding).all()
    assert len(embedding) == len(some)
    assert fresh.embed(some).shape == embedding.shape
    assert not all(torch.equal(*pair) for pair in zip(run.model.parameters(), fresh.model.parameters(), strict=True))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_card_trains_and_reaches_all_weights(name: str, tiny_zoo: Path, tmp_path: Path):
    card = instantiate(compose("train", [f"objective={name}"])["objective"])
    small = {"tokens": [*SMALL, "window=448"], "invariants": SMALL_ENCODER}[card.reads]
    run = train_steps(tiny_zoo, tmp_path / name, *small, f"objective={name}", "weight_decay=0", "warmup=1", steps=3)
    assert (run.path / "metrics.jsonl").read_text().count('"train"') == 3
    # blocks begin as the identity, so that the weights before their zeros get a gradient only after a step
    trained, fresh = load_file(run.path / "model.safetensors"), run.untrained().model.state_dict()
    weights = [key for key, _ in run.model.named_parameters()]
    assert not [key for key in weights if torch.equal(trained[key], fresh[key])]
