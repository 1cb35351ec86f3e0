"""What the invariant encoder reads: numbers that no order of neurons or heads changes."""

import numpy as np
import torch
from torch import Tensor

from tests.wsl.conftest import ARCHITECTURE
from wsl.data.invariants import invariants
from wsl.layout import layout_of
from wsl.symmetry.group import apply, sample
from wsl.symmetry.stacks import stack, unstack
from zoo_gen.architecture import build

MODEL = build(ARCHITECTURE)


def weights(seed: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return {name: torch.randn(tensor.shape, generator=rng) for name, tensor in MODEL.state_dict().items()}


def moved(*models: dict[str, Tensor], seed: int) -> list[dict[str, Tensor]]:
    """Models whose neurons and heads stand in another order, the same for all of them."""
    layout, rng = layout_of(MODEL), torch.Generator().manual_seed(seed)
    element = sample(layout, 1, rng, moves=("resid", "mlp", "head"), maps="orthogonal", dtype=torch.float32)
    return [unstack(apply(element, stack([model]), layout))[0] for model in models]


def test_no_order_of_features_neurons_or_heads_changes_them():
    child, root = weights(1), weights(0)
    other_child, other_root = moved(child, root, seed=2)
    assert not torch.equal(other_child["blocks.0.mlp.fc1.weight"], child["blocks.0.mlp.fc1.weight"])
    table = invariants([(child, root), (other_child, other_root), (other_child, root)])
    np.testing.assert_allclose(table.iloc[1], table.iloc[0], rtol=1e-4, atol=1e-4)
    assert not np.allclose(table.iloc[2], table.iloc[0], atol=1e-2)  # another order than the root's is a change


def test_one_weight_changes_the_columns_of_its_tensor_alone():
    child, root = weights(1), weights(0)
    other = {**child, "blocks.0.attn.qkv.weight": child["blocks.0.attn.qkv.weight"].clone()}
    other["blocks.0.attn.qkv.weight"][-1, 0] += 5
    table = invariants([(child, root), (other, root)])
    changed = {str(column).partition("/")[0] for column in table if table[column].iloc[0] != table[column].iloc[1]}
    assert changed == {"blocks.0.attn.qkv.weight", "change of blocks.0.attn.qkv.weight"}


def test_the_change_of_a_head_is_not_asked_for():
    table = invariants([(weights(1), weights(0))])
    assert "head.weight/l2" in table
    assert "change of head.weight/l2" not in table
    assert "change of norm.weight/l2" in table


def test_tensors_that_a_checkpoint_lacks_are_unknown_and_not_present():
    shallow = build({**ARCHITECTURE, "model_args": {**ARCHITECTURE["model_args"], "depth": 1}}).state_dict()
    table = invariants([(weights(1), weights(0)), (shallow, shallow)])
    column = "blocks.1.mlp.fc1.weight"
    assert table[f"{column}/present"].tolist() == [1.0, 0.0]
    assert np.isnan(table[f"{column}/l2"].iloc[1])
    assert table["blocks.0.mlp.fc1.weight/present"].tolist() == [1.0, 1.0]


def test_weights_that_are_not_finite_leave_nothing_known():
    broken = weights(1)
    broken["norm.bias"][3] = torch.nan
    table = invariants([(weights(1), weights(0)), (broken, weights(0))])
    assert table.notna().all(axis=1).tolist() == [True, False]
    assert table.iloc[1].isna().all()


def test_where_a_tensor_went_is_seen_from_its_root():
    root = weights(0)
    shrunk = {name: 0.9 * tensor for name, tensor in root.items()}
    turned = {name: tensor + torch.flip(tensor, dims=(-1,)) for name, tensor in root.items()}
    table = invariants([(shrunk, root), (root, root), (turned, root)]).filter(like="change of blocks.0.mlp.fc1.weight/")
    table.columns = [str(column).rpartition("/")[2] for column in table]
    np.testing.assert_allclose(table.loc[0, ["along", "cosine", "relative"]], [-0.1, -1, np.log(0.1)], rtol=1e-4)
    np.testing.assert_allclose(table.loc[1, ["along", "cosine"]], 0, atol=1e-6)
    assert table["turn"].iloc[2] > np.log(0.1) > np.log(1e-6) > table["turn"].iloc[:2].max()
