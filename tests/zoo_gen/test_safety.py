"""What can go wrong around a zoo is one clear error, and nothing is lost."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests import forks
from tests.zoo_gen.test_guard import older
from tests.zoos import ONE_EPOCH, SHORT, TWO_RATES, InThisProcess, make_short, make_zoo
from zoo_gen import InputError, Zoo
from zoo_gen.evaluate import score
from zoo_gen.files import locked
from zoo_gen.verify import main as verify
from zoo_gen.verify import problems, repair


@pytest.fixture(scope="module")
def short(short_zoo: Path) -> Zoo:
    return Zoo.open(short_zoo)


@pytest.fixture
def copied(short: Zoo, tmp_path: Path) -> Path:
    return Path(shutil.copytree(short.path, tmp_path / "zoo"))


def test_a_whole_zoo_has_no_problems(short: Zoo) -> None:
    assert list(problems(short.path)) == []


def test_every_kind_of_damage_is_found_and_named(copied: Path) -> None:
    zoo = Zoo.open(copied)
    flipped, gone, moved = zoo[0].path, zoo[1].path, zoo[2].path
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    flipped.write_bytes(content)
    gone.unlink()
    shutil.copy(moved, copied / "models" / zoo[2].model / "epochs" / "9999.safetensors")
    record = copied / "models" / zoo[3].model / "record.json"
    changed = json.loads(record.read_text())
    changed["checkpoints"][0]["results"]["test_loss"] = 0.0
    record.write_text(json.dumps(changed))
    found = "\n".join(problems(copied))
    assert f"{flipped.name} is not the file that was written" in found
    assert f"{gone} is gone" in found
    assert "9999.safetensors is named by no record" in found
    assert "test_loss of" in found
    assert len(found.splitlines()) >= 4


def test_an_index_is_made_again_from_the_records(copied: Path, short: Zoo) -> None:
    (copied / "index.parquet").write_bytes(b"broken")
    with pytest.raises(InputError, match="--repair"):
        list(problems(copied))
    repair(copied)
    assert list(problems(copied)) == []
    assert Zoo.open(copied).content_hash == short.content_hash
    pd.testing.assert_frame_equal(Zoo.open(copied).frame, short.frame)


def test_the_verify_command_says_what_is_wrong_and_exits_with_one(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Zoo.open(copied)[0].path.unlink()
    with pytest.raises(SystemExit) as exit:
        verify([str(copied)])
    assert exit.value.code == 1
    printed = capsys.readouterr()
    assert "is gone" in printed.out
    assert printed.err.endswith("has 1 problem\n")
    assert "Traceback" not in printed.err


def test_the_verify_command_finds_a_zoo_by_its_name(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "zoos").mkdir(parents=True)
    copied.rename(tmp_path / "checkpoints" / "zoos" / "mine")
    verify(["mine"])
    assert "every hash, the records and the index agree" in capsys.readouterr().out
    verify(["mine", "--repair"])
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in ((["other"], "'other' not found"), (["other", "--repair"], "there is no zoo in")):
        with pytest.raises(SystemExit):
            verify(arguments)
        assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_zoo_older_than_a_setting_is_not_called_one_of_another_configuration(copied: Path) -> None:
    described = json.loads((copied / "zoo.json").read_text())
    older = json.loads(json.dumps(described))
    del older["config"]["dtype"], older["config"]["finetune"]["recipe"]["dropout"]
    (copied / "zoo.json").write_text(json.dumps(older))
    with pytest.raises(
        InputError, match=r"older version, which knew no config.dtype, config.finetune.recipe.dropout; choose another"
    ):
        make_short(copied)
    with pytest.raises(InputError, match=r"another configuration .*config.dtype: none there, float32 here"):
        make_short(copied, "zoo.keep_every=2")
    (copied / "zoo.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"another configuration .*axes.dropout: none there"):
        make_zoo(copied, *SHORT, axes={**TWO_RATES, "dropout": [0.0]})


def die_locked(lock: Path) -> None:
    """Ends this process while it holds a lock."""
    with locked(lock, "x"):
        os._exit(9)


def test_a_second_generator_is_turned_away_and_a_dead_ones_lock_is_free(copied: Path) -> None:
    with locked(copied / ".lock", f"zoo {copied}"), pytest.raises(InputError, match=rf"another process \(pid {os.getpid()}"):
        make_short(copied)
    assert forks.run(die_locked, copied / ".lock") == 9
    with locked(copied / ".lock", "zoo"):
        pass


def test_a_zoo_older_than_a_factor_opens_without_it(copied: Path, short: Zoo) -> None:
    index = copied / "index.parquet"
    pd.read_parquet(index).drop(columns=["dropout"]).to_parquet(index)
    old = Zoo.open(copied)
    assert old[0].factors == {**short[0].factors, "dropout": None}
    pd.read_parquet(index).drop(columns=["test_loss"]).to_parquet(index)
    with pytest.raises(InputError, match="lacks the columns"):
        Zoo.open(copied)


@pytest.mark.parametrize("content", [{}, {"checkpoints": 3}, {"model": "x"}])
def test_a_zoo_with_a_record_of_wrong_form_does_not_go_on(copied: Path, content: object) -> None:
    record = copied / "models" / Zoo.open(copied)[-1].model / "record.json"
    record.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"record\.json is damaged"):
        make_short(copied)


def test_an_unfinished_zoo_of_format_1_is_finished(copied: Path, short: Zoo) -> None:
    older(copied)
    Zoo.open(copied)[-1].path.unlink()
    zoo = make_short(copied)
    assert list(problems(copied)) == []
    assert list(zoo.frame["weights_sha256"]) == list(short.frame["weights_sha256"])
    repair(copied)
    assert Zoo.open(copied).content_hash == short.content_hash


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_one_clear_error_and_the_zoo_resumes(small_disk: Path, short: Zoo) -> None:
    from zoo_gen.errors import one_clear_error

    with pytest.raises(SystemExit), one_clear_error():
        make_short(small_disk / "zoo")
    assert not list(small_disk.rglob("*.tmp"))
    subprocess.run(["mount", "-o", "remount,size=60m", str(small_disk)], check=True)
    zoo = make_short(small_disk / "zoo")
    assert zoo.complete
    assert list(problems(zoo.path)) == []


def test_a_zoo_that_came_to_nothing_leaves_its_place_to_another(tmp_path: Path, short: Zoo) -> None:
    with pytest.raises(KeyboardInterrupt):
        make_short(tmp_path / "zoo", "zoo.keep_every=2", executor=InThisProcess(die_after=0))
    assert (tmp_path / "zoo" / "zoo.json").exists()
    assert make_short(tmp_path / "zoo").content_hash == short.content_hash
    with pytest.raises(InputError, match="another configuration"):
        make_short(tmp_path / "zoo", "zoo.keep_every=2")


def test_what_killed_processes_left_is_removed(copied: Path) -> None:
    left = copied / "models" / ".model.safetensors.1234.tmp"
    left.write_bytes(b"half")
    make_short(copied)
    assert not left.exists()


@pytest.mark.parametrize(("dtype", "size"), [("bfloat16", 2), ("float16", 2)])
def test_stored_weights_have_the_dtype_of_the_card(tmp_path: Path, short: Zoo, dtype: str, size: int) -> None:
    zoo = make_short(tmp_path / "zoo", f"zoo.dtype={dtype}", *ONE_EPOCH)
    checkpoint = zoo.select(stage="finetune", final=True)[0]
    assert {value.dtype for value in checkpoint.state_dict().values()} == {getattr(torch, dtype)}
    images = zoo.images("finetune").val
    again = score(checkpoint.architecture, [checkpoint.state_dict()], images)
    torch.testing.assert_close(float(again.loss), checkpoint.results["val_loss"], atol=0.05, rtol=0)
    assert checkpoint.build()(images.pixels[:2]).dtype == torch.float32
    assert checkpoint.path.stat().st_size < 0.7 * short.select(stage="finetune", final=True)[0].path.stat().st_size
    assert list(problems(zoo.path)) == []


def test_only_the_epochs_to_keep_are_stored_and_the_last_one_always(tmp_path: Path, short: Zoo) -> None:
    zoo = make_short(tmp_path / "zoo", "zoo.keep_every=5")
    assert zoo.complete
    assert set(zoo.frame["epoch"]) == {2}
    final = short.select(final=True).frame
    assert list(zoo.frame["weights_sha256"]) == list(final["weights_sha256"])


def test_absurd_learning_rates_diverge_and_the_rest_is_unharmed(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo", *SHORT, *ONE_EPOCH, axes={"learning_rate": [1e-3, 1e30], "optimizer": ["adamw", "sgd"]})
    wild = zoo.select(stage="finetune", learning_rate=1e30).frame
    assert set(wild["status"]) == {"diverged"}
    assert bool(wild["diverged_epoch"].notna().all())
    assert set(zoo.select(stage="finetune", learning_rate=1e-3).frame["status"]) == {"ok"}
    assert list(problems(zoo.path)) == []


@pytest.mark.slow
def test_fifty_kills_lose_nothing(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "runs" / "kill_zoo.py"
    done = subprocess.run([sys.executable, str(script), "--kills", "50", "--seed", "0", "--folder", str(tmp_path)])
    assert done.returncode == 0  # another one where a kill has lost or changed anything
