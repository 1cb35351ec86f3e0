"""Processes that share a training compute what one does: the same losses, one set of files, the same bits after a kill."""

import functools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning_fabric import Fabric
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.multiprocessing.spawn import ProcessExitedException

from tests import forks, processes
from tests.wsl.conftest import SMALL, train_small
from wsl.run import Run
from wsl.training import strategies
from wsl.training.metrics_log import MEASURED
from wsl.training.strategies import METHODS, DataParallel, Hardware
from zoo_gen import InputError
from zoo_gen.config import compose, instantiate

TWO = ("strategy=ddp", "devices=2")
COMPARED = ("ema=0.9", "steps=24", "log_every=4", "validate_every=24", "save_every=5")
"""What runs have in common whose losses are compared."""


def events(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def losses(run: Run) -> list[float]:
    return [event["loss"] for event in events(run.path)]


@pytest.fixture(scope="module")
def alone(short_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one process, with averaged weights."""
    return train_small(short_zoo, tmp_path_factory.mktemp("runs") / "one", *COMPARED)


@pytest.fixture(scope="module")
def replicas(short_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same of two processes with the whole model each."""
    with forks.forked():
        return train_small(short_zoo, tmp_path_factory.mktemp("runs") / "ddp", *COMPARED, *TWO, "accumulate_grad_batches=2")


@pytest.mark.parametrize("card", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one(card: str, alone: Run, replicas: Run, short_zoo: Path, tmp_path: Path):
    sharded = ("strategy=fsdp", "devices=2", "accumulate_grad_batches=2")
    with forks.forked():
        two = replicas if card == "ddp" else train_small(short_zoo, tmp_path / "two", *COMPARED, *sharded)
    assert [event["step"] for event in events(two.path)] == [event["step"] for event in events(alone.path)]
    apart = max(abs(a - b) for a, b in zip(losses(two), losses(alone), strict=True))
    print(f"{card}: losses differ by at most {apart:.1e}")
    assert apart < 1e-5
    assert sorted(path.name for path in two.path.iterdir()) == sorted(path.name for path in alone.path.iterdir())
    assert all(path.name.endswith(("jsonl", "json", "yaml", "safetensors")) for path in two.path.iterdir())
    weights = [load_file(run.path / "model.safetensors") for run in (alone, two)]
    assert max((weights[0][name] - weights[1][name]).abs().max().item() for name in weights[0]) < 1e-4
    assert weights[0].keys() == weights[1].keys()


def test_another_seed_has_other_losses(alone: Run, short_zoo: Path, tmp_path: Path):
    other = train_small(short_zoo, tmp_path / "other", *COMPARED, "seed=1")
    assert losses(other) != pytest.approx(losses(alone), abs=1e-3)


@pytest.mark.slow
def test_two_processes_find_the_models_that_behaviour_is_of(short_zoo: Path, tmp_path: Path):
    behaviour = ("objective=behaviour", "objective.terms.behaviour.images=4", "window=448", "steps=2")
    one = train_small(short_zoo, tmp_path / "one", *behaviour)
    two = train_small(short_zoo, tmp_path / "two", *behaviour, *TWO)
    found = [[event["behaviour"] for event in events(run.path)] for run in (one, two)]
    assert found[1] == pytest.approx(found[0], abs=1e-5)
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)


@pytest.mark.parametrize("card", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_two_processes_that_are_killed_continue_to_the_same_bits(card: str, replicas: Run, short_zoo: Path, tmp_path: Path):
    overrides = [*COMPARED, f"strategy={card}", "devices=2", "accumulate_grad_batches=2"]
    killed = tmp_path / "killed"
    process = forks.start("wsl.train", *SMALL, *overrides, f"zoo={short_zoo}", f"run={killed}", session=True, forking=True)
    assert process.pid is not None
    deadline = time.monotonic() + 120
    while not (killed / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)  # its processes notice by themselves
    process.join()
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not (killed / "model.safetensors").exists()
    assert any(name.startswith("average.") for name in load_file(killed / "state.safetensors"))
    with forks.forked():
        train_small(short_zoo, killed, *overrides)
    whole = replicas if card == "ddp" else train_small(short_zoo, tmp_path / "whole", *overrides)
    assert events(killed) == events(whole.path)
    assert (killed / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


def alive(session: int) -> bool:
    """Whether a session has processes left."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.append(os.getsid(int(entry.name)))
            except ProcessLookupError:
                continue
    return session in found


def test_an_error_of_a_process_is_one_message():
    with forks.forked(), pytest.raises(InputError, match=r"^process 1 has no data$"):
        DataParallel().run(Hardware("cpu", 2, "32-true"), processes.refuse)


def test_a_process_that_is_killed_is_one_message(monkeypatch: pytest.MonkeyPatch):
    def killed(*arguments: Any, **options: Any) -> None:
        raise ProcessExitedException("process 1 terminated with signal SIGKILL", 1, 2, -9, "SIGKILL")

    monkeypatch.setattr(strategies, "start_processes", killed)
    with pytest.raises(InputError, match="signal SIGKILL; the same command goes on"):
        DataParallel().run(Hardware("cpu", 2, "32-true"), processes.refuse)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_one_message_of_the_processes(short_zoo: Path, tmp_path: Path):
    with pytest.raises(InputError, match="smaller learning_rate"):
        train_small(short_zoo, tmp_path / "run", "learning_rate=1e30", "gradient_clip_val=1e30", *TWO)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def step(fabric: Fabric, *, folder: Path, card: dict[str, Any]) -> None:
    """Takes steps as an objective may that calls encode and decode by themselves, and writes losses and sizes of this process."""
    torch.manual_seed(0)
    model = instantiate({**card, "token_width": 65})
    total = sum(parameter.numel() for parameter in model.parameters())
    wrapped: Any = fabric.setup_module(model)
    for name in METHODS:
        wrapped.mark_forward_method(name)
    optimizer: Any = fabric.setup_optimizers(torch.optim.AdamW(model.parameters(), lr=1e-3))
    mine = slice(fabric.global_rank * 4 // fabric.world_size, (fabric.global_rank + 1) * 4 // fabric.world_size)
    index = torch.arange(8).expand(4, 8)
    positions = torch.stack([index // 4, index % 5, index], -1)[mine]
    values = torch.randn(4, 8, 65, generator=torch.Generator().manual_seed(0))[mine]
    mask, losses = torch.ones_like(values, dtype=torch.bool), []
    side, tokens = torch.zeros(len(values), 8, 0), torch.full((len(values),), 8)
    for _ in range(3):
        latents = [wrapped.encode(scale * values, mask, positions, tokens) for scale in (1, 1.1)]
        decoded, moved = (wrapped.decode(one, positions, side, tokens) for one in latents)
        loss = (decoded - values).square().mean() + (decoded - moved).square().mean()
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        losses.append(cast(Tensor, fabric.all_reduce(loss.detach(), reduce_op="mean")).item())
    local = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in model.parameters())
    (folder / f"{fabric.global_rank}.json").write_text(json.dumps({"total": total, "local": local, "losses": losses}))


def stepped(strategy: str, devices: int, card: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    work = functools.partial(step, folder=folder, card=card)
    with forks.forked():
        instantiate(compose("train", [f"strategy={strategy}"])["strategy"]).run(Hardware("cpu", devices, "32-true"), work)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(devices)]


@pytest.mark.parametrize(
    "sizes",
    [
        {"width": 192, "depth": 3},
        pytest.param({"width": 1536, "heads": 24, "mlp_ratio": 4}, marks=pytest.mark.slow),
    ],
)
def test_a_large_model_is_sharded_and_steps(sizes: dict[str, int], tmp_path: Path):
    card = {**compose("train", [])["model"], **sizes}
    (whole,) = stepped("single", 1, card, tmp_path)
    ranks = stepped("fsdp", 2, card, tmp_path)
    for rank in ranks:
        print(f"{rank['local']:,} of {rank['total']:,} weights in a process, losses {rank['losses']}")
        assert 0.49 < rank["local"] / rank["total"] < 0.51
        assert rank["losses"] == pytest.approx(whole["losses"], abs=1e-5)
        assert rank["losses"][-1] < rank["losses"][0]
    assert sum(rank["local"] for rank in ranks) == whole["local"] == whole["total"]
