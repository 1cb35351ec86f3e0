"""One latent vector per checkpoint, and how it is learned."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch.nn.functional import gelu

from tests.commands import refused
from tests.wsl.conftest import SMALL_ENCODER
from tests.zoos import known
from wsl.data.invariant_inputs import InvariantInputs
from wsl.data.invariants import columns_by_kind
from wsl.models.invariant_encoder import EnsembleMembers, InvariantEncoder
from wsl.run import Run
from wsl.train import main
from wsl.training.pretraining import Pretraining, pretrain
from wsl.training.settings import TrainConfig
from wsl.training.targets import SUMMARIES, Evaluated, PretrainingTargets, summaries_of
from zoo_gen import InputError, Zoo
from zoo_gen.config import compose
from zoo_gen.splits import Split

COLUMNS = ["a/l2", "a/present", "change of a/l2", "change of a/s0"]
SIZES = {"everything": 1, "updates": 1, "directions": 0, "hidden": 8, "latent": 3, "dropout": 0.0}
LOSSES = Pretraining(behaviour=1.0, summary=0.0, reconstruction=0.2, forecast=1.0, images=16, noise=0.0)
SETTINGS = {"steps": 150, "batch_size": 32, "learning_rate": 3e-3, "weight_decay": 0.0, "log_every": 50, "seed": 0}
LONG = TrainConfig(**{**compose("train", ["model=invariant_encoder"]), **SETTINGS})
SHORT = replace(LONG, steps=5)
ONCE = replace(LONG, steps=1)


def encoder_of(columns: Sequence[str], **sizes: float) -> InvariantEncoder:
    return InvariantEncoder(columns=columns_by_kind(columns), **{**SIZES, **sizes})  # type: ignore[arg-type]


def fitted(table: torch.Tensor) -> InvariantEncoder:
    torch.manual_seed(0)
    encoder = encoder_of(COLUMNS).eval()
    encoder.fit_scales(table)
    return encoder


TABLE = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 5


def test_members_for_updates_read_nothing_else():
    encoder = fitted(TABLE)
    other = TABLE.clone()
    other[:, [0, 3]] += 1
    latents, others = encoder(TABLE), encoder(other)
    assert torch.equal(latents[:, 3:], others[:, 3:])
    assert not torch.allclose(latents[:, :3], others[:, :3])


def test_members_for_directions_read_where_tensors_went_and_the_head_alone():
    columns = ["a/l2", "change of a/l2", "change of a/turn", "head/l2"]
    encoder = encoder_of(columns, everything=0, updates=0, directions=2).eval()
    for column, is_read in zip(columns, (False, False, True, True), strict=True):
        other = TABLE.clone()
        other[:, columns.index(column)] += 1
        assert torch.equal(encoder(TABLE), encoder(other)) != is_read


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


def test_a_run_before_training_has_the_scales_and_other_weights(tiny_encoder: Run):
    fresh, trained = tiny_encoder.untrained().model, tiny_encoder.model
    assert torch.equal(fresh.mean, trained.mean)
    assert torch.equal(fresh.deviation, trained.deviation)
    for (name, weight), other in zip(fresh.named_parameters(), trained.parameters(), strict=True):
        assert not torch.equal(weight, other), name


@pytest.mark.parametrize(
    "wrong",
    [{"everything": 0, "updates": 0, "directions": 0}, {"latent": 0}, {"dropout": 1.0}, {"updates": -1}, {"directions": -1}],
)
def test_sizes_of_which_nothing_can_be_built_are_refused(wrong: dict):
    with pytest.raises(InputError, match="at least one member"):
        encoder_of(COLUMNS, **wrong)


def test_members_that_read_changes_are_refused_where_there_are_none():
    with pytest.raises(InputError, match=r"set model\.updates and model\.directions to 0"):
        encoder_of(["a/l2"], directions=1)


@pytest.fixture(scope="module")
def zoo(tiny_zoo: Path) -> Zoo:
    return Zoo.open(tiny_zoo)


@pytest.fixture(scope="module")
def split(zoo: Zoo) -> Split[Zoo]:
    return zoo.split("by_model", fold=0)


def build(inputs: InvariantInputs) -> InvariantEncoder:
    return encoder_of(inputs.columns, hidden=32, latent=16)


def fit(
    zoo: Zoo, split: Split[Zoo], *others: Zoo, config: TrainConfig = LONG, **losses: float
) -> tuple[InvariantEncoder, InvariantInputs, dict[str, float]]:
    events = []
    parts = [(zoo, split), *((other, other.split("by_model", fold=0)) for other in others)]
    objective = replace(LOSSES, **losses)
    keep = {"console": Console(quiet=True), "device": torch.device("cpu"), "log": lambda *event: events.append(event)}
    encoder, inputs = pretrain(config, objective, parts, build, **keep)  # type: ignore[arg-type]
    event, step, found = events[-1]
    assert (event, step) == ("validation", config.steps)
    assert [step for event, step, _ in events if event == "train"][-1] == config.steps
    return encoder, inputs, found


def test_training_learns_predictions_and_invariants_of_models_it_has_not_seen(zoo: Zoo, split: Split[Zoo]):
    *_, learned = fit(zoo, split)
    *_, unlearned = fit(zoo, split, config=ONCE)
    assert learned["divergence"] < unlearned["divergence"]
    assert learned["error"] < 0.8 < unlearned["error"]


def test_without_behaviour_predictions_are_not_learned(zoo: Zoo, split: Split[Zoo]):
    *_, learned = fit(zoo, split)
    *_, blind = fit(zoo, split, behaviour=0.0)
    assert learned["divergence"] < blind["divergence"]
    assert blind["error"] < 0.8


def test_summaries_tell_how_far_predictions_are_those_of_the_average():
    average = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    log_probabilities = torch.stack([average.log(), average.flip(1).log(), torch.full((2, 3), torch.nan)])
    same, other, unknown = (dict(zip(SUMMARIES, row.tolist(), strict=True)) for row in summaries_of(log_probabilities, average))
    assert (same["agreement"], other["agreement"]) == (1, 0)
    assert same["probability"] == pytest.approx(0.75)
    assert same["entropy"] == pytest.approx(same["cross-entropy"]) == pytest.approx(other["entropy"])
    assert other["cross-entropy"] > same["cross-entropy"]
    assert other["log cross-entropy"] == pytest.approx(np.log(other["cross-entropy"]))
    assert same["confidence"] == other["confidence"] == pytest.approx(0.75)
    assert np.isnan(list(unknown.values())).all()


def test_the_summary_is_learned_from_predictions_alone(zoo: Zoo, split: Split[Zoo]):
    *_, learned = fit(zoo, split, summary=1.0)
    *_, unlearned = fit(zoo, split, summary=1.0, config=ONCE)
    assert learned["summary_error"] < unlearned["summary_error"]


def test_models_of_other_images_are_learned_from_without_predictions(zoo: Zoo, split: Split[Zoo], wide_zoo: Path):
    wide = Zoo.open(wide_zoo)
    assert not PretrainingTargets.of(wide, Evaluated.of(zoo, 16)).log_probabilities.isfinite().any()
    _, inputs, found = fit(zoo, split, wide, config=SHORT, summary=1.0)
    assert all(np.isfinite(list(found.values())))
    assert any(column.startswith("blocks.3.") for column in inputs.columns)
    joined = PretrainingTargets.joined([PretrainingTargets.of(one, Evaluated.of(zoo, 4)) for one in (zoo, wide)])
    assert set(joined.invariants["blocks.3.norm1.weight/present"]) == {0.0, 1.0}


def test_the_forecast_learns_how_fast_models_move_that_it_has_not_seen(zoo: Zoo, split: Split[Zoo]):
    *_, learned = fit(zoo, split)
    *_, blind = fit(zoo, split, forecast=0.0)
    assert learned["forecast_error"] < 0.8 < blind["forecast_error"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.updates=0"], "set model.updates to at least 1"),
        (["objective.behaviour=-1"], "must be at least 0"),
        (["objective.images=0"], "objective.images must be at least 1"),
        (["objective=behaviour"], "leave objective out"),
        (["window=64"], "window means nothing to model=invariant_encoder"),
        (["tokenizer=residual"], "there is no setting 'tokenizer'"),
        (["model.latent=0"], "needs at least one member"),
    ],
)
def test_settings_that_mean_nothing_or_cannot_be_trained_are_refused(
    overrides: list[str], message: str, tiny_zoo: Path, tmp_path: Path
):
    run = tmp_path / "run"
    small = [text for text in SMALL_ENCODER if not text.startswith("objective.") or "objective=behaviour" not in overrides]
    assert message in refused(main, *small, *overrides, f"zoo={tiny_zoo}", f"run={run}")
    assert not run.exists()


def test_the_same_seed_gives_the_same_bits_and_another_one_others(zoo: Zoo, split: Split[Zoo]):
    first, again, other = (fit(zoo, split, config=replace(SHORT, seed=seed))[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_test_models_do_not_move_the_encoder(zoo: Zoo, split: Split[Zoo]):
    swapped = Split(split.train, split.test, split.val)
    first, other = (fit(zoo, one, config=SHORT)[0].state_dict() for one in (split, swapped))
    assert all(torch.equal(first[name], other[name]) for name in first)


def test_a_run_embeds_and_neither_decodes_nor_tokenizes(tiny_encoder: Run):
    some = tiny_encoder.split.test.select(final=True)
    assert tiny_encoder.embed(some).shape == (len(some), 8 * 8)
    pairs = ((one.state_dict(), known(tiny_encoder.zoo.root(one)).state_dict()) for one in some)
    np.testing.assert_allclose(tiny_encoder.embed_weights(pairs), tiny_encoder.embed(some), rtol=1e-4, atol=1e-5)
    for ask in (lambda: tiny_encoder.tokenizer, partial(tiny_encoder.latents, some)):
        with pytest.raises(InputError, match="no tokens and decodes nothing"):
            ask()


@pytest.mark.parametrize("damage", ["truncated", "missing", "other sizes", "no columns", "a column less"])
def test_a_damaged_run_of_an_encoder_is_named(tiny_encoder: Run, tmp_path: Path, damage: str):
    folder = Path(shutil.copytree(tiny_encoder.path, tmp_path / "run"))
    weights, inputs, config = (folder / name for name in ("model.safetensors", "inputs.json", "config.yaml"))
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "missing":
        inputs.unlink()
    elif damage == "other sizes":
        config.write_text(config.read_text().replace("hidden: 192", "hidden: 193"))
    elif damage == "no columns":
        inputs.write_text("{}")
    else:
        InvariantInputs(InvariantInputs.read(folder, {}, advice="").columns[1:]).save(folder)
    with pytest.raises(InputError, match=r"train the run again"):
        Run.open(folder)


def test_a_run_of_an_older_format_is_refused_by_one_clear_error(tiny_encoder: Run, tmp_path: Path):
    folder = Path(shutil.copytree(tiny_encoder.path, tmp_path / "run"))
    config = folder / "config.yaml"
    lines = [line for line in config.read_text().splitlines() if not line.startswith("format:")]
    for text, found in (("\n".join(lines), "format 1"), ("\n".join([*lines, "format: 99"]), "format 99")):
        config.write_text(text)
        with pytest.raises(
            InputError, match=rf"config.yaml is of {found}, and this version .* reads format 3 alone; delete .* train"
        ):
            Run.open(folder)
