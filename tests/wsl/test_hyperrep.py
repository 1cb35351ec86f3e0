"""Laws of the autoencoder: untrained it is the plain cut, the decoder gets what is counted, side information fills in the rest."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from benchmarks.race import InMemory
from tests.wsl.batches import cropped, fitted, stacked
from wsl.data.side_information import CHANNELS
from wsl.data.token_statistics import TokenStatistics
from wsl.data.windows import Batch, Windows
from wsl.layout.slots import ROLES
from wsl.models.hyperrep import HyperRep
from wsl.models.pooling import OCTAVES, SPECTRUM, pooled
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.tokens import Tokens
from wsl.training.objectives.reconstruction import Reconstruction
from wsl.training.strategies import blocks_of
from zoo_gen import InputError
from zoo_gen.config import CONFIGS, instantiate

TOKEN_MODELS = [path for path in sorted((CONFIGS / "model").glob("*.yaml")) if "compression_ratio" in path.read_text()]
WIDTH = 16
SIZES = {"width": 32, "heads": 2, "depth": 1, "mlp_ratio": 2, "blocks": 4, "roles": 10, "places": 32}


def untrained(family: list[Tokens], *, compression_ratio: float = 4) -> HyperRep:
    """A model that keeps the numbers of most energy of a family, and has learned nothing."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = HyperRep(token_width=WIDTH + 1, compression_ratio=compression_ratio, **SIZES)
    model.initialize(Planted(family, ()))
    return model.eval()


def moved(model: HyperRep) -> HyperRep:
    """The model with all of its weights moved: blocks start as the identity, which would prove little."""
    rng = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=rng)
    return model


@dataclass(frozen=True)
class Planted(TokenStatistics):
    """Statistics of a family in memory, with side information of some of its models."""

    def __init__(self, family: list[Tokens], batches: Iterable[Batch]):
        object.__setattr__(self, "family", family)
        object.__setattr__(self, "batches", list(batches))

    family: list[Tokens]
    batches: list[Batch]

    @property
    def plans(self) -> list[Plan]:
        return [self.family[0].plan]

    def wholes(self) -> Iterator[tuple[Any, Batch]]:
        return ((None, batch) for batch in self.batches)

    def energies(self, residuals: Iterable[tuple[Any, Tensor]] | None = None) -> Iterator[tuple[Plan, Tensor]]:
        values = [one.values for one in self.family] if residuals is None else [one[0] for _, one in residuals]
        yield self.family[0].plan, torch.stack(values).double().square().mean(0)


def batch_of(family: list[Tokens], *, count: int = 3) -> Batch:
    return stacked(family[:count], fitted(family))


def known(batch: Batch, seed: int = 0) -> Batch:
    """The batch with side information of all channels, drawn at random."""
    side = torch.randn(*batch.values.shape[:2], len(CHANNELS) * WIDTH, generator=torch.Generator().manual_seed(seed))
    return batch._replace(side=side)


def combined(batch: Batch) -> Batch:
    """Models that are combinations of their channels, other ones in each group."""
    batch = known(batch)
    channels = batch.side.unflatten(-1, (len(CHANNELS), WIDTH))
    weights = torch.randn(4, 10, len(CHANNELS), generator=torch.Generator().manual_seed(3))
    each = weights[batch.positions[..., 0], batch.positions[..., 1]]
    directions = (each[..., None] * channels).sum(2)
    return batch._replace(values=torch.cat([directions, batch.values[..., -1:]], dim=-1))


def decoded(model: HyperRep, batch: Batch) -> tuple[Tensor, Tensor]:
    """Decoded directions, and what of them is kept."""
    return model(*batch.inputs)[..., :-1].detach(), model.allocation(batch.positions, batch.total)


def encoded(model: HyperRep, batch: Batch) -> Tensor:
    return model.encode(batch.values, batch.mask, batch.positions, batch.total)


def groups_of(family: list[Tokens]) -> list[tuple[int, int]]:
    return [(group.block, ROLES.index(group.role)) for group in family[0].plan.groups]


@pytest.mark.parametrize("card", TOKEN_MODELS, ids=lambda card: card.stem)
def test_every_card_of_a_model_of_tokens_builds_a_model_that_compresses_and_decodes(card: Path, family: list[Tokens]):
    described = {**yaml.safe_load(card.read_text()), "token_width": WIDTH + 1}
    with torch.device("meta"):
        assert len(blocks_of(instantiate(described))) == described["depth"]
    model = instantiate({**described, "depth": 1})  # at full depth it takes minutes
    model.initialize(Planted(family, ()))
    batch = batch_of(family)
    latents = encoded(model, batch)
    assert latents.shape[:2] == batch.values.shape[:2]
    assert model.decode(latents, batch.positions, batch.side, batch.total).shape == batch.values.shape
    assert len(model.embed(latents, batch.positions[0], groups_of(family))) == len(batch.values)


def test_untrained_and_without_side_information_it_is_the_plain_cut_to_the_bit(family: list[Tokens]):
    model, batch = untrained(family), batch_of(family)
    kept = model.allocation(batch.positions, batch.total)
    cut = torch.cat([batch.values[..., :-1].masked_fill(~kept, 0), batch.values[..., -1:]], dim=-1)
    assert torch.equal(encoded(model, batch), cut)
    assert torch.equal(model(*batch.inputs), cut)
    assert 0.2 < kept.float().mean() < 0.25
    assert torch.equal(model(*known(batch).inputs), cut)  # gains begin at zero
    with torch.no_grad():
        model.gains.fill_(1)
    assert not torch.equal(model(*known(batch).inputs), cut)
    assert torch.equal(model(*batch.inputs), cut)
    assert not torch.equal(moved(model)(*batch.inputs), cut)


def test_latents_are_no_more_numbers_than_are_counted(family: list[Tokens]):
    for compression_ratio in (2, 4, 16):
        model, batch = moved(untrained(family, compression_ratio=compression_ratio)), known(batch_of(family))
        latents, scales = encoded(model, batch)[0].split([WIDTH, 1], dim=1)
        each = [scales[group.start : group.stop].unique() for group in family[0].plan.groups]
        assert {len(of_group) for of_group in each} == {1}
        counted = int((latents != 0).sum()) + len(each)
        assert counted == model.numbers(batch.positions[0]) <= family[0].plan.n_weights / compression_ratio
        assert counted > 0.97 * family[0].plan.n_weights / compression_ratio


def test_the_decoder_gets_no_number_that_is_not_counted(family: list[Tokens]):
    model, batch = moved(untrained(family)), known(batch_of(family))
    latents = encoded(model, batch)
    rest = batch.positions, batch.side, batch.total
    smuggled = latents + (latents == 0) * torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
    found = model.decode(latents, *rest)
    assert not torch.equal(smuggled, latents)
    assert torch.equal(model.decode(smuggled, *rest), found)
    assert not torch.equal(model.decode(latents + (latents != 0), *rest), found)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    first = (batch.positions[..., 2:] == 0) & (torch.arange(WIDTH + 1) == WIDTH)
    scales = (torch.arange(WIDTH + 1) == WIDTH) & ~first
    assert torch.equal(model.decode(latents + noise * scales, *rest), found)  # a scale is one number of each group
    assert not torch.equal(model.decode(latents + noise * first, *rest), found)
    assert not torch.equal(found[..., :-1], latents[..., :-1])  # the others are filled in


def test_a_window_that_begins_in_a_group_is_decoded_by_the_scale_of_its_own_tokens(family: list[Tokens]):
    model, batch = untrained(family), batch_of(family)
    group = max(family[0].plan.groups, key=lambda group: group.stop - group.start)
    for start in (group.start, group.start + 3):
        window = cropped(batch, start, 50)
        assert torch.equal(model(*window.inputs)[..., -1], window.values[..., -1])
        assert torch.equal(model(*window.inputs), model(*batch.inputs)[:, start : start + 50])
        assert not torch.equal(model(*window.inputs), model(*batch.inputs)[:, start + 1 : start + 51])


def test_latents_are_what_is_kept_of_the_tokens_whatever_was_learned(family: list[Tokens]):
    model, batch = untrained(family), batch_of(family)
    latents = encoded(model, batch)
    assert torch.equal(encoded(moved(model), batch), latents)
    assert torch.equal(latents[latents != 0], batch.values[latents != 0])
    window = cropped(batch, 7, 50)
    assert torch.equal(encoded(model, window), latents[:, 7:57])


def test_flipping_axes_of_the_basis_flips_latents_and_reconstructions(family: list[Tokens]):
    model, batch = moved(untrained(family)), known(batch_of(family))
    signs = torch.randint(2, batch.values[..., :-1].shape, generator=torch.Generator().manual_seed(2)) * 2.0 - 1
    values = torch.cat([signs * batch.values[..., :-1], batch.values[..., -1:]], dim=-1)
    flipped = batch._replace(values=values, side=signs.repeat(1, 1, len(CHANNELS)) * batch.side)
    flips = torch.cat([signs, torch.ones_like(signs[..., :1])], dim=-1)
    torch.testing.assert_close(encoded(model, flipped), flips * encoded(model, batch))
    torch.testing.assert_close(model(*flipped.inputs), flips * model(*batch.inputs))
    unmatched = batch._replace(values=values)
    assert not torch.allclose(model(*unmatched.inputs), flips * model(*batch.inputs), atol=1e-2)


def test_permuting_the_batch_permutes_latents_and_reconstructions(family: list[Tokens]):
    model, batch, order = moved(untrained(family)), known(batch_of(family)), torch.tensor([2, 0, 1])
    permuted = Batch(*(tensor[order] for tensor in batch))
    torch.testing.assert_close(encoded(model, permuted), encoded(model, batch)[order])
    torch.testing.assert_close(model(*permuted.inputs), model(*batch.inputs)[order])
    assert not torch.allclose(model(*permuted._replace(side=batch.side).inputs), model(*batch.inputs)[order])
    alone = Batch(*(tensor[1:2] for tensor in batch))
    torch.testing.assert_close(model(*alone.inputs), model(*batch.inputs)[1:2])


def test_padded_tokens_do_not_change_what_real_tokens_become(family: list[Tokens]):
    model, batch = moved(untrained(family)), known(batch_of(family))
    n = batch.values.shape[1]
    padded = cropped(batch, 0, n + 7)
    latents = encoded(model, padded)
    assert not latents[:, n:].any()
    torch.testing.assert_close(latents[:, :n], encoded(model, batch))
    torch.testing.assert_close(model(*padded.inputs)[:, :n], model(*batch.inputs))
    noise = torch.randn(padded.side.shape, generator=torch.Generator().manual_seed(4))
    noisy = padded._replace(side=padded.side.where(padded.positions[..., :1] >= 0, noise))
    torch.testing.assert_close(model(*noisy.inputs)[:, :n], model(*batch.inputs))
    seen = padded._replace(positions=padded.positions.clamp(min=0))
    assert not torch.allclose(model(*seen.inputs)[:, :n], model(*batch.inputs))


def test_what_the_mask_hides_is_not_seen(family: list[Tokens]):
    model, batch = moved(untrained(family)), known(batch_of(family))
    garbage = batch._replace(values=batch.values.where(batch.mask, torch.tensor(1e6)))
    assert not batch.mask.all()
    assert torch.equal(encoded(model, garbage), encoded(model, batch))
    assert torch.equal(model(*garbage.inputs), model(*batch.inputs))
    hidden = torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(6)) < 0.5
    fewer = encoded(model, batch._replace(mask=batch.mask & ~hidden))
    assert torch.equal(fewer, encoded(model, batch).masked_fill(hidden, 0))


def test_a_regression_in_context_finds_what_is_not_kept_where_channels_explain_a_model(family: list[Tokens]):
    model, batch = untrained(family), combined(batch_of(family))
    with torch.no_grad():
        model.gains.fill_(1)
    found, kept = decoded(model, batch)
    values = batch.values[..., :-1]
    enough = torch.zeros_like(kept)
    for block, role in groups_of(family):
        of_group = (batch.positions[..., 0] == block) & (batch.positions[..., 1] == role)
        enough |= of_group[..., None] & (kept[of_group].sum() > 3 * 150)
    judged = enough & ~kept
    assert judged.sum() > 1000
    assert ((found - values)[judged].square().mean() / values[judged].square().mean()).sqrt() < 0.02
    for side in (known(batch, seed=9).side, torch.zeros_like(batch.side), batch.side[..., :0]):
        wrong, _ = decoded(model, batch._replace(side=side))
        assert (wrong - values)[judged].square().mean() > 0.9 * values[judged].square().mean()


def test_a_regression_on_one_channel_shrinks_as_its_ridge_says(family: list[Tokens]):
    model, batch = untrained(family), known(batch_of(family, count=1))
    with torch.no_grad():
        model.gains.fill_(1)
    side = batch.side.clone()
    side[..., WIDTH:] = 0
    batch = batch._replace(side=side, values=torch.cat([2 * side[..., :WIDTH], batch.values[..., -1:]], dim=-1))
    found, kept = decoded(model, batch)
    for block, role in groups_of(family):
        of_group = ((batch.positions[..., 0] == block) & (batch.positions[..., 1] == role))[..., None].expand_as(kept)
        evidence = batch.side[..., :WIDTH][of_group & kept].square().sum()
        rest = of_group & ~kept
        expected = batch.values[..., :-1][rest] * evidence / (evidence + 1)
        torch.testing.assert_close(found[rest], expected, atol=1e-5, rtol=1e-4)


def test_gains_are_fitted_from_zero_to_one_by_what_the_channels_tell_of_the_rest(family: list[Tokens]):
    batch = batch_of(family, count=8)
    every = [Batch(*(tensor[n : n + 1] for tensor in combined(batch))) for n in range(8)]

    def gains(batches: list[Batch]) -> Tensor:
        model = untrained(family)
        model.initialize(Planted(family, batches))
        return model.gains.detach()

    roles = every[0].positions[..., 1].unique()
    explained = gains(every)[roles]
    assert ((explained >= 0) & (explained <= 1)).all()
    assert explained.max() > 0.9
    told_nothing = gains([one._replace(side=known(one, seed=20 + n).side) for n, one in enumerate(every)])
    assert told_nothing.max() < 0.3
    assert (told_nothing >= 0).all()
    assert not gains([one._replace(side=torch.zeros_like(one.side)) for one in every]).any()


def test_gains_are_those_of_least_squares(family: list[Tokens]):
    batch = combined(batch_of(family, count=6))
    noise = torch.randn(batch.values.shape, generator=torch.Generator().manual_seed(5))
    noise[..., -1] = 0
    batch = batch._replace(values=batch.values + noise)
    model = untrained(family)
    model.initialize(Planted(family, [Batch(*(tensor[n : n + 1] for tensor in batch)) for n in range(6)]))
    fitted_gains = model.gains.detach().clone()
    with torch.no_grad():
        model.gains.fill_(1)
    estimate, kept = decoded(model, batch)
    values = batch.values.masked_fill(~batch.mask, 0)[..., :-1]
    for role in batch.positions[..., 1].unique():
        rest = (batch.positions[..., 1] == role)[..., None] & ~kept
        best = (values[rest] * estimate[rest]).sum() / estimate[rest].square().sum()
        torch.testing.assert_close(fitted_gains[role], best.nan_to_num(0).clamp(0, 1), atol=1e-4, rtol=1e-4)


def test_training_reaches_all_weights_and_lowers_the_error(family: list[Tokens]):
    model, batch = untrained(family, compression_ratio=16), known(batch_of(family))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    errors = []
    for _ in range(40):
        loss = (model(*batch.inputs) - batch.values).square()[batch.mask].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        errors.append(loss.item())
    assert errors[-1] < 0.9 * errors[0]
    assert not [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]


def test_the_embedding_does_not_depend_on_the_order_of_tokens(family: list[Tokens]):
    model, batch = moved(untrained(family)), batch_of(family)
    latents, order = encoded(model, batch), torch.randperm(batch.values.shape[1])
    positions, groups = batch.positions[0], groups_of(family)
    embedding = model.embed(latents, positions, groups)
    torch.testing.assert_close(model.embed(latents[:, order], positions[order], groups), embedding, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(model.embed(latents[:, order], positions, groups), embedding)
    assert embedding.shape == (3, len(groups) * (WIDTH + 1 + 1 + len(OCTAVES) + SPECTRUM))


def test_the_embedding_has_the_spectrum_of_each_group_and_nothing_of_groups_that_are_not_there():
    latents = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[1, 2, 0], [1, 2, 1], [1, 2, 2], [1, 2, 3], [1, 2, 4], [2, 3, 0]])
    found = pooled(latents, positions, [(1, 2), (2, 3), (3, 3)]).view(2, 3, -1)
    values, scale = latents[:, :5, :3] * latents[:, :1, 3:].exp(), latents[:, 0, 3]
    sizes = values.square().mean(2).sort(descending=True).values
    octaves = [sizes[:, 0], sizes[:, 1], sizes[:, 2:4].mean(1), sizes[:, 4]]
    torch.testing.assert_close(found[:, 0, 0], scale)
    torch.testing.assert_close(found[:, 0, 1], values.mean((1, 2)))
    torch.testing.assert_close(found[:, 0, 2:5].exp(), values.square().mean(1).sqrt())
    torch.testing.assert_close(found[:, 0, 5:9].exp(), torch.stack(octaves, dim=1).sqrt())
    torch.testing.assert_close(found[:, 0, 13:16].exp(), torch.linalg.svdvals(values) / 5**0.5)
    torch.testing.assert_close(found[:, 1, 13].exp(), (latents[:, 5, :3] * latents[:, 5, 3:].exp()).norm(dim=1))
    assert not found[:, 2].any()
    latents[1, 0, 0] = torch.nan
    assert pooled(latents, positions, [(1, 2)]).isfinite().all(1).tolist() == [True, False]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compression_ratio": 0.5}, r"compression_ratio must be at least 1"),
        ({"compression_ratio": float("nan")}, r"compression_ratio must be at least 1"),
        ({"blocks": 0}, r"model\.blocks"),
        ({"roles": 0}, r"model\.roles"),
        ({"places": 1}, r"model\.places at least 2"),
        ({"width": 33}, r"multiple of model\.heads"),
        ({"width": 0}, r"model\.width must be at least 1"),
        ({"depth": -1}, r"model\.depth must be at least 0"),
        ({"mlp_ratio": 0.01}, r"width \* mlp_ratio must be at least 1"),
    ],
)
def test_sizes_of_which_no_model_can_be_built_are_refused(changes: dict[str, Any], message: str):
    assert HyperRep(token_width=17, compression_ratio=4, **SIZES)
    with pytest.raises(InputError, match=message):
        HyperRep(**{"token_width": 17, "compression_ratio": 4, **SIZES, **changes})


class Constant(nn.Module):
    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.output


def test_an_exact_reconstruction_has_no_loss_and_an_empty_one_has_an_error_of_one(family: list[Tokens]):
    batch, objective = batch_of(family), Reconstruction(scale_weight=1)
    garbage = batch.values.where(batch.mask, torch.tensor(7.0))
    assert objective(Constant(garbage), batch)["loss"] == 0
    scalars = objective(Constant(torch.zeros_like(batch.values)), batch)
    assert scalars["error/q"] == pytest.approx(1, abs=1e-3)
    assert scalars["error/scale"] > 0.1
    heads_only = batch._replace(positions=batch.positions.index_fill(-1, torch.tensor([1]), 9))
    assert objective(Constant(garbage), heads_only)["error/q"].isnan()


def test_the_loss_falls_on_planted_structure_and_not_on_noise(family: list[Tokens], noisy_family: list[Tokens]):
    def falls_to(tokens: list[Tokens]) -> float:
        model, objective = untrained(tokens, compression_ratio=8), Reconstruction(scale_weight=1)
        train, held_out = tokens[:8], tokens[8:]
        windows = Windows([InMemory.of(one) for one in train], fitted(train), length=60, seed=0, cache=0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        batch = stacked(held_out, fitted(train))

        def error() -> float:
            with torch.no_grad():
                scalars = objective(model, batch)
            return float(torch.stack([scalars[f"error/{role}"] for role in ("q", "k", "v", "fc1")]).mean())

        before = error()
        for drawn in windows.batches(range(120), 8, rank=0, world_size=1, workers=0):
            optimizer.zero_grad()
            objective(model, drawn)["loss"].backward()
            optimizer.step()
        return error() / before

    assert falls_to(family) < 0.75
    assert falls_to(noisy_family) > 0.95
