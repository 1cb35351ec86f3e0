"""The train command: reproducible, resumable after SIGKILL, and clear about bad input."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch

import wsl.train
from tests import forks
from tests.commands import call, refused
from tests.wsl.conftest import SMALL, train_small
from wsl.run import Run
from wsl.run_files import read_config, write_config
from wsl.train import main
from wsl.training.metrics_log import MEASURED
from wsl.training.resume_state import save_state
from wsl.training.settings import TrainConfig
from zoo_gen import InputError
from zoo_gen.files import named_errors


def events(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def test_the_same_command_twice_gives_the_same_metrics(short_zoo: Path, tmp_path: Path):
    once, again, other = (
        train_small(short_zoo, tmp_path / name, *seed) for name, seed in {"once": [], "again": [], "other": ["seed=1"]}.items()
    )
    assert events(again.path) == events(once.path)
    assert events(other.path) != events(once.path)


def test_metrics_hold_losses_errors_per_role_and_decoded_accuracy(tiny_run: Run):
    train, validation = ([e for e in events(tiny_run.path) if e["event"] == kind] for kind in ("train", "validation"))
    assert [event["step"] for event in train] == [1, 2, 3, 4]
    assert [event["step"] for event in validation] == [2, 4]
    for event in validation:
        assert {"loss", "error/q", "error/head", "error/scale", "accuracy_original", "accuracy_decoded"} <= event.keys()
        assert 0 <= event["accuracy_decoded"] <= 1


def test_a_finished_run_is_left_alone_and_another_configuration_is_refused(tiny_run: Run, tiny_zoo: Path):
    before = (tiny_run.path / "metrics.jsonl").read_text()
    train_small(tiny_zoo, tiny_run.path)
    assert (tiny_run.path / "metrics.jsonl").read_text() == before
    with pytest.raises(InputError, match=r"another configuration \(model\.compression_ratio is 4 there and 9 here; steps is 4"):
        train_small(tiny_zoo, tiny_run.path, "model.compression_ratio=9", "steps=5")


def test_a_run_of_a_version_that_lacks_a_setting_which_is_off_is_the_same_run(tiny_run: Run, tiny_zoo: Path, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_run.path, tmp_path / "older"))
    stored = read_config(folder)
    older = {key: value for key, value in stored.items() if key != "ema"}
    write_config(folder, {**older, "gone": 0, "logger": {**older["logger"], "gone": None}})
    train_small(tiny_zoo, folder)
    write_config(folder, {**older, "gone": 1})
    with pytest.raises(InputError, match=r"another configuration \(gone is 1 there and None here"):
        train_small(tiny_zoo, folder)


def home(zoo: Path, folder: Path) -> Path:
    """Makes a folder one in which the default zoo is found; returns its checkpoints."""
    checkpoints = folder / "checkpoints"
    (checkpoints / "zoos").mkdir(parents=True)
    (checkpoints / "zoos" / "digits_mini").symlink_to(zoo)
    return checkpoints


def test_a_killed_training_continues_to_the_same_bits(
    short_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    overrides = ["steps=90", "validate_every=45", "log_every=8", "save_every=7"]
    killed = home(short_zoo, tmp_path) / "runs" / "killed"
    monkeypatch.chdir(tmp_path)
    process = forks.start("wsl.train", *SMALL, "run=killed", *overrides)
    deadline = time.monotonic() + 120
    while not (killed / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert not (killed / "model.safetensors").exists()
    call(main, *SMALL, "run=killed", *overrides, "save_every=50", "workers=0", "cache_mb=0")
    assert re.search(r"^resuming after step [1-9]\d* of 90$", capsys.readouterr().out, re.MULTILINE)
    resumed = Run.open(killed)
    whole = train_small(short_zoo, tmp_path / "whole", *overrides)
    assert events(resumed.path) == events(whole.path)
    assert (resumed.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert not list(killed.glob("*state*"))


@pytest.mark.slow
def test_a_training_killed_at_random_times_ends_in_the_same_bits(short_zoo: Path, tmp_path: Path):
    overrides, rng = ["steps=600", "validate_every=100", "log_every=7", "save_every=11"], np.random.default_rng()
    command = [sys.executable, "-m", "wsl.train", *SMALL, f"zoo={short_zoo}", f"run={tmp_path / 'killed'}", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    kills, where, state = 0, set(), tmp_path / "killed" / "state.safetensors"
    while not (tmp_path / "killed" / "model.safetensors").exists():
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        before = state.stat().st_mtime_ns if state.exists() else 0
        while kills < 5 and process.poll() is None and not (state.exists() and state.stat().st_mtime_ns > before):
            time.sleep(0.01)
        if kills < 5 and process.poll() is None:
            time.sleep(float(rng.uniform(0, 1)))
            process.send_signal(signal.SIGKILL)
            kills += 1
        printed, _ = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL)
        where |= {line for line in printed.splitlines() if line.startswith("resuming")}
    print(f"{kills} kills, {sorted(where)}")
    assert kills >= 3
    assert len(where) >= 2
    whole = train_small(short_zoo, tmp_path / "whole", *overrides)
    assert events(tmp_path / "killed") == events(whole.path)
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


def test_in_a_pipe_training_prints_plain_lines(short_zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    arguments = [*SMALL, f"zoo={short_zoo}", f"run={tmp_path / 'piped'}"]
    once = forks.command("wsl.train", *arguments)
    assert once.returncode == 0
    lines = once.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["step 2 of 4", "step 4 of 4"]
    assert "loss" in lines[0]
    assert "accuracy_decoded" in lines[0]
    assert "is finished" in once.stdout
    call(main, *arguments)
    again = capsys.readouterr()
    assert "nothing to do" in again.out
    assert "\x1b" not in once.stdout + again.out
    assert once.stderr + again.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=hyperep"], "hyperep"),
        (["stepz=3"], "stepz"),
        (["steps=abc"], "abc"),
        (["steps=0"], "at least 1"),
        (["split=by_checkpoint"], "by_checkpoint"),
        (["+model.layers=3"], "does not fit its constructor"),
        (["model._target_=pandas.read_pickle"], "nothing was executed"),
        (["threads=0"], "threads must be at least 1"),
        (["workers=-1"], "workers must be at least 0"),
        (["seed=-1"], "seed must be at least 0"),
        (["seed=2147483648"], "less than 2**31"),
        (["fold=-1"], "fold must be at least 0"),
        (["warmup=-1"], "warmup must be at least 0"),
        (["validation_batches=0"], "validation_batches must be at least 1"),
        (["learning_rate=-1"], "learning_rate must be more than 0"),
        (["learning_rate=nan"], "learning_rate must be more than 0"),
        (["weight_decay=nan"], "weight_decay must be at least 0"),
        (["devices=2"], "strategy=single is one device, not 2; choose strategy=ddp"),
        (["devices=0"], "devices must be at least 1"),
        (["devices=3", "strategy=ddp"], "batch_size must be a multiple of devices x accumulate_grad_batches, 3 x 1, not 4"),
        (["accumulate_grad_batches=3"], "1 x 3, not 4"),
        (["ema=1"], "ema must be at least 0 and less than 1"),
        (["strategy=dp"], "choose one of ddp, fsdp, single"),
        (["logger=wandb"], "pip install wandb"),
        (["precision=foo", "strategy=ddp"], "precision=foo"),
        (["model.nope=1"], "there is no setting 'model.nope'"),
        (["precision=foo"], "precision=foo"),
        (["accelerator=tpu9"], "accelerator=tpu9"),
        (["model.width=33"], "33 is none of 2"),
        (["model.heads=0"], "model.heads must be at least 1"),
        (["model.mlp_ratio=0"], "mlp_ratio"),
        (["model.compression_ratio=abc"], "has values that it cannot be built of"),
        (["model.compression_ratio=0.5"], "model.compression_ratio must be at least 1"),
        (["model.places=1"], "model.places at least 2"),
        (["rehearsed=0"], "rehearsed must be at least 1"),
        (["rehearsal.steps=-1"], "rehearsal.steps must be at least 0"),
        (["rehearsal.steps=1.5"], "steps and batch_size are whole numbers"),
        (["rehearsal.sgd=much"], "rehearsal needs the numbers"),
        (["+rehearsal.adam=1"], "rehearsal needs the numbers"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing_behind(
    arguments: list[str], message: str, short_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home(short_zoo, tmp_path)
    monkeypatch.chdir(tmp_path)
    small = [] if "model=hyperep" in arguments else SMALL
    assert message in refused(main, *small, "run=new", *arguments)
    assert not (tmp_path / "checkpoints" / "runs").exists()


def test_a_missing_zoo_names_the_command_that_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "make it with: python -m zoo_gen zoo=digits" in refused(main, *SMALL, "zoo=digits")
    assert not list(tmp_path.iterdir())


def test_a_sweep_trains_a_run_for_each_combination_and_names_it_by_what_varies(
    short_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    call(main, "-m", *SMALL, f"zoo={short_zoo}", "seed=0,1", "model.places=4", "run=mine")
    found = {path.name: Run.open(path).config for path in Path("checkpoints/runs").iterdir()}
    assert {name: config["seed"] for name, config in found.items()} == {"mine_seed-0": 0, "mine_seed-1": 1}
    assert {config["model"]["places"] for config in found.values()} == {4}  # which is no part of the name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints"]  # no multirun.yaml
    configs: dict[str, TrainConfig] = {}
    monkeypatch.setattr(wsl.train, "train", lambda config, zoo, folder, *rest, **others: configs.update({folder.name: config}))
    call(main, "-m", *SMALL, f"zoo={short_zoo}", "seed=0,1", "model.places=4,8")
    expected = {
        f"{short_zoo.name}_hyperrep_seed-{seed}_model.places-{places}": (seed, places) for seed in (0, 1) for places in (4, 8)
    }
    assert {name: (config.seed, config.model["places"]) for name, config in configs.items()} == expected
    configs.clear()
    call(main, "-m", *SMALL, f"zoo={short_zoo}", "split=by_model,leave_root_out", "run=1.10")
    assert {name: config.split for name, config in configs.items()} == {
        "1.10_split-by_model": "by_model",
        "1.10_split-leave_root_out": "leave_root_out",
    }
    printed = refused(main, "-m", *SMALL, f"zoo={short_zoo}", "seed=0,x")
    assert printed.startswith("error: seed=x does not fit")
    assert len(printed.splitlines()) == 1


def test_help_says_what_each_setting_is_and_which_cards_there_are(capsys: pytest.CaptureFixture[str]):
    call(main, "--help")
    printed = capsys.readouterr().out
    assert "trains a model of checkpoints" in printed
    assert "accumulate_grad_batches: 1         # micro-batches of a device's share" in printed
    assert "strategy: single  # of ddp, fsdp, single" in printed
    assert "defaults" not in printed.partition("Settings")[2]


def test_a_training_that_failed_leaves_nothing_that_blocks_the_next_try(short_zoo: Path, tmp_path: Path):
    folder = tmp_path / "run"
    arguments = [*SMALL, f"zoo={short_zoo}", f"run={folder}", "save_every=1", "steps=40"]
    assert "the loss is not finite" in refused(main, *arguments, "learning_rate=1e30", "gradient_clip_val=1e30")
    assert not (folder / "state.safetensors").exists()
    train_small(short_zoo, folder)
    assert "another configuration" in refused(main, *arguments)  # the control: this one came to something
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.yaml").write_text("of: somebody else\n")
    assert "foreign" in refused(main, *SMALL, f"zoo={short_zoo}", f"run={foreign}")
    assert (foreign / "config.yaml").read_text() == "of: somebody else\n"


def test_a_disk_that_is_full_while_a_state_is_saved_is_named(tmp_path: Path):
    theirs = safetensors.SafetensorError("I/O error: No space left on device (os error 28)")
    for kind, full in (("safetensors", theirs), ("python", OSError(errno.ENOSPC, "No space left on device"))):
        with pytest.raises(OSError, match="No space left on device") as raised, named_errors(tmp_path / kind):
            raise full
        assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / kind))
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        with pytest.raises(OSError, match="No space left on device") as raised:
            save_state(disk / "state.safetensors", {"a": torch.zeros(10**6)}, 1, [])
        assert raised.value.filename == str(disk / "state.safetensors")
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
