"""The transform code keeps what it says it keeps, begins as the plain cut, and a run of it trains, reopens and decodes."""

import json
from itertools import islice
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from tests.wsl.batches import cropped
from tests.zoos import known
from wsl.analyses.compression import compress
from wsl.data.pairs import pairs_of
from wsl.data.sources import FileSource, scan
from wsl.data.standardizer import Standardizer
from wsl.data.token_statistics import TokenStatistics
from wsl.data.windows import Batch, Windows
from wsl.models.transform_code import TransformCode, levels_of
from wsl.run import Run
from wsl.tokenizers.residual import Residual
from wsl.training.run_training import train
from wsl.training.settings import TrainConfig
from zoo_gen import InputError, Zoo
from zoo_gen.config import compose

SIZES = {"width": 32, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "mlp_ratio": 2}
PLACES = {"blocks": 5, "roles": 10, "tokens": 32}


@pytest.fixture(scope="module")
def sources(tiny_zoo: Path) -> list[FileSource]:
    zoo = Zoo.open(tiny_zoo).select(stage="finetune", final=True, pretraining="supervised")
    return scan(islice(pairs_of(zoo), 0, 40, 3), Residual(width=64, reference="root"))


def statistics_of(sources: list[FileSource]) -> TokenStatistics:
    standardizer = Standardizer.fit((source.plan, source.sums) for source in sources)
    return TokenStatistics(sources, Windows(sources, standardizer, length=448, seed=0, cache=0))


def allocated(sources: list[FileSource], *, compression_ratio: float) -> TransformCode:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TransformCode(token_width=65, compression_ratio=compression_ratio, longest=448, **SIZES, **PLACES)
    model.allocate(*statistics_of(sources).energy(**PLACES))
    return model.eval()


def drawn(plan_of: FileSource) -> tuple[Tensor, Tensor, Tensor]:
    plan = plan_of.plan
    values = torch.randn(2, plan.n_tokens, 65, generator=torch.Generator().manual_seed(0))
    for group in plan.groups:  # a log-scale is that of its group
        values[:, group.start : group.stop, -1] = values[:, group.start : group.start + 1, -1]
    mask = torch.cat([plan.mask, torch.ones(plan.n_tokens, 1, dtype=torch.bool)], dim=1).expand(2, -1, -1)
    return values * mask, mask, plan.positions.expand(2, -1, -1)


@pytest.mark.parametrize("compression_ratio", [2, 4, 16])
def test_every_plan_has_its_own_share_of_numbers_and_no_more(sources: list[FileSource], compression_ratio: int):
    model = allocated(sources, compression_ratio=compression_ratio)
    plans = {source.plan for source in sources}
    assert len({plan.n_weights for plan in plans}) == 2
    for plan in plans:
        assert 0.95 * plan.n_weights / compression_ratio < model.numbers(plan.positions) <= plan.n_weights / compression_ratio


def test_untrained_it_keeps_the_kept_numbers_and_the_scales_and_nothing_else(sources: list[FileSource]):
    model = allocated(sources, compression_ratio=4)
    values, mask, positions = drawn(sources[0])
    latents = model.encode(values, mask, positions)
    decoded = model.decode(latents, positions)
    kept = decoded[..., :-1] != 0
    assert torch.equal(decoded[..., :-1][kept], values[..., :-1][kept])
    assert torch.equal(decoded[..., -1], values[..., -1])
    assert int((latents[0] != 0).sum()) <= model.numbers(positions[0])


def test_the_decoder_gets_no_number_that_is_not_counted(sources: list[FileSource]):
    model = allocated(sources, compression_ratio=4)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    values, mask, positions = drawn(sources[0])
    latents = model.encode(values, mask, positions)
    smuggled = latents + (latents == 0) * torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
    decoded = model.decode(latents, positions)
    assert torch.equal(model.decode(smuggled, positions), decoded)
    assert not torch.equal(model.decode(latents + (latents != 0), positions), decoded)
    assert not torch.equal(decoded[..., :-1], latents[..., :-1])  # the others are filled in


def test_the_energies_are_those_of_the_tokens(sources: list[FileSource]):
    linear = [
        source for source in sources if source.plan == sources[0].plan and source.checkpoint.root == sources[0].checkpoint.root
    ]
    energy, plans = statistics_of(linear).energy(**PLACES)
    assert plans == [sources[0].plan]
    tokens = [one.tokenizer.encode(one.checkpoint.state_dict(), root=known(one.root).state_dict()).values for one in linear]
    mean = torch.stack(tokens).square().mean(0)
    block, role, index = plans[0].positions.unbind(-1)
    torch.testing.assert_close(energy[block, role, index] * mean.max(), mean * plans[0].mask, atol=1e-7, rtol=1e-3)


def test_what_does_not_fit_is_refused(sources: list[FileSource]):
    with pytest.raises(InputError, match=r"model\.tokens to more"):
        statistics_of(sources).energy(blocks=5, roles=10, tokens=4)
    energy, plans = statistics_of(sources).energy(**PLACES)
    with pytest.raises(InputError, match="leaves nothing"):
        levels_of(energy, plans, compression_ratio=1e6, longest=448)
    model = allocated(sources, compression_ratio=4)
    values, mask, positions = drawn(sources[0])
    with pytest.raises(InputError, match="codes whole models"):
        model.decode(model.encode(values, mask, positions)[:, 1:], positions[:, 1:])
    short = TransformCode(token_width=65, compression_ratio=4, longest=100, **SIZES, **PLACES)
    with pytest.raises(InputError, match=r"model\.longest"):
        short.allocate(energy, plans)
    with pytest.raises(InputError, match=r"model\.compression_ratio"):
        TransformCode(token_width=65, compression_ratio=0, longest=448, **SIZES, **PLACES)


def test_padded_tokens_change_nothing(sources: list[FileSource]):
    model = allocated(sources, compression_ratio=4)
    values, mask, positions = drawn(sources[0])
    batch = Batch(values, mask, positions, torch.tensor([0, 0]))
    padded = cropped(batch, 0, values.shape[1] + 7)
    latents = model.encode(*padded[:3])
    assert not latents[:, values.shape[1] :].any()
    torch.testing.assert_close(latents[:, : values.shape[1]], model.encode(*batch[:3]))


def test_a_run_reopens_with_its_allocation_and_keeps_more_of_its_models_at_a_lower_rate(tiny_zoo: Path, tmp_path: Path):
    def trained(compression_ratio: int) -> Run:
        overrides = [
            "model=transform_code",
            "objective=behaviour",
            f"model.compression_ratio={compression_ratio}",
        ]
        overrides.append("objective.terms.behaviour.images=4")
        return train_code(tiny_zoo, tmp_path / f"at_{compression_ratio}", *overrides)

    rows = {compression_ratio: compress(trained(compression_ratio)) for compression_ratio in (2, 32)}
    for compression_ratio, row in rows.items():
        assert compression_ratio <= row["compression_ratio"] < 1.1 * compression_ratio
        assert row["behaviour"]
        assert json.dumps(row)
    assert rows[2]["accuracy_decoded"] == pytest.approx(rows[2]["accuracy"], abs=0.05)
    assert rows[2]["diversity_weights"] > rows[32]["diversity_weights"]
    assert rows[2]["diversity_weights"] == pytest.approx(1, abs=0.1)


def train_code(zoo: Path, folder: Path, *overrides: str) -> Run:
    small = [
        "model_name=transform_code",
        "model.width=32",
        "model.heads=2",
        "accelerator=cpu",
        "batch_size=2",
    ]
    steps = ["steps=2", "warmup=1", "validate_every=2", "log_every=1", "validation_batches=1"]
    config = TrainConfig(**compose("train", [*small, *steps, *overrides, f"zoo={zoo}"]))
    train(config, [Zoo.open(zoo)], folder, Console(quiet=True))
    return Run.open(folder)
