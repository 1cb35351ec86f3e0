"""The train command: reproducible, resumable after SIGKILL, and clear about bad input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.wsl.conftest import SMALL, train_small
from wsl.journal import MEASURED
from wsl.run import Run
from wsl.train import main
from zoo_gen import InputError


def events(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in MEASURED} for line in lines]


def test_the_same_command_twice_gives_the_same_metrics(tiny_run: Run, tiny_zoo: Path, tmp_path: Path):
    again = train_small(tiny_zoo, tmp_path / "again")
    assert events(again.path) == events(tiny_run.path)
    other = train_small(tiny_zoo, tmp_path / "other", "seed=1")
    assert events(other.path) != events(tiny_run.path)


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
    with pytest.raises(InputError, match=r"another configuration \(model\.latent is 8 there and 9 here; steps is 4"):
        train_small(tiny_zoo, tiny_run.path, "model.latent=9", "steps=5")


def test_a_killed_training_continues_to_the_same_bits(tiny_zoo: Path, tmp_path: Path):
    overrides, home = ["steps=120", "validate_every=60", "log_every=8", "save_every=13"], tmp_path / "checkpoints"
    (home / "zoos").mkdir(parents=True)
    (home / "zoos" / "digits_mini").symlink_to(tiny_zoo)
    command = [sys.executable, "-m", "wsl.train", *SMALL, "run=killed", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (home / "runs" / "killed" / "state.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    killed = home / "runs" / "killed"
    assert not (killed / "model.safetensors").exists()
    again = [*command, "save_every=50", "workers=0", "cache_mb=0"]
    printed = subprocess.run(again, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert re.search(r"^resuming after step [1-9]\d* of 120$", printed, re.MULTILINE)
    resumed = Run.open(killed)
    whole = train_small(tiny_zoo, tmp_path / "whole", *overrides)
    assert events(resumed.path) == events(whole.path)
    assert (resumed.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert not list(killed.glob("*state*"))


@pytest.mark.slow
def test_a_training_killed_at_random_times_ends_in_the_same_bits(tiny_zoo: Path, tmp_path: Path):
    overrides, rng = ["steps=600", "validate_every=100", "log_every=7", "save_every=11"], np.random.default_rng()
    command = [sys.executable, "-m", "wsl.train", *SMALL, f"zoo={tiny_zoo}", f"run={tmp_path / 'killed'}", *overrides]
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
    whole = train_small(tiny_zoo, tmp_path / "whole", *overrides)
    assert events(tmp_path / "killed") == events(whole.path)
    assert (tmp_path / "killed" / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


def test_in_a_pipe_training_prints_plain_lines(tiny_zoo: Path, tmp_path: Path):
    command = [sys.executable, "-m", "wsl.train", *SMALL, f"zoo={tiny_zoo}", f"run={tmp_path / 'piped'}"]
    once, again = (subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(2))
    lines = once.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines[:2]] == ["step 2 of 4", "step 4 of 4"]
    assert "loss" in lines[0]
    assert "accuracy_decoded" in lines[0]
    assert "is finished" in once.stdout
    assert "nothing to do" in again.stdout
    assert "\x1b" not in once.stdout + again.stdout
    assert once.stderr + again.stderr == ""


def test_training_on_random_views_is_as_reproducible(tiny_zoo: Path, tmp_path: Path):
    once, again = (
        train_small(tiny_zoo, tmp_path / name, "view=random", f"workers={workers}") for name, workers in (("a", 0), ("b", 2))
    )
    plain = train_small(tiny_zoo, tmp_path / "plain")
    assert events(once.path) == events(again.path)
    assert events(once.path) != events(plain.path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model=hyperep"], "hyperep"),
        (["stepz=3"], "stepz"),
        (["steps=abc"], "abc"),
        (["steps=0"], "at least 1"),
        (["split=by_checkpoint"], "by_checkpoint"),
        (["+model.depth=3"], "does not fit its constructor"),
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
        (["devices=3", "strategy=ddp"], "batch_size must be a multiple of devices x accumulate, 3 x 1, not 4"),
        (["accumulate=3"], "1 x 3, not 4"),
        (["ema=1"], "ema must be at least 0 and less than 1"),
        (["compile=fast"], "compile must be null or one of default"),
        (["strategy=dp"], "choose one of ddp, fsdp, single"),
        (["logger=wandb"], "pip install wandb"),
        (["preset=huge"], "choose one of hyperrep_base, hyperrep_large"),
        (["precision=foo", "strategy=ddp"], "precision=foo"),
        (["model.nope=1"], "there is no setting 'model.nope'"),
        (["precision=foo"], "precision=foo"),
        (["accelerator=tpu9"], "accelerator=tpu9"),
        (["model.width=33"], "33 is none of 2"),
        (["model.heads=0"], "model.heads must be at least 1"),
        (["model.mlp_ratio=0"], "mlp_ratio"),
        (["model.latent=abc"], "has values that it cannot be built of"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing_behind(
    arguments: list[str],
    message: str,
    tiny_zoo: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    (tmp_path / "checkpoints" / "zoos").mkdir(parents=True)
    (tmp_path / "checkpoints" / "zoos" / "digits_mini").symlink_to(tiny_zoo)
    monkeypatch.chdir(tmp_path)
    small = [] if "model=hyperep" in arguments else SMALL
    monkeypatch.setattr(sys, "argv", ["train", *small, "run=new", *arguments])
    with pytest.raises(SystemExit) as exit:
        main()
    assert exit.value.code == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("error: ")
    assert not any(words in printed for words in ("Traceback", "HYDRA_FULL_ERROR", "search path"))
    assert not (tmp_path / "checkpoints" / "runs").exists()


def test_a_missing_zoo_names_the_command_that_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", *SMALL, "zoo=digits"])
    with pytest.raises(SystemExit):
        main()
    assert "make it with: python -m zoo_gen zoo=digits" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_sweep_trains_a_run_for_each_combination_and_names_it_by_what_varies(
    tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    small = [text for text in SMALL if not text.startswith(("model.latent", "steps"))]
    for run, latents in ((f"{tiny_zoo.name}_hyperrep", (4, 8)), ("mine", (4,))):
        named = ["run=mine"] if run == "mine" else []
        varied = ["seed=0,1", f"model.latent={','.join(map(str, latents))}"]
        monkeypatch.setattr(sys, "argv", ["train", "-m", *small, "steps=2", f"zoo={tiny_zoo}", *varied, *named])
        main()
        found = {path.name: Run.open(path).config for path in Path("checkpoints/runs").glob(f"{run}*")}
        expected = {(seed, latent) for seed in (0, 1) for latent in latents}
        tail = "_model.latent-{}" if len(latents) > 1 else ""  # what is the same in all jobs is no part of the name
        assert found.keys() == {f"{run}_seed-{seed}{tail.format(latent)}" for seed, latent in expected}
        assert {(config["seed"], config["model"]["latent"]) for config in found.values()} == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints"]  # no multirun.yaml
    monkeypatch.setattr(sys, "argv", ["train", "-m", *SMALL, f"zoo={tiny_zoo}", "seed=0,x"])
    with pytest.raises(SystemExit):
        main()
    printed = capsys.readouterr().err
    assert printed.startswith("error: seed=x does not fit")
    assert len(printed.splitlines()) == 1


def test_help_says_what_each_setting_is_and_which_cards_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["train", "--help"])
    main()
    printed = capsys.readouterr().out
    assert "trains a hyper-representation" in printed
    assert "accumulate: 1         # parts of a device's share" in printed
    assert "strategy: single  # of ddp, fsdp, single" in printed
    assert "defaults" not in printed.partition("Settings")[2]
