"""Adopted zoos: weights in place, roots that nobody knows, columns of one's own."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch

from tests.zoos import adopted_zoo
from zoo_gen import InputError, Zoo
from zoo_gen.files import write_weights
from zoo_gen.formats.checkpoint import read_checkpoint
from zoo_gen.formats.folder import checkpoints_below
from zoo_gen.index import COLUMNS
from zoo_gen.reader import read_weights
from zoo_gen.reference import Reference
from zoo_gen.verify import problems, repair


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return adopted_zoo(tmp_path_factory.mktemp("adopted"), unknown=4)


def test_weights_stay_where_they_are_and_are_read_from_there(zoo: Zoo):
    one = next(iter(zoo.select(model="child_0_1", epoch=1)))
    assert one.is_reference
    assert not list(zoo.path.rglob("*.safetensors"))
    there = read_weights(zoo.path.parent / "files" / "child_0_1_1.safetensors")
    found = one.state_dict()
    assert found.keys() == there.keys()
    assert all(found[name].equal(there[name]) for name in there)


def test_references_and_their_folders_are_read_as_weights_are(zoo: Zoo):
    one = zoo.select(model="child_0_1", final=True)[0]
    there = one.state_dict()
    for place in (one.path, one.path.parent):
        found = read_checkpoint(place)
        assert found.keys() == there.keys()
        assert all(found[name].equal(there[name]) for name in there)
    assert not read_checkpoint(zoo[3].path)["norm.bias"].equal(there["norm.bias"])


def test_weights_that_changed_since_they_were_adopted_are_not_read_by_their_reference(tmp_path: Path):
    changed = adopted_zoo(tmp_path, roots=0, unknown=1)
    for file in (tmp_path / "files").glob("*"):
        write_weights(file, {"a": torch.ones(1)})
    with pytest.raises(InputError, match="have changed since they were adopted"):
        read_checkpoint(changed[0].path)


def test_a_reference_is_to_weights_and_to_no_other_reference(zoo: Zoo, tmp_path: Path):
    content = json.loads(zoo[0].path.read_text()) | {"path": str(tmp_path / "b.reference.json")}
    for name in "ab":
        (tmp_path / f"{name}.reference.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match="refers to another reference"):
        read_checkpoint(tmp_path / "a.reference.json")
    with pytest.raises(InputError, match="name the weights that it is of"):
        Reference(zoo[0].path).sealed()


def test_references_of_a_folder_count_unless_their_weights_do(zoo: Zoo):
    assert len(checkpoints_below(zoo.path)) == len(zoo)
    beside = checkpoints_below(zoo.path.parent)
    assert len(beside) == len(zoo)
    assert all(place.suffix == ".safetensors" for place in beside)


def test_copies_are_equal_to_references(zoo: Zoo, tmp_path: Path):
    copied = adopted_zoo(tmp_path, unknown=4, copy=True)
    assert not copied[0].is_reference
    assert copied.content_hash == zoo.content_hash
    assert not list(problems(copied.path))


def test_models_of_adopted_zoos_are_built(zoo: Zoo):
    model = zoo[0].build()
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)


def test_a_model_without_architecture_says_what_it_needs(tmp_path: Path):
    bare = adopted_zoo(tmp_path, roots=0, unknown=2, described=False)
    assert bare[0].state_dict()
    with pytest.raises(InputError, match=r"adopted without an architecture.*architecture="):
        bare[0].build()


def test_roots_are_their_own_and_unknown_ones_are_none(zoo: Zoo):
    stray = zoo.select(model="stray_0")[0]
    assert (stray.root, stray.parent, stray.stage, zoo.root(stray)) == (None, None, "finetune", None)
    child = zoo.select(model="child_2_0")[0]
    root = zoo.root(child)
    assert root is not None
    assert (root.model, root.stage, root.root, root.fold) == ("root_2", "pretrain", "root_2", None)


def test_own_columns_follow_those_of_the_format(zoo: Zoo):
    assert list(zoo.frame.columns) == [*COLUMNS, "score", "team", "epoch_minutes"]
    assert zoo.frame.dtypes["score"] == "float64"
    assert zoo.frame["score"].isna().any()
    assert zoo.select(model="child_0_1", epoch=2)[0].columns == {"score": 1.0, "team": "green", "epoch_minutes": 4.0}


def test_folds_are_stratified_by_root_and_split_all_models_once(zoo: Zoo):
    finals = zoo.select(stage="finetune", final=True).frame
    for _, family in finals.groupby("root", dropna=False):
        counts = family["fold"].value_counts()
        assert counts.max() == 1
    parts = zoo.split("by_model", fold=1)
    models = [set(part.frame["model"]) for part in parts]
    assert set.union(*models) == set(finals["model"])
    assert not models[0] & models[1] | models[0] & models[2] | models[1] & models[2]


def test_no_model_of_unknown_root_is_in_a_split_by_roots(zoo: Zoo):
    parts = zoo.split("leave_root_out", fold=0)
    assert all(part.frame["root"].notna().all() for part in parts)
    assert set(parts.test.frame["root"]) == {"root_0"}


def test_splitting_by_roots_says_that_they_are_not_known(tmp_path: Path):
    few = adopted_zoo(tmp_path, roots=2, children=1, epochs=1, unknown=3)
    with pytest.raises(InputError, match=r"at least 3 roots.*has 2; the roots of 3 models are not known"):
        few.split("leave_root_out", fold=0)


def test_a_sound_zoo_has_no_problems_and_repair_makes_the_same_index(zoo: Zoo):
    assert not list(problems(zoo.path))
    before = (zoo.path / "index.parquet").read_bytes()
    (zoo.path / "index.parquet").write_bytes(b"")
    repair(zoo.path)
    assert (zoo.path / "index.parquet").read_bytes() == before


def test_weights_that_changed_are_found_whether_read_or_verified(tmp_path: Path):
    mine = adopted_zoo(tmp_path, roots=0, unknown=2, epochs=1)
    file = tmp_path / "files" / "stray_0_1.safetensors"
    write_weights(file, {name: tensor + 1 for name, tensor in read_weights(file).items()})
    with pytest.raises(InputError, match=r"stray_0_1.safetensors have changed since they were adopted"):
        mine[0].state_dict()
    (problem,) = problems(mine.path)
    assert "have changed since they were adopted" in problem
    assert "delete" not in problem
    assert mine[1].state_dict()


def test_weights_that_are_gone_are_one_clear_error(tmp_path: Path):
    mine = adopted_zoo(tmp_path, roots=0, unknown=1, epochs=1)
    (tmp_path / "files" / "stray_0_1.safetensors").unlink()
    with pytest.raises(InputError, match=r"cannot be found.*adopt the models again"):
        mine[0].state_dict()
    (problem,) = problems(mine.path)
    assert "cannot be found" in problem
    assert "delete" not in problem


def test_verify_hashes_weights_whatever_their_times_say(tmp_path: Path):
    mine = adopted_zoo(tmp_path, roots=0, unknown=1, epochs=1)
    file = tmp_path / "files" / "stray_0_1.safetensors"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=times)
    (problem,) = problems(mine.path)
    assert "has changed since it was adopted" in problem


def test_a_file_that_was_only_touched_is_still_believed(tmp_path: Path):
    mine = adopted_zoo(tmp_path, roots=0, unknown=1, epochs=1)
    os.utime(tmp_path / "files" / "stray_0_1.safetensors", (1, 1))
    assert mine[0].state_dict()


def test_a_zoo_and_its_weights_may_move_together(tmp_path: Path):
    adopted_zoo(tmp_path / "here", roots=0, unknown=1, epochs=1)
    (tmp_path / "here").rename(tmp_path / "there")
    assert Zoo.open(tmp_path / "there" / "zoo")[0].state_dict()


def test_the_content_hash_covers_own_columns(zoo: Zoo, tmp_path: Path):
    same = adopted_zoo(tmp_path, unknown=4)
    assert same.content_hash == zoo.content_hash
    record = same.path / "models" / "child_0_0" / "record.json"
    told = json.loads(record.read_text())
    told["columns"]["team"] = "green"
    record.write_text(json.dumps(told))
    assert any("does not agree with the record on team" in problem for problem in problems(same.path))
    repair(same.path)
    assert not list(problems(same.path))
    assert Zoo.open(same.path).content_hash != zoo.content_hash


def test_own_columns_of_a_zoo_that_is_not_adopted_are_not_read(tiny_zoo: Path, tmp_path: Path):
    with_more = pd.read_parquet(tiny_zoo / "index.parquet").assign(mine=1.0)
    (tmp_path / "zoo.json").write_bytes((tiny_zoo / "zoo.json").read_bytes())
    with_more.to_parquet(tmp_path / "index.parquet", index=False)
    assert "mine" not in Zoo.open(tmp_path).frame


@pytest.mark.parametrize("name", ["sha256", "two\nlines", "", "x" * 300])
def test_a_record_with_a_column_that_is_none_of_ones_own_is_damaged(name: str, tmp_path: Path):
    mine = adopted_zoo(tmp_path, roots=0, unknown=1, epochs=1)
    record = mine.path / "models" / "stray_0" / "record.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "columns": {name: 1.0}}))
    assert any("is damaged" in problem for problem in problems(mine.path))


def test_an_adopted_zoo_has_no_images_and_says_so(zoo: Zoo):
    with pytest.raises(InputError, match=r"adopted without images"):
        zoo.images("finetune")


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path):
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is not empty"):
        adopted_zoo(tmp_path, roots=0, unknown=1, epochs=1)
    assert (tmp_path / "zoo" / "mine.txt").read_text() == "mine"
