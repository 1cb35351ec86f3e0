"""Processes that share the batches of a stack train what one process trains."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import ProcessException, ProcessExitedException, ProcessRaisedException

from tests.forks import forked
from tests.zoos import TINY, InThisProcess, compose
from zoo_gen import InputError, Zoo
from zoo_gen.config import instantiate
from zoo_gen.executors import data_parallel
from zoo_gen.executors.data_parallel import DataParallelExecutor
from zoo_gen.generate import generate
from zoo_gen.team import Team


class Fake:
    """A Fabric as rank 1 of 2 sees it."""

    global_rank, world_size = 1, 2


def test_a_share_holds_images_and_their_mirrors_and_all_shares_are_the_batch() -> None:
    team = Team(None)
    assert team.share(6).tolist() == [0, 1, 2, 3, 4, 5]
    shares = []
    for team.rank in (0, 1):
        team.size, team.fabric = 2, Fake()  # type: ignore[assignment]
        mine = team.share(8)
        assert torch.equal(mine.flip(0), 7 - mine)
        shares.append(mine)
    assert sorted(torch.cat(shares).tolist()) == list(range(8))
    with pytest.raises(InputError, match="multiple of 4"):
        team.share(6)


def relative(a: Zoo, b: Zoo, model: str) -> float:
    """The difference of the final weights over the norm of what was learned in between."""
    ends = [zoo.select(model=model, final=True)[0].state_dict() for zoo in (a, b)]
    first = a.select(model=model, epoch=1)[0].state_dict()
    names = [name for name in first if not name.endswith("qkv.bias")]
    gap, way = (
        torch.cat([(x[name] - y[name]).flatten() for name in names]).norm() for x, y in ((ends[0], ends[1]), (ends[0], first))
    )
    return float(gap / way)


def test_two_processes_train_the_zoo_of_one(tmp_path: Path) -> None:
    config = compose("zoo_gen", ["zoo=digits_mini", *TINY])["zoo"]
    config["pretrain"]["members"] = config["pretrain"]["members"][2:]  # SimCLR; the children are supervised, with mixing
    config["finetune"]["axes"] = {"optimizer": ["adamw", "sgd"]}
    assert config["pretrain"]["members"][0]["objective"] == "simclr"
    assert config["finetune"]["recipe"]["mixup"] > 0
    alone = generate(tmp_path / "alone", config, name="alone", seed=0, executor=InThisProcess())
    card = compose("zoo_gen", ["executor=data_parallel", "executor.device=cpu", "executor.precision=float32"])["executor"]
    executor = instantiate(card)
    with forked():
        together = generate(tmp_path / "together", config, name="together", seed=0, executor=executor)
    assert len(together) == len(alone)
    assert all(plan["ranks"] == 2 for plan in together.config["stacks"].values())
    for model in alone.frame["model"].unique():
        assert relative(alone, together, model) < 0.02
    for column in ("train_loss", "test_loss"):
        assert (alone.frame[column] - together.frame[column]).abs().max() < 1e-2
    with pytest.raises(InputError, match="ranks"):  # another number of processes would give other bits
        generate(tmp_path / "together", config, name="together", seed=0, executor=instantiate({**card, "ranks": 1}))


@pytest.mark.parametrize(
    ("died", "reason"),
    [
        (ProcessExitedException("process 0 terminated with signal SIGABRT", 0, 1, -6, "SIGABRT"), "signal SIGABRT; the same"),
        (ProcessRaisedException("Traceback:\n\nzoo_gen.errors.InputError: no such image", 0, 1), "no such image; the same"),
    ],
)
def test_a_process_that_dies_is_one_message(died: ProcessException, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dying:
        def launch(self, work: object) -> None:
            raise died

    monkeypatch.setattr(data_parallel, "Fabric", lambda **options: Dying())
    executor = DataParallelExecutor(ranks=2, device="cpu", precision="float32", compile=None)
    with pytest.raises(InputError, match=reason):
        executor.launch(Path("zoo"), "stack")


def test_ctrl_c_ends_the_processes_which_do_not_hear_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Started:
        def launch(self, work: object) -> None:
            masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, []))
            process = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
            process.start()
            process.join()
            raise ProcessExitedException("process 0 terminated with signal SIGTERM", 0, 1, -15, "SIGTERM")

    def interrupted(zoo: Path, running: object) -> Iterator[str]:
        yield "started"
        raise KeyboardInterrupt

    masks: list[set[Any]] = []
    monkeypatch.setattr(data_parallel, "Fabric", lambda **options: Started())
    monkeypatch.setattr(data_parallel, "watch", interrupted)
    executor = DataParallelExecutor(ranks=2, device="cpu", precision="float32", compile=None)
    with pytest.raises(KeyboardInterrupt):
        list(executor.run(tmp_path, ["a"]))
    assert multiprocessing.active_children() == []
    assert [signal.SIGINT in mask for mask in masks] == [True]


@pytest.mark.slow
def test_ctrl_c_during_data_parallel_training_is_one_line(tmp_path: Path) -> None:
    options = ["zoo=digits_mini", f"path={tmp_path / 'zoo'}", "executor=data_parallel", "executor.device=cpu"]
    command = [sys.executable, "-m", "zoo_gen", *options, "executor.precision=float32"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and not list(tmp_path.rglob("*.safetensors")):
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate()[1].splitlines() == ["error: interrupted; the same command resumes"]
    assert process.returncode == 1


@pytest.mark.slow
def test_an_error_of_one_process_reaches_the_command(tmp_path: Path) -> None:
    config = compose("zoo_gen", ["zoo=digits_mini", "zoo.pretrain.recipe.batch_size=31"])["zoo"]
    card = compose("zoo_gen", ["executor=data_parallel", "executor.device=cpu", "executor.precision=float32"])["executor"]
    with pytest.raises(InputError, match="multiple of 4"):
        generate(tmp_path / "zoo", config, name="zoo", seed=0, executor=instantiate(card))
