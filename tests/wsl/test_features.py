from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pandas as pd
import pytest
import torch

from wsl.data import cache
from wsl.data.invariants import invariants_of, spectrum
from wsl.data.leakage import refuse_leaks
from wsl.features.embedding import Embedding, EncoderInputs, Rescaled, Untrained
from wsl.features.factors import Factors
from wsl.features.features import Features
from wsl.features.weight_pca import WeightPCA, project
from wsl.features.weight_statistics import WeightStatistics
from wsl.layout.slots import ROLES
from wsl.probes.probe import probed_checkpoints
from wsl.run import Run
from zoo_gen import InputError, Zoo
from zoo_gen.architecture import build
from zoo_gen.config import cards
from zoo_gen.files import weights_sha256

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

    @property
    def path(self) -> str:
        return weights_sha256(self.weights)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.weights


@dataclass
class FakeZoo:
    """As much of a zoo as features read."""

    checkpoints: list[FakeCheckpoint]
    roots: dict[str, FakeCheckpoint] = field(default_factory=lambda: {"r": FakeCheckpoint(weights(0))})

    content_hash = "fake"

    @property
    def frame(self) -> pd.DataFrame:
        return pd.DataFrame({"weights_sha256": [weights_sha256(c.weights) for c in self.checkpoints], "epoch": 1})

    def __len__(self):
        return len(self.checkpoints)

    def __iter__(self):
        return iter(self.checkpoints)

    def root(self, checkpoint):
        return self.roots[checkpoint.root]


@pytest.fixture(autouse=True)
def folder_of_cache(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of a test's own; features of the runs that all tests share are made once."""
    if "some" not in request.fixturenames:
        monkeypatch.setattr(cache, "FOLDER", tmp_path / "features")
    return cache.FOLDER


def extract(*states, reference: Literal["none", "root"] = "none") -> pd.DataFrame:
    zoo = FakeZoo([FakeCheckpoint(state) for state in states])
    return WeightStatistics(reference=reference, quantiles=QUANTILES).extract(cast(Run, None), cast(Zoo, zoo))


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
    monkeypatch.setattr("wsl.data.stacks.WEIGHTS_AT_ONCE", 1)
    monkeypatch.setattr(cache, "FOLDER", cache.FOLDER / "others")
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
    table = WeightStatistics(reference="root", quantiles=[0.5]).extract(cast(Run, None), cast(Zoo, zoo))
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


@pytest.fixture(params=["tiny_run", "tiny_encoder"])
def run(request: pytest.FixtureRequest) -> Run:
    """A run of each model."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def some(tiny_run: Run) -> Zoo:
    """Six checkpoints of train models, and six of others."""
    every = probed_checkpoints(tiny_run.zoo)
    models = [*tiny_run.split.train.frame["model"].unique()[::20][:3], *tiny_run.split.test.frame["model"].unique()[:3]]
    return every.select(model=models)


def test_the_embedding_is_that_of_the_run(run: Run, some: Zoo):
    np.testing.assert_allclose(Embedding().extract(run, some), run.embed(some), rtol=1e-6)


def test_an_untrained_model_differs_where_embeddings_are_learned_and_is_the_same_every_time(run: Run, some: Zoo):
    trained, untrained = (features.extract(run, some) for features in (Embedding(), Untrained()))
    apart = np.abs(trained.to_numpy() - untrained.to_numpy()).max()
    assert apart > 1e-3 if run.model_name == "invariant_encoder" else apart == 0  # hyperrep learns in its decoder alone
    pd.testing.assert_frame_equal(run.untrained().embeddings(some).astype(float), untrained)


def test_embeddings_of_different_models_are_different_entries_of_the_cache(
    tiny_run: Run, tiny_encoder: Run, some: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(cache, "FOLDER", tmp_path / "features")
    of_tokens, of_invariants = (Embedding().extract(run, some) for run in (tiny_run, tiny_encoder))
    assert set(of_tokens.columns).isdisjoint(of_invariants.columns)
    assert len(list(cache.FOLDER.iterdir())) > 1
    np.testing.assert_allclose(Embedding().extract(tiny_run, some), tiny_run.embed(some), rtol=1e-6)


def test_inputs_of_an_invariant_encoder_are_invariants_and_fitted_to_no_model(tiny_encoder: Run, some: Zoo):
    pd.testing.assert_frame_equal(EncoderInputs().extract(tiny_encoder, some), invariants_of(some))
    assert EncoderInputs().seen(tiny_encoder) == frozenset()


def test_inputs_of_a_hyper_representation_are_pooled_as_latents_are_and_fitted_to_train_models(tiny_run: Run, some: Zoo):
    assert EncoderInputs().seen(tiny_run) == tiny_run.seen
    table = EncoderInputs().extract(tiny_run, some)
    tokens, _ = next(iter(tiny_run.latents(some)))
    values = tiny_run.inputs.tokens.standardizer.standardize(tokens)
    positions = tokens.positions
    tail = int(positions[:, 0].max())
    for group in positions[:, :2].unique(dim=0):
        block, role = group.tolist()
        here = (positions[:, :2] == group).all(dim=1)
        found = table.iloc[0].filter(regex=rf"^{'tail' if block == tail else block}\.{ROLES[role]}/")
        assert len(found) > 0
        scale, directions = values[here][0, -1].numpy(), values[here][:, :-1].numpy()
        np.testing.assert_allclose(found.iloc[:2], [scale, directions.mean() * np.exp(scale)], rtol=1e-4, atol=1e-5)
        sizes = np.sqrt((directions**2).mean(axis=0)) * np.exp(scale)
        np.testing.assert_allclose(np.exp(found.iloc[2 : 2 + len(sizes)]), np.maximum(sizes, 1e-4), rtol=1e-3)


def test_spectra_are_singular_values_and_norms():
    stack = torch.randn(3, 6, 4, generator=torch.Generator().manual_seed(0))
    found = np.exp(spectrum(stack, 32))
    for row, matrix in zip(found, stack.numpy(), strict=True):
        norms = [np.abs(matrix).mean(), np.sqrt((matrix**2).mean()), np.abs(matrix).max()]
        np.testing.assert_allclose(row, [*norms, *np.linalg.svd(matrix, compute_uv=False)], rtol=1e-4)


def test_spectra_do_not_feel_rotations_and_few_values_hold_the_first_and_the_last():
    generator = torch.Generator().manual_seed(0)
    stack = torch.randn(2, 8, 8, generator=generator)
    rotation = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    np.testing.assert_allclose(spectrum(stack @ rotation, 8)[:, 3:], spectrum(stack, 8)[:, 3:], atol=1e-4)
    np.testing.assert_allclose(spectrum(stack, 3)[:, [3, 5]], spectrum(stack, 8)[:, [3, 10]])


def test_spectra_of_zeros_are_finite_and_those_of_nan_are_nan():
    assert np.isfinite(spectrum(torch.zeros(1, 4, 4), 4)).all()
    assert np.isnan(spectrum(torch.full((1, 4, 4), torch.nan), 4)).all()


def test_components_are_those_of_an_explicit_decomposition():
    rng = np.random.default_rng(0)
    weights, rows = rng.normal(size=(30, 50)), np.arange(0, 20, 2)
    products = weights @ weights[::2].T
    train = np.arange(15) < 10
    found = project(products, rows, train, 5)
    centred = weights - weights[rows].mean(axis=0)
    directions = np.linalg.svd(centred[rows], full_matrices=False)[2][:5]
    np.testing.assert_allclose(np.abs(found), np.abs(centred @ directions.T), atol=1e-8)


def test_components_do_not_change_with_the_test_models(tiny_run: Run, some: Zoo):
    """The scores of train models alone, and beside test models, are the same."""
    pca = WeightPCA(reference="none", components=3, anchors=100)
    alone = some.select(model=[m for m in some.frame["model"].unique() if m in set(tiny_run.split.train.frame["model"])])
    kept = some.frame["model"].isin(alone.frame["model"].tolist()).to_numpy()
    together = pca.extract(tiny_run, some)[kept]
    np.testing.assert_allclose(np.abs(together), np.abs(pca.extract(tiny_run, alone)), rtol=1e-6, atol=1e-8)


def test_factors_hold_the_root_only_where_roots_are_shared(tiny_run: Run, some: Zoo):
    by_root = Run.open(tiny_run.path)
    by_root.config = {**tiny_run.config, "split": "leave_root_out"}
    shared, held_out = (Factors().extract(run, some) for run in (tiny_run, by_root))
    assert any("root=" in column for column in map(str, shared))
    assert not any("root=" in column for column in map(str, held_out))
    assert set(shared.to_numpy().ravel()) == {0.0, 1.0}


def test_features_come_from_the_cache_until_weights_or_settings_change(folder_of_cache: Path):
    state, other = weights(1), weights(2)
    first = extract(state)
    assert len(list(folder_of_cache.iterdir())) == 1
    pd.testing.assert_frame_equal(extract(state), first)
    assert len(list(folder_of_cache.iterdir())) == 1
    extract(other)
    extract(state, reference="root")
    assert len(list(folder_of_cache.iterdir())) == 3


def test_a_damaged_cache_is_made_again(folder_of_cache: Path):
    first = extract(weights(1))
    (file,) = folder_of_cache.iterdir()
    file.write_bytes(b"damaged")
    pd.testing.assert_frame_equal(extract(weights(1)), first)


@pytest.mark.parametrize("name", cards("features", ["*"]))
def test_every_card_gives_named_numbers_one_row_per_checkpoint(name: str, run: Run, some: Zoo):
    features = cards("features", [name])[name]
    assert isinstance(features, Features)
    table = features.extract(run, some)
    assert len(table) == len(some)
    assert table.columns.is_unique
    assert all(np.issubdtype(kind, np.floating) for kind in table.dtypes)


@pytest.mark.parametrize("name", cards("features", ["*"]))
def test_no_card_is_fitted_on_test_models(name: str, run: Run):
    train, val, test = run.split
    features = cards("features", [name])[name]
    seen = features.seen(run)
    assert not set(seen) & set(test.frame["model"])
    refuse_leaks(train=train, val=val, test=test, scheme="by_model", seen=seen)


@pytest.mark.parametrize("features", [Embedding(), Rescaled(), Untrained(), WeightPCA(reference="none", components=2, anchors=9)])
def test_features_of_a_run_on_another_fold_are_refused_by_name(features: Features, run: Run):
    """A representation, a PCA or statistics fitted on models that are tested."""
    train, val, test = run.zoo.split("by_model", fold=2)
    with pytest.raises(InputError, match=r"fitted on test models of the probe \("):
        refuse_leaks(train=train, val=val, test=test, scheme="by_model", seen=features.seen(run))
