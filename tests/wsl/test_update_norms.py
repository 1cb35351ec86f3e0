"""How far tensors go from one epoch to the next."""

from pathlib import Path

import numpy as np
import pytest

from tests.zoos import known
from wsl.data.update_norms import update_norms_of
from zoo_gen import Zoo


@pytest.fixture(scope="module")
def zoo(tiny_zoo: Path) -> Zoo:
    zoo = Zoo.open(tiny_zoo).select(stage="finetune")
    return zoo.select(model=zoo.frame["model"].unique()[:2].tolist())


def test_ways_lead_from_one_checkpoint_of_a_model_to_the_next(zoo: Zoo):
    table = update_norms_of(zoo)
    name = "norm.weight"
    onward, there_by = table[f"from {name}"].to_numpy(), table[f"to {name}"].to_numpy()
    for row, (here, there) in enumerate(zip(list(zoo), list(zoo)[1:], strict=False)):
        if here.model == there.model:
            way = float((there.state_dict()[name] - here.state_dict()[name]).norm().log())
            assert onward[row] == there_by[row + 1] == pytest.approx(way, rel=1e-5)
        else:
            assert np.isnan(onward[row])


def test_the_first_way_begins_at_the_root_and_a_head_has_none(zoo: Zoo):
    table, first = update_norms_of(zoo), zoo[0]
    way = float((first.state_dict()["norm.weight"] - known(zoo.root(first)).state_dict()["norm.weight"]).norm().log())
    assert table["to norm.weight"].iloc[0] == pytest.approx(way, rel=1e-5)
    assert table.filter(regex="^to head").iloc[0].isna().all()
    assert table.filter(regex="^from head").iloc[0].notna().any()


def test_the_order_of_the_rows_does_not_matter(zoo: Zoo):
    backwards = Zoo(zoo.path, zoo.config, zoo.frame.iloc[::-1].reset_index(drop=True), zoo)
    assert np.array_equal(update_norms_of(backwards).iloc[::-1].to_numpy(), update_norms_of(zoo).to_numpy(), equal_nan=True)
