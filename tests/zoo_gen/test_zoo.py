"""The zoo on disk: complete, reproducible, resumable, and safe to read."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch

from tests.zoos import ONE_EPOCH, SHORT, InThisProcess, known, make_short, make_zoo
from zoo_gen import InputError, Zoo
from zoo_gen.evaluate import score
from zoo_gen.index import COLUMNS, RESULTS


def test_no_model_and_no_epoch_is_lost(tiny_zoo: Path) -> None:
    zoo = Zoo.open(tiny_zoo)
    assert zoo.complete
    assert zoo.frame["model"].nunique() == 51
    assert len(zoo) == 102
    assert set(COLUMNS) == set(zoo.frame.columns)
    finetuned = zoo.select(stage="finetune").frame
    assert bool(finetuned[list(RESULTS)].notna().all(axis=None))
    simclr = zoo.select(stage="pretrain", pretraining="simclr").frame
    assert bool(simclr[["train_accuracy", "test_accuracy", "accuracy_gap"]].isna().all(axis=None))
    assert bool(simclr["test_loss"].notna().all())
    torch.testing.assert_close(
        torch.tensor(finetuned["accuracy_gap"].to_numpy()),
        torch.tensor((finetuned["train_accuracy"] - finetuned["test_accuracy"]).to_numpy()),
    )


def test_timm_opens_each_final_model_and_finds_the_recorded_accuracy(tiny_zoo: Path) -> None:
    zoo = Zoo.open(tiny_zoo)
    test = zoo.images("finetune").test
    for checkpoint in list(zoo.select(stage="finetune", final=True))[::6]:
        model = timm.create_model(f"local-dir:{checkpoint.folder}", pretrained=True).eval()
        found = (model(test.pixels).argmax(-1) == test.labels).float().mean()
        assert float(found) == checkpoint.results["test_accuracy"]
        torch.testing.assert_close(checkpoint.build()(test.pixels[:4]), model(test.pixels[:4]))


def test_scoring_weights_again_gives_the_recorded_results(tiny_zoo: Path) -> None:
    zoo = Zoo.open(tiny_zoo)
    chosen = list(zoo.select(stage="finetune", head="mlp", epoch=1))[:5]
    scored = score(chosen[0].architecture, [c.state_dict() for c in chosen], zoo.images("finetune").val)
    assert scored.accuracy.tolist() == [c.results["val_accuracy"] for c in chosen]
    torch.testing.assert_close(scored.loss.double(), torch.tensor([c.results["val_loss"] for c in chosen], dtype=torch.float64))


def test_a_zoo_is_indexed_by_whole_numbers_within_the_selection(tiny_zoo: Path) -> None:
    zoo = Zoo.open(tiny_zoo)
    assert zoo[-1].model == zoo.frame["model"].iloc[-1]
    with pytest.raises(IndexError, match="selection of 0"):
        zoo.select(status="diverged", stage="pretrain")[0]
    with pytest.raises(TypeError, match=r"where\(mask\)"):
        zoo["epoch"]  # type: ignore[call-overload]


def test_checkpoints_are_the_same_one_by_one_and_all_at_once(tiny_zoo: Path) -> None:
    zoo = Zoo.open(tiny_zoo)
    some = zoo.select(stage="finetune", optimizer="sgd")
    assert list(some) == [some[number] for number in range(len(some))]
    one = some[3]
    row = some.frame.iloc[3]
    assert (one.model, one.epoch, one.fold) == (row["model"], row["epoch"], row["fold"])
    assert one.path == (tiny_zoo / row["path"]).resolve()
    assert one.results["test_loss"] == row["test_loss"]
    assert zoo.select(stage="pretrain", pretraining="simclr")[0].results["test_accuracy"] is None
    assert (known(zoo.root(one)).model, known(zoo.root(one)).epoch) == (one.root, 2)
    assert zoo.root(one) is some.root(one)  # looked up once


def test_splits_keep_families_and_epochs_together(tiny_zoo: Path) -> None:
    zoo = Zoo.open(tiny_zoo)
    tested: list[str] = []
    for fold in range(5):
        parts = [set(part.frame["model"]) for part in zoo.split("by_model", fold=fold)]
        assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
        assert sum(map(len, parts)) == 48
        tested += parts[2]
    assert len(tested) == len(set(tested)) == 48
    for fold in range(3):
        roots = [set(part.frame["root"]) for part in zoo.split("leave_root_out", fold=fold)]
        assert [len(part) for part in roots] == [1, 1, 1]
        assert len(set.union(*roots)) == 3
    with pytest.raises(InputError, match="by_model or leave_root_out"):
        zoo.split("by_checkpoint", fold=0)


@pytest.fixture(scope="module")
def short(short_zoo: Path) -> Zoo:
    return Zoo.open(short_zoo)


def test_the_same_seed_gives_the_same_zoo_and_another_does_not(short: Zoo, tmp_path: Path) -> None:
    again = make_short(tmp_path / "again")
    assert again.content_hash == short.content_hash
    assert list(again.frame["sha256"]) == list(short.frame["sha256"])
    assert make_short(tmp_path / "other", "seed=1").content_hash != short.content_hash


def test_an_interrupted_zoo_is_finished_to_the_same_bits(short: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import zoo_gen.generate as module

    writes = 0

    def dying_write(path: Path, weights: dict[str, torch.Tensor]) -> None:
        nonlocal writes
        writes += 1
        if writes == 4:
            raise KeyboardInterrupt
        original(path, weights)

    original = module.write_weights
    monkeypatch.setattr(module, "write_weights", dying_write)
    with pytest.raises(KeyboardInterrupt):
        make_short(tmp_path / "zoo")
    assert not Zoo.open(tmp_path / "zoo").complete
    finished = make_short(tmp_path / "zoo")
    assert finished.complete
    assert finished.content_hash == short.content_hash
    assert not list((tmp_path / "zoo" / "state").iterdir())


def test_a_finished_zoo_is_not_trained_again(short: Zoo) -> None:
    make_short(short.path, executor=InThisProcess(die_after=0))
    with pytest.raises(InputError, match=r"another configuration .*stack_size"):
        make_short(short.path, "zoo.stack_size=2")


def test_a_lost_checkpoint_is_made_again_to_the_same_bits(short: Zoo, tmp_path: Path) -> None:
    zoo = Zoo.open(copied(short, tmp_path))
    zoo[3].path.unlink()
    again = make_short(zoo.path)
    assert again[3].state_dict().keys() == short[3].state_dict().keys()
    assert again.content_hash == short.content_hash


def test_a_diverged_model_is_kept_with_its_epoch(tmp_path: Path) -> None:
    zoo = make_zoo(tmp_path / "zoo", *SHORT, *ONE_EPOCH, axes={"learning_rate": [1e-3, 1e30]})
    wild = zoo.select(stage="finetune", learning_rate=1e30).frame
    assert set(wild["status"]) == {"diverged"}
    assert set(wild["diverged_epoch"]) == {1}
    assert wild["final"].sum() == 3
    assert set(zoo.select(stage="finetune", learning_rate=0.001).frame["status"]) == {"ok"}
    assert zoo.complete


def copied(zoo: Zoo, tmp_path: Path) -> Path:
    return Path(shutil.copytree(zoo.path, tmp_path / "zoo"))


def test_a_missing_zoo_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="python -m zoo_gen zoo=digits"):
        Zoo.open(tmp_path / "digits")


def test_a_zoo_of_a_newer_format_is_refused(short: Zoo, tmp_path: Path) -> None:
    path = copied(short, tmp_path)
    description = json.loads((path / "zoo.json").read_text())
    (path / "zoo.json").write_text(json.dumps({**description, "format_version": 99}))
    with pytest.raises(InputError, match=r"version 99.*upgrade"):
        Zoo.open(path)


@pytest.mark.parametrize("name", ["zoo.json", "index.parquet"])
def test_a_damaged_description_or_index_is_refused(short: Zoo, tmp_path: Path, name: str) -> None:
    path = copied(short, tmp_path)
    (path / name).write_bytes((path / name).read_bytes()[:40])
    with pytest.raises(InputError, match=rf"{name} is damaged"):
        Zoo.open(path)


def test_a_truncated_or_missing_checkpoint_is_one_clear_error(short: Zoo, tmp_path: Path) -> None:
    zoo = Zoo.open(copied(short, tmp_path))
    whole, cut, gone = zoo[0], zoo[1], zoo[2]
    cut.path.write_bytes(cut.path.read_bytes()[:-100])
    gone.path.unlink()
    assert whole.state_dict()
    with pytest.raises(InputError, match="damaged"):
        cut.state_dict()
    with pytest.raises(InputError, match="is gone"):
        gone.state_dict()


def test_an_index_that_points_outside_the_zoo_is_refused(short: Zoo, tmp_path: Path) -> None:
    path = copied(short, tmp_path)
    frame = pd.read_parquet(path / "index.parquet")
    frame["path"] = "../../etc/passwd"
    frame.to_parquet(path / "index.parquet")
    with pytest.raises(InputError, match="outside the zoo"):
        Zoo.open(path)[0].state_dict()
