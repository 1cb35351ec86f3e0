"""Checkpoints are selected by values, masks and slices, and a zoo is opened by its name."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.zoos import known
from zoo_gen import InputError, Zoo


@pytest.fixture(scope="module")
def zoo(tiny_zoo: Path) -> Zoo:
    return Zoo.open(tiny_zoo)


def test_a_zoo_is_opened_by_its_name_under_checkpoints_zoos_and_by_its_path(
    tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "zoos").mkdir(parents=True)
    (tmp_path / "checkpoints" / "zoos" / "mine").symlink_to(tiny_zoo)
    assert Zoo.open("mine").content_hash == Zoo.open(tiny_zoo).content_hash == Zoo.open("checkpoints/zoos/mine").content_hash
    with pytest.raises(InputError, match=r"zoo 'yours' not found at .*checkpoints/zoos/yours"):
        Zoo.open("yours")


def test_a_mask_selects_the_rows_that_it_marks(zoo: Zoo) -> None:
    frame = zoo.frame
    mask = (frame["epoch"] > 1) & (frame["optimizer"] == "sgd")
    expected = frame["path"][mask].tolist()
    assert 0 < len(expected) < len(zoo)
    for given in (mask, mask.to_numpy(), mask.tolist()):
        assert zoo.where(given).frame["path"].tolist() == expected
    selected = zoo.where(mask)
    assert known(selected.root(selected[0])).model == selected[0].root  # the roots are not in the selection


def test_a_comparison_with_missing_values_marks_none_of_them(zoo: Zoo) -> None:
    assert set(zoo.where(zoo.frame["fold"] == 2).frame["path"]) == set(zoo.select(fold=2).frame["path"])
    assert len(zoo.where(zoo.frame["fold"] == 2)) > 0


def test_a_mask_that_is_none_of_this_zoo_is_refused(zoo: Zoo) -> None:
    some = zoo.select(final=True)
    with pytest.raises(InputError, match="of its own frame"):
        some.where(zoo.frame["epoch"] > 1)
    with pytest.raises(InputError, match="of its own frame"):
        zoo.where((zoo.frame["epoch"] > 1).sample(frac=1, random_state=0))
    with pytest.raises(InputError, match="of its own frame"):
        zoo.where([True])
    with pytest.raises(InputError, match="where takes booleans, not int64"):
        zoo.where(np.arange(len(zoo)))
    assert len(zoo.where(np.zeros(len(zoo), dtype=bool)).where([])) == 0


def test_a_slice_is_a_zoo_and_a_number_a_checkpoint(zoo: Zoo) -> None:
    part = zoo[10:20]
    assert isinstance(part, Zoo)
    assert [checkpoint.path for checkpoint in part] == [checkpoint.path for checkpoint in zoo][10:20]
    assert zoo[np.int64(3)].path == zoo[3].path  # type: ignore[call-overload]
    assert [checkpoint.path for checkpoint in zoo[::-400]] == [checkpoint.path for checkpoint in zoo][::-400]
    with pytest.raises(TypeError, match=r"whole numbers and slices; other selections are select\(...\) and where\(mask\)"):
        zoo[[1, 2]]  # type: ignore[call-overload]


def test_a_selection_by_a_function_or_an_unknown_column_is_refused(zoo: Zoo) -> None:
    with pytest.raises(InputError, match=r"other conditions are for where: zoo.where\(zoo.frame\['epoch'\] > 3\)"):
        zoo.select(epoch=lambda epoch: epoch > 3)
    with pytest.raises(InputError, match="no column 'epoc'"):
        zoo.select(epoc=3)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"learning_rate": 123}, r"no checkpoint of zoo .* has learning_rate 123; values are 0.0001, 0.003, 0.006, 0.03"),
        ({"optimizer": "SGD"}, r"has optimizer 'SGD'; values are 'adamw', 'sgd'"),
        ({"epoch": "1"}, r"has epoch '1'; values are 1, 2"),
        ({"stage": "finetuned"}, r"has stage 'finetuned'; values are 'finetune', 'pretrain'"),
        ({"model": ["supervised_0", "supervised_00"]}, r"has model 'supervised_00'; values are 'supervised_0'"),
        ({"diverged_epoch": 3}, r"has diverged_epoch 3; it has no value of it at all"),
    ],
)
def test_a_value_that_no_checkpoint_has_is_refused_with_those_there_are(
    zoo: Zoo, conditions: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        zoo.select(**conditions)
    with pytest.raises(InputError, match=message):
        zoo.select(final=True).select(**conditions)


def test_a_value_that_the_zoo_has_may_select_nothing(zoo: Zoo) -> None:
    assert len(zoo.select(final=True).select(epoch=1)) == len(zoo.select(model=[])) == 0
    assert len(zoo.select(status="diverged", stage="pretrain")) == len(zoo.select(root=None)) == 0
    assert len(zoo.select(fold=None)) == len(zoo.select(stage="pretrain")) > 0


def test_any_list_of_values_means_membership(zoo: Zoo) -> None:
    models = zoo.frame["model"].unique()[:3]
    counts = {len(zoo.select(model=given)) for given in (models, list(models), pd.Series(models), pd.Index(models))}
    assert counts == {6}
    assert len(zoo.select(epoch=range(2))) == len(zoo.select(epoch=1)) == len(zoo) // 2
