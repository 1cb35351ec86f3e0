"""Loggers are told what metrics.jsonl is; a package that is missing is one clear message."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.wsl.conftest import train_small
from wsl.training.loggers.logger import Nothing
from wsl.training.loggers.tensorboard import TensorBoard
from wsl.training.metrics_log import Journal
from zoo_gen import InputError
from zoo_gen.config import CONFIGS, compose, instantiate


class Fake:
    """Stands for the package of Weights & Biases."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []

    def init(self, **options: Any) -> "Fake":
        self.told.append(("init", options))
        return self

    def log(self, scalars: dict[str, float], *, step: int) -> None:
        self.told.append(("log", (step, scalars)))

    def finish(self) -> None:
        self.told.append(("finish", None))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_has_the_curves_of_a_training(tiny_zoo: Path, tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = train_small(tiny_zoo, tmp_path / "run", "logger=tensorboard")
    events = accumulator.EventAccumulator(str(run.path / "tensorboard")).Reload()
    for kind in ("train", "validation"):
        expected = {line["step"]: line["loss"] for line in lines(run.path) if line["event"] == kind}
        assert {point.step: pytest.approx(point.value) for point in events.Scalars(f"{kind}/loss")} == expected
    assert "train/memory_mb" in events.Tags()["scalars"]


def test_tensorboard_drops_what_a_killed_training_wrote_after_its_state(tmp_path: Path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for after, value in ((0, 1.0), (2, 2.0)):
        journal = Journal(tmp_path / "metrics.jsonl", TensorBoard(folder="tensorboard"))
        journal.resume(after)
        for step in range(after + 1, 5):
            journal.write("train", step, {"loss": value})
        journal.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(point.step, point.value) for point in events.Scalars("train/loss")] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]
    assert [line["loss"] for line in lines(tmp_path)] == [1.0, 1.0, 2.0, 2.0]


def test_wandb_is_told_the_run_and_its_scalars(tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    run = train_small(tiny_zoo, tmp_path / "run", "logger=wandb", "logger.mode=offline")
    kinds = [kind for kind, _ in fake.told]
    assert kinds == ["init", *["log"] * len(lines(run.path)), "finish"]
    options = fake.told[0][1]
    assert options["mode"] == "offline"
    assert options["name"] == "run"
    assert options["config"]["model"]["compression_ratio"] == 4
    first = lines(run.path)[0]
    step, scalars = fake.told[1][1]
    assert (step, scalars["train/loss"]) == (1, first["loss"])
    assert None not in scalars.values()


@pytest.mark.parametrize(("card", "package"), [("wandb", "wandb"), ("tensorboard", "torch.utils.tensorboard")])
def test_a_package_that_is_missing_is_named_with_the_command_that_installs_it(
    card: str, package: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, package, None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"pip install {card}"):
        instantiate(compose("train", [f"logger={card}"])["logger"])


@pytest.mark.parametrize("card", [path.stem for path in (CONFIGS / "logger").glob("*.yaml")])
def test_every_card_makes_a_logger(card: str, monkeypatch: pytest.MonkeyPatch):
    if card == "wandb":
        monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())  # type: ignore[arg-type]
    logger = instantiate(compose("train", [f"logger={card}"])["logger"])
    assert all(callable(getattr(logger, name)) for name in ("start", "log", "close"))


def test_a_mode_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="online or offline"):
        instantiate({**compose("train", ["logger=wandb"])["logger"], "mode": "nowhere"})


@pytest.mark.parametrize("line", ['{"event": "train"}', '{"step": "two"}', "3}"])
def test_a_journal_with_a_line_that_is_no_event_names_it(line: str, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl", Nothing())
    journal.write("train", 1, {"loss": 1.0})
    journal.write("train", 2, {"loss": 0.5})
    journal.resume(1)
    assert len(journal.path.read_text().splitlines()) == 1
    journal.path.write_text(f"{line}\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl has .*delete"):
        journal.resume(1)
