"""A resumed training equals an uninterrupted one to the bit; what would make it differ is noticed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning_fabric import Fabric
from rich.console import Console
from safetensors.torch import load_file

from benchmarks.race import InMemory
from tests.wsl.batches import fitted
from wsl.data.windows import MicroBatch, Windows
from wsl.models.hyperrep import HyperRep
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.tokens import Tokens
from wsl.training.ema import Average
from wsl.training.loggers.logger import Nothing
from wsl.training.metrics_log import MEASURED, Journal
from wsl.training.objectives.reconstruction import Reconstruction
from wsl.training.settings import TrainConfig
from wsl.training.trainer import fit as fit_model
from zoo_gen import InputError
from zoo_gen.config import compose

SETTINGS: dict[str, Any] = {
    "steps": 8,
    "batch_size": 2,
    "accumulate_grad_batches": 1,
    "learning_rate": 1e-2,
    "weight_decay": 0.1,
    "warmup": 2,
    "gradient_clip_val": 1.0,
    "ema": 0.0,
    "log_every": 1,
    "validate_every": 2,
    "save_every": 2,
    "seed": 0,
    "workers": 0,
}


class Killed(Exception):
    """Stands for SIGKILL."""


def fit(folder: Path, family: list[Tokens], *, die_at: int | None = None, precision: Any = "32-true", **changes: Any) -> None:
    """Trains a small model; dies in the validation after `die_at` steps."""
    folder.mkdir(exist_ok=True)
    validations = iter(range(2, 100, 2))
    if (folder / "metrics.jsonl").exists():
        validations = iter(range(100))

    def validate() -> dict[str, float]:
        if next(validations) == die_at:
            raise Killed
        return {"weight": model.decoder.unproject.weight.sum().item()}

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"width": 16, "heads": 2, "depth": 1, "mlp_ratio": 2}
        model = HyperRep(token_width=17, compression_ratio=4, blocks=4, roles=10, places=32, **sizes)
    plan = family[0].plan
    model.allocation.allocate(model.allocation.measured([(plan, family[0].values.square())]), [plan])
    windows = Windows([InMemory.of(tokens) for tokens in family], fitted(family), length=16, seed=0, cache=0)
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    config = TrainConfig(**{**compose("train"), **SETTINGS, **changes})
    journal = Journal(folder / "metrics.jsonl", Nothing())
    fit_model(config, fabric, folder, model, Reconstruction(scale_weight=1), windows, validate, Console(quiet=True), journal)


def events(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def same_weights(a: Path, b: Path) -> bool:
    first, second = (load_file(folder / "model.safetensors") for folder in (a, b))
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("die_at", "save_every", "changes"),
    [(2, 1, {}), (6, 2, {}), (6, 1, {}), (6, 3, {}), (4, 2, {"ema": 0.9}), (4, 3, {"ema": 0.9, "accumulate_grad_batches": 2})],
)
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(
    family: list[Tokens], tmp_path: Path, die_at: int, save_every: int, changes: dict[str, Any]
):
    fit(tmp_path / "whole", family, **changes)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", family, die_at=die_at, save_every=save_every, **changes)
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "step": 7, "lo')
    fit(tmp_path / "killed", family, **changes)
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
        fit(tmp_path, family, learning_rate=1e30, gradient_clip_val=1e30)
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


def losses(folder: Path, event: str = "train") -> list[float]:
    return [line["loss"] for line in events(folder) if line["event"] == event]


@pytest.fixture
def unequal(family: list[Tokens]) -> list[Tokens]:
    """Checkpoints of two sizes, so that windows of one batch have unequal numbers of weights."""
    rng = torch.Generator().manual_seed(0)
    weights = {"cls_token": torch.randn(1, 1, 16, generator=rng), "norm.weight": torch.randn(16, generator=rng)}
    short = Residual(width=16, reference="none").encode(weights)
    return [*family, *([short] * 30)]


def test_accumulated_parts_train_what_the_undivided_batch_does(
    unequal: list[Tokens], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fit(tmp_path / "whole", unequal, batch_size=8)
    fit(tmp_path / "parts", unequal, batch_size=8, accumulate_grad_batches=4)
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)
    ends = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    assert max((ends[0][name] - ends[1][name]).abs().max().item() for name in ends[0]) < 1e-4

    monkeypatch.setattr(MicroBatch, "of", lambda batch, counts: batch)  # each micro-batch divides by its own counts
    fit(tmp_path / "alone", unequal, batch_size=8, accumulate_grad_batches=4)
    assert losses(tmp_path / "alone") != pytest.approx(losses(tmp_path / "whole"), abs=1e-3)


def test_averaged_weights_are_validated_and_saved_and_the_state_keeps_both(family: list[Tokens], tmp_path: Path):
    fit(tmp_path / "last", family)
    fit(tmp_path / "average", family, ema=0.5)
    assert losses(tmp_path / "average") == losses(tmp_path / "last")  # the training itself is the same
    validated = [
        [line["weight"] for line in events(tmp_path / name) if line["event"] == "validation"] for name in ("last", "average")
    ]
    assert validated[0] != validated[1]
    last, average = (load_file(tmp_path / name / "model.safetensors") for name in ("last", "average"))
    name = "decoder.unproject.weight"
    assert not torch.equal(last[name], average[name])

    with pytest.raises(Killed):
        fit(tmp_path / "killed", family, ema=0.5, die_at=6, save_every=1)
    state = load_file(tmp_path / "killed" / "state.safetensors")
    assert state[f"model.{name}"].shape == state[f"average.{name}"].shape
    assert not torch.equal(state[f"model.{name}"], state[f"average.{name}"])


def test_an_average_follows_its_formula_and_gives_the_weights_back():
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    average = Average(model, ema=0.5)
    expected = 1.0
    for step, weight in enumerate((3.0, 5.0, -2.0), start=1):
        torch.nn.init.constant_(model.weight, weight)
        average.update(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
    with average.applied():
        assert model.weight.tolist() == [[pytest.approx(expected, abs=1e-6)] * 2]
    assert model.weight.tolist() == [[-2.0, -2.0]]
    assert Average(model, ema=0).weights == {}


def test_metrics_say_how_fast_and_how_large_the_training_is(family: list[Tokens], tmp_path: Path):
    fit(tmp_path, family)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if line["event"] == "train"]
    assert all(line["memory_mb"] > 10 and line["weights_per_second"] > 0 for line in trained)
    seconds = 2 * 16 * 16 / trained[-1]["weights_per_second"]  # of a step: 2 windows of at most 16 tokens of 16 weights
    assert 0 < seconds < trained[-1]["time"]


def test_half_precision_trains_nearly_the_same(family: list[Tokens], tmp_path: Path):
    fit(tmp_path / "plain", family)
    fit(tmp_path / "half", family, precision="bf16-mixed")
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "plain"), rel=0.05)
    assert losses(tmp_path / "half") != losses(tmp_path / "plain")
    saved = load_file(tmp_path / "half" / "model.safetensors").values()
    assert {tensor.dtype for tensor in saved if tensor.is_floating_point()} == {torch.float32}
