"""Leaks between the sets of a probe are refused by name."""

import pandas as pd
import pytest

from tests.wsl.populations import population
from wsl.data.leakage import refuse_leaks
from zoo_gen import InputError, Zoo


def zoo_of(frame: pd.DataFrame) -> Zoo:
    return Zoo(path=None, config={}, frame=frame)  # type: ignore[arg-type]


def parts(**rows) -> dict[str, Zoo]:
    """A clean split by model of three families, with rows added to its sets."""
    frame = population()
    number = frame["model"].str[1:].astype(int)
    sets = {"train": frame[number % 5 > 1], "val": frame[number % 5 == 1], "test": frame[number % 5 == 0]}
    return {name: zoo_of(pd.DataFrame(pd.concat([part, rows.get(name, part[:0])]))) for name, part in sets.items()}


def test_a_clean_split_is_accepted():
    clean = parts()
    assert not {"m01", "m02"} & set(clean["test"].frame["model"])
    assert refuse_leaks(**clean, scheme="by_model", seen={"m01", "m02"}) is None  # it would raise


@pytest.mark.parametrize("name", ["train", "val"])
def test_one_checkpoint_of_a_test_model_elsewhere_is_refused_by_name(name):
    with pytest.raises(InputError, match=rf"model m00 is in {name} and in test"):
        refuse_leaks(**parts(**{name: population()[:1]}), scheme="by_model", seen=set())


def test_siblings_across_a_split_by_root_are_refused():
    with pytest.raises(InputError, match="root r0, r1, r2 is in train and in val"):
        refuse_leaks(**parts(), scheme="leave_root_out", seen=set())


def test_roots_in_a_probe_set_are_refused():
    root = population()[:1].assign(model="r0", stage="pretrain")
    with pytest.raises(InputError, match="train set of the probe holds roots"):
        refuse_leaks(**parts(train=root), scheme="by_model", seen=set())


def test_features_fitted_on_test_models_are_refused():
    with pytest.raises(InputError, match="fitted on test models of the probe \\(m05\\)"):
        refuse_leaks(**parts(), scheme="by_model", seen={"m05", "m06"})
