"""A resumed training equals an uninterrupted one to the bit; what would make it differ is noticed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from rich.console import Console
from safetensors.torch import load_file

from wsl.data import Windows
from wsl.models.hyperrep import HyperRep
from wsl.normalize import Standardizer
from wsl.objectives.reconstruction import Reconstruction
from wsl.sources import Held
from wsl.tokenizers.tokens import Tokens
from wsl.trainer import Trainer
from zoo_gen import InputError

SETTINGS: dict[str, Any] = {
    "steps": 8,
    "batch_size": 2,
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "warmup": 2,
    "clip": 1.0,
    "log_every": 1,
    "validate_every": 2,
    "save_every": 2,
    "seed": 0,
    "workers": 0,
}


class Killed(Exception):
    """Stands for SIGKILL."""


def fit(folder: Path, family: list[Tokens], *, die_at: int | None = None, **changes: Any) -> None:
    """Trains a small model; dies in the validation after `die_at` steps."""
    folder.mkdir(exist_ok=True)
    validations = iter(range(2, 100, 2))
    if (folder / "metrics.jsonl").exists():
        validations = iter(range(100))

    def validate() -> dict[str, float]:
        if next(validations) == die_at:
            raise Killed
        return {"weight": next(model.parameters()).sum().item()}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"width": 16, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "mlp_ratio": 2}
        model = HyperRep(token_width=17, latent=4, blocks=4, roles=10, **sizes)
    windows = Windows([Held.of(tokens) for tokens in family], Standardizer.fit(family), length=16, seed=0, cache=0)
    fabric = Fabric(accelerator="cpu", devices=1)
    trainer = Trainer(**{**SETTINGS, **changes})
    trainer.fit(fabric, folder, model, Reconstruction(scale_weight=1), windows, validate, Console(quiet=True))


def events(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


def same_weights(a: Path, b: Path) -> bool:
    first, second = (load_file(folder / "model.safetensors") for folder in (a, b))
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("die_at", "save_every"), [(2, 1), (6, 2), (6, 1), (6, 3)])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(family: list[Tokens], tmp_path: Path, die_at: int, save_every: int):
    fit(tmp_path / "whole", family)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", family, die_at=die_at, save_every=save_every)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "step": 7, "lo')
    fit(tmp_path / "killed", family)
    assert events(tmp_path / "killed") == events(tmp_path / "whole")
    assert same_weights(tmp_path / "killed", tmp_path / "whole")
    assert not (tmp_path / "killed" / "state.safetensors").exists()

    fit(tmp_path / "other", family, learning_rate=2e-2)
    assert events(tmp_path / "other") != events(tmp_path / "whole")
    assert not same_weights(tmp_path / "other", tmp_path / "whole")


def test_a_state_without_the_optimizer_is_refused(family: list[Tokens], tmp_path: Path):
    with pytest.raises(Killed):
        fit(tmp_path, family, die_at=6)
    state = tmp_path / "state.safetensors"
    assert any(name.startswith("optimizer.exp_avg.") for name in load_file(state))
    state.write_bytes(state.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged"):
        fit(tmp_path, family)


def test_a_loss_that_is_not_finite_stops_the_training(family: list[Tokens], tmp_path: Path):
    with pytest.raises(InputError, match="smaller learning_rate"):
        fit(tmp_path, family, learning_rate=1e30, clip=1e30)
    assert not (tmp_path / "model.safetensors").exists()


def test_the_learning_rate_rises_then_falls_to_nearly_zero(family: list[Tokens], tmp_path: Path):
    fit(tmp_path, family)
    rates = [event["learning_rate"] for event in events(tmp_path) if event["event"] == "train"]
    assert rates.index(max(rates)) == SETTINGS["warmup"] - 1
    assert rates[-1] < 0.1 * max(rates)


def test_scalars_between_two_logs_survive_a_kill(family: list[Tokens], tmp_path: Path):
    settings = {"log_every": 5, "validate_every": 6, "save_every": 3}
    fit(tmp_path / "whole", family, **settings)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", family, die_at=2, **settings)  # in the first validation, after 6 steps: the state is of step 3
    state = load_file(tmp_path / "killed" / "state.safetensors")
    assert state["scalar.loss"].shape == (3,)
    fit(tmp_path / "killed", family, **settings)
    assert events(tmp_path / "killed") == events(tmp_path / "whole")
    means = [event["loss"] for event in events(tmp_path / "whole") if event["event"] == "train"]
    assert means[0] != pytest.approx(state["scalar.loss"].mean().item())
