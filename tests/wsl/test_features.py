from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
import pandas as pd
import pytest
import torch

from wsl.features.features import Features
from wsl.features.hyperrep import Embedding
from wsl.features.weight_statistics import WeightStatistics
from wsl.probe import cards
from wsl.run import Run
from zoo_gen import Zoo
from zoo_gen.architecture import build

QUANTILES = [0, 0.25, 0.5, 0.75, 1]
ARCHITECTURE = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 5,
    "model_args": {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 16, "depth": 1, "num_heads": 2},
}


def weights(seed: int) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return {name: torch.randn_like(tensor) for name, tensor in build(ARCHITECTURE).state_dict().items()}


@dataclass
class FakeCheckpoint:
    weights: dict[str, torch.Tensor]
    root: str = "r"

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.weights


@dataclass
class FakeZoo:
    """As much of a zoo as features read."""

    checkpoints: list[FakeCheckpoint]
    roots: dict[str, FakeCheckpoint] = field(default_factory=lambda: {"r": FakeCheckpoint(weights(0))})

    def __len__(self):
        return len(self.checkpoints)

    def __iter__(self):
        return iter(self.checkpoints)

    def root(self, checkpoint):
        return self.roots[checkpoint.root]


class FakeRun:
    def embed(self, checkpoints):
        return np.arange(3 * len(checkpoints), dtype=np.float32).reshape(-1, 3)


def extract(*states, reference: Literal["none", "root"] = "none") -> pd.DataFrame:
    zoo = FakeZoo([FakeCheckpoint(state) for state in states])
    return WeightStatistics(reference=reference, quantiles=QUANTILES).extract(cast(Run, FakeRun()), cast(Zoo, zoo))


def test_statistics_are_those_of_numpy():
    state = weights(1)
    row = extract(state).iloc[0]
    for name, tensor in state.items():
        values = tensor.double().numpy()
        found = row[[f"{name}/{of}" for of in ("mean", "variance", "q0", "q25", "q50", "q75", "q100")]]
        expected = [values.mean(), values.var(), *np.quantile(values, QUANTILES)]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_permuted_tensor_has_the_same_statistics_and_a_scaled_one_has_not():
    state, name = weights(1), "blocks.0.mlp.fc1.weight"
    permuted = state | {name: state[name].flatten()[torch.randperm(state[name].numel())].view_as(state[name])}
    scaled = state | {name: 1.01 * state[name]}
    table = extract(state, permuted, scaled)
    np.testing.assert_allclose(table.iloc[1], table.iloc[0], atol=1e-6)
    changed = table.columns[(table.iloc[2] - table.iloc[0]).abs() > 1e-6]
    assert {column.partition("/")[0] for column in changed} == {name}


def test_a_checkpoint_has_the_same_statistics_alone_and_among_others(monkeypatch):
    states = [weights(seed) for seed in range(1, 6)]
    together = extract(*states)
    monkeypatch.setattr("wsl.features.weight_statistics._WEIGHTS_AT_ONCE", 1)
    pd.testing.assert_frame_equal(extract(*states), together)
    pd.testing.assert_frame_equal(pd.concat([extract(state) for state in states], ignore_index=True), together)


def test_differences_to_the_root_vanish_for_the_root_itself_except_in_its_head():
    row = extract(weights(0), reference="root").iloc[0]
    of_head = [column for column in row.index if column.startswith("head.")]
    of_body = [column for column in row.index if not column.startswith("head.") and not column.endswith("/present")]
    assert not row[of_body].to_numpy().any()
    pd.testing.assert_series_equal(row[of_head], extract(weights(0)).iloc[0][of_head])


def test_a_root_without_a_head_is_a_reference_too():
    state = weights(1)
    zoo = FakeZoo(
        [FakeCheckpoint(state)],
        {"r": FakeCheckpoint({name: tensor for name, tensor in weights(0).items() if not name.startswith("head")})},
    )
    table = WeightStatistics(reference="root", quantiles=[0.5]).extract(cast(Run, FakeRun()), cast(Zoo, zoo))
    np.testing.assert_allclose(table["head.weight/q50"], np.median(state["head.weight"].numpy()))


def test_tensors_that_a_checkpoint_lacks_are_absent_and_its_others_are_not():
    state = weights(1)
    headless = {name: tensor for name, tensor in state.items() if name != "head.bias"}
    table = extract(state, headless)
    np.testing.assert_array_equal(table["head.bias/present"], [1, 0])
    assert np.isnan(table["head.bias/mean"][1])
    others = [column for column in table if not str(column).startswith("head.bias")]
    assert table[others].notna().to_numpy().all()


def test_weights_that_are_not_finite_have_no_statistics():
    state = weights(1)
    state["norm.weight"] = state["norm.weight"].clone()
    state["norm.weight"][3] = torch.inf
    table = extract(state, weights(2))
    assert table.filter(regex=r"^norm\.weight/(mean|variance|q)").isna().iloc[0].all()
    assert table.iloc[1].notna().all()


def test_the_embedding_is_that_of_the_run():
    table = Embedding().extract(cast(Run, FakeRun()), cast(Zoo, FakeZoo([FakeCheckpoint({})] * 2)))
    np.testing.assert_array_equal(table.to_numpy(), [[0, 1, 2], [3, 4, 5]])


@pytest.mark.parametrize("name", cards("features", ["*"]))
def test_every_card_gives_named_numbers_one_row_per_checkpoint(name):
    zoo = FakeZoo([FakeCheckpoint(weights(seed)) for seed in range(1, 4)])
    features = cards("features", [name])[name]
    assert isinstance(features, Features)
    table = features.extract(cast(Run, FakeRun()), cast(Zoo, zoo))
    assert len(table) == 3
    assert table.columns.is_unique
    assert all(np.issubdtype(kind, np.floating) for kind in table.dtypes)
