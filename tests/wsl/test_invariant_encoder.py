"""One latent vector per checkpoint, and how it is learned."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn.functional import gelu

from tests.wsl.conftest import train_small
from wsl.models.invariant_encoder import EnsembleMembers, InvariantEncoder
from wsl.run import Run
from wsl.run_files import MODEL_ENCODER
from wsl.training.pretraining import Pretraining
from wsl.training.targets import SUMMARIES, PretrainingTargets, summaries_of
from zoo_gen import InputError, Zoo
from zoo_gen.splits import Split

COLUMNS = ["a/l2", "a/present", "change of a/l2", "change of a/s0"]
SIZES = {"everything": 1, "updates": 1, "directions": 0, "hidden": 8, "latent": 3, "dropout": 0.0}
CARD = Pretraining(
    encoder={**SIZES, "hidden": 32, "latent": 16},
    behaviour=1.0,
    summary=0.0,
    reconstruction=0.2,
    forecast=1.0,
    images=16,
    noise=0.0,
    steps=150,
    batch_size=32,
    learning_rate=3e-3,
    weight_decay=0.0,
)


def fitted(table: torch.Tensor) -> InvariantEncoder:
    torch.manual_seed(0)
    encoder = InvariantEncoder(COLUMNS, **SIZES).eval()
    encoder.fit_scales(table)
    return encoder


TABLE = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 5


def test_members_for_moves_read_nothing_else():
    encoder = fitted(TABLE)
    other = TABLE.clone()
    other[:, [0, 3]] += 1
    latents, moved = encoder(TABLE), encoder(other)
    assert torch.equal(latents[:, 3:], moved[:, 3:])
    assert not torch.allclose(latents[:, :3], moved[:, :3])


def test_members_for_headings_read_where_tensors_went_and_the_head_alone():
    columns = ["a/l2", "change of a/l2", "change of a/turn", "head/l2"]
    encoder = InvariantEncoder(columns, **{**SIZES, "everything": 0, "updates": 0, "directions": 2}).eval()
    for column, felt in zip(columns, (False, False, True, True), strict=True):
        other = TABLE.clone()
        other[:, columns.index(column)] += 1
        assert torch.equal(encoder(TABLE), encoder(other)) != felt


def test_members_are_networks_of_their_own():
    members, inputs = EnsembleMembers(4, 2, hidden=8, latent=3), torch.randn(5, 4)
    for found, layer in zip(members(inputs), range(2), strict=True):
        rows = slice(8 * layer, 8 * layer + 8)
        hidden = gelu(inputs @ members.hidden.weight[rows].T + members.hidden.bias[rows])
        torch.testing.assert_close(found, hidden @ members.latents.weight[layer] + members.latents.bias[layer])


def test_inputs_have_unit_scale_and_a_constant_column_is_not_read():
    table = TABLE.clone()
    table[:, 1] = 7
    standardized = fitted(table).standardize(table)
    torch.testing.assert_close(standardized.square().mean(0), torch.tensor([1.0, 0.0, 1.0, 1.0]))


def test_what_a_checkpoint_lacks_counts_as_the_mean_and_one_without_anything_has_no_latents():
    encoder, table = fitted(TABLE), TABLE.clone()
    table[0, 2] = torch.nan
    table[1] = torch.nan
    latents = encoder(table)
    assert encoder.standardize(table)[0, 2] == 0
    assert latents.isfinite().all(1).tolist() == [True, False, True, True, True, True]
    assert torch.equal(latents[2:], encoder(TABLE)[2:])


def test_an_encoder_before_training_has_the_scales_and_other_weights():
    encoder = fitted(TABLE)
    fresh = encoder.untrained()
    assert torch.equal(fresh.mean, encoder.mean)
    assert not torch.equal(fresh(TABLE), encoder(TABLE))


@pytest.mark.parametrize(
    "wrong",
    [{"everything": 0, "updates": 0, "directions": 0}, {"latent": 0}, {"dropout": 1.0}, {"updates": -1}, {"directions": -1}],
)
def test_sizes_of_which_nothing_can_be_built_are_refused(wrong: dict):
    with pytest.raises(InputError, match="at least one member"):
        InvariantEncoder(COLUMNS, **{**SIZES, **wrong})


def test_members_that_read_changes_are_refused_where_there_are_none():
    with pytest.raises(InputError, match="set updates and directions to 0"):
        InvariantEncoder(["a/l2"], **{**SIZES, "directions": 1})


@pytest.fixture(scope="module")
def zoo(tiny_zoo: Path) -> Zoo:
    return Zoo.open(tiny_zoo)


@pytest.fixture(scope="module")
def split(zoo: Zoo) -> Split[Zoo]:
    return zoo.split("by_model", fold=0)


def fit(card: Pretraining, zoo: Zoo, split: Split[Zoo], seed: int = 0) -> tuple[InvariantEncoder, dict[str, float]]:
    return card.fit([(zoo, split)], seed=seed, console=Console(quiet=True), device=torch.device("cpu"))


def test_training_learns_answers_and_invariants_of_models_it_has_not_seen(zoo: Zoo, split: Split[Zoo]):
    _, learned = fit(CARD, zoo, split)
    _, unlearned = fit(replace(CARD, steps=1), zoo, split)
    assert learned["divergence"] < unlearned["divergence"]
    assert learned["error"] < 0.8 < unlearned["error"]


def test_without_behaviour_answers_are_not_learned(zoo: Zoo, split: Split[Zoo]):
    _, learned = fit(CARD, zoo, split)
    _, blind = fit(replace(CARD, behaviour=0.0), zoo, split)
    assert learned["divergence"] < blind["divergence"]
    assert blind["error"] < 0.8


def test_summaries_tell_how_far_answers_are_those_of_the_average():
    average = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    answers = torch.stack([average.log(), average.flip(1).log(), torch.full((2, 3), torch.nan)])
    same, other, unknown = (dict(zip(SUMMARIES, row.tolist(), strict=True)) for row in summaries_of(answers, average))
    assert (same["agreement"], other["agreement"]) == (1, 0)
    assert same["probability"] == pytest.approx(0.75)
    assert same["entropy"] == pytest.approx(same["cross-entropy"]) == pytest.approx(other["entropy"])
    assert other["cross-entropy"] > same["cross-entropy"]
    assert other["log cross-entropy"] == pytest.approx(np.log(other["cross-entropy"]))
    assert same["confidence"] == other["confidence"] == pytest.approx(0.75)
    assert np.isnan(list(unknown.values())).all()


def test_the_summary_is_learned_from_answers_alone(zoo: Zoo, split: Split[Zoo]):
    _, learned = fit(replace(CARD, summary=1.0), zoo, split)
    _, unlearned = fit(replace(CARD, summary=1.0, steps=1), zoo, split)
    assert learned["summary_error"] < unlearned["summary_error"]


def test_models_of_other_images_are_learned_from_without_answers(zoo: Zoo, split: Split[Zoo], wide_zoo: Path):
    wide = Zoo.open(wide_zoo)
    unknown = PretrainingTargets.of(wide, zoo.images("finetune"), CARD.images, card=zoo.image_card("finetune"))
    assert not unknown.answers.isfinite().any()
    card, quiet = replace(CARD, summary=1.0, steps=5), Console(quiet=True)
    parts = [(zoo, split), (wide, wide.split("by_model", fold=0))]
    encoder, found = card.fit(parts, seed=0, console=quiet, device=torch.device("cpu"))
    assert all(np.isfinite(list(found.values())))
    assert any(column.startswith("blocks.3.") for column in encoder.columns)
    joined = PretrainingTargets.joined(
        [PretrainingTargets.of(one, zoo.images("finetune"), 4, card=zoo.image_card("finetune")) for one in (zoo, wide)]
    )
    assert set(joined.invariants["blocks.3.norm1.weight/present"]) == {0.0, 1.0}


def test_the_forecast_learns_how_fast_models_move_that_it_has_not_seen(zoo: Zoo, split: Split[Zoo]):
    _, learned = fit(CARD, zoo, split)
    _, blind = fit(replace(CARD, forecast=0.0), zoo, split)
    assert learned["forecast_error"] < 0.8 < blind["forecast_error"]


def test_a_forecast_that_nobody_makes_is_refused():
    with pytest.raises(InputError, match=r"encoder\.updates"):
        replace(CARD, encoder={**CARD.encoder, "updates": 0})


def test_the_same_seed_gives_the_same_bits_and_another_one_others(zoo: Zoo, split: Split[Zoo]):
    card = replace(CARD, steps=5)
    first, again, other = (fit(card, zoo, split, seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_test_models_do_not_move_the_encoder(zoo: Zoo, split: Split[Zoo]):
    card = replace(CARD, steps=5)
    first, swapped = (fit(card, zoo, one)[0].state_dict() for one in (split, Split(split.train, split.test, split.val)))
    assert all(torch.equal(first[name], swapped[name]) for name in first)


def test_a_run_embeds_by_its_model_encoder_and_without_one_by_tokens(tiny_run: Run, tiny_zoo: Path, tmp_path: Path):
    some = tiny_run.split.test.select(final=True)
    assert tiny_run.model_encoder is not None
    assert tiny_run.embed(some).shape == (len(some), 8 * 8)
    without = train_small(tiny_zoo, tmp_path / "run", "model_encoder=none")
    assert not (tmp_path / "run" / MODEL_ENCODER).exists()
    pooled = [without.model.embed(z[None], tokens.positions, without.groups)[0] for tokens, z in without.latents(some)]
    np.testing.assert_array_equal(without.embed(some), torch.stack(pooled))


@pytest.mark.parametrize("damage", ["truncated", "missing", "other sizes"])
def test_a_damaged_model_encoder_is_named(tiny_run: Run, tmp_path: Path, damage: str):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("config.yaml", "standardizer.json", "model.safetensors", MODEL_ENCODER):
        (folder / name).write_bytes((tiny_run.path / name).read_bytes())
    path = folder / MODEL_ENCODER
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-10])
    elif damage == "missing":
        path.unlink()
    else:
        config = folder / "config.yaml"
        config.write_text(config.read_text().replace("hidden: 192", "hidden: 193"))
    with pytest.raises(InputError, match="model_encoder"):
        Run.open(folder)


@pytest.mark.parametrize("missing", ["start", "directions"])
def test_a_run_of_an_older_version_is_named(tiny_run: Run, tmp_path: Path, missing: str):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("standardizer.json", "model.safetensors", MODEL_ENCODER):
        (folder / name).write_bytes((tiny_run.path / name).read_bytes())
    lines = (tiny_run.path / "config.yaml").read_text().splitlines()
    kept = [line for line in lines if not line.strip().startswith(f"{missing}:")]
    assert len(kept) == len(lines) - 1
    (folder / "config.yaml").write_text("\n".join(kept))
    with pytest.raises(InputError, match=rf"config\.yaml.*{missing}.*train the run again"):
        Run.open(folder)
