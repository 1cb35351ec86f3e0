"""Laws of the autoencoder and of reconstruction; every card of a model of tokens is built."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from benchmarks.race import InMemory
from tests.wsl.batches import cropped, fitted, stacked
from wsl.data.windows import Batch, Windows
from wsl.layout.slots import ROLES
from wsl.models.hyperrep import HyperRep
from wsl.tokenizers.tokens import Tokens
from wsl.training.objectives.reconstruction import Reconstruction
from wsl.training.strategies import blocks_of
from zoo_gen.config import CONFIGS, instantiate

TOKEN_MODELS = [path for path in sorted((CONFIGS / "model").glob("*.yaml")) if "encoder_depth" in path.read_text()]


def small_model(*, latent: int = 4) -> HyperRep:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"width": 32, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "mlp_ratio": 2}
        model = HyperRep(token_width=17, latent=latent, blocks=4, roles=10, initialization="random", **sizes)
        for parameter in model.parameters():  # blocks start as the identity, which would prove little
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


def batch_of(family: list[Tokens], *, count: int = 3) -> Batch:
    return stacked(family[:count], fitted(family))


def groups_of(family: list[Tokens]) -> list[tuple[int, int]]:
    return [(group.block, ROLES.index(group.role)) for group in family[0].plan.groups]


@pytest.mark.parametrize("card", TOKEN_MODELS, ids=lambda card: card.stem)
def test_every_card_of_a_model_of_tokens_builds_a_model_that_compresses_and_decodes(card: Path, family: list[Tokens]):
    described = {**yaml.safe_load(card.read_text()), "token_width": 17}
    with torch.device("meta"):
        assert len(blocks_of(instantiate(described))) == described["encoder_depth"] + described["decoder_depth"]
    model = instantiate({**described, "encoder_depth": 1, "decoder_depth": 1})  # at full depth it takes minutes
    batch = batch_of(family)
    latents = model.encode(*batch[:3])
    assert latents.shape[:2] == batch.values.shape[:2]
    assert model.decode(latents, batch.positions).shape == batch.values.shape
    assert len(model.embed(latents, batch.positions[0], groups_of(family))) == len(batch.values)


def test_permuting_the_batch_permutes_the_latents(family: list[Tokens]):
    model, batch, order = small_model(), batch_of(family), torch.tensor([2, 0, 1])
    latents = model.encode(*batch[:3])
    torch.testing.assert_close(model.encode(batch.values[order], batch.mask[order], batch.positions[order]), latents[order])
    assert not torch.allclose(model.encode(batch.values[order], batch.mask, batch.positions), latents)


def test_padding_does_not_change_what_real_tokens_become(family: list[Tokens]):
    model, batch = small_model(), batch_of(family)
    n = batch.values.shape[1]
    padded = cropped(batch, 0, n + 7)
    latents = model.encode(*padded[:3])
    torch.testing.assert_close(latents[:, :n], model.encode(*batch[:3]))
    torch.testing.assert_close(model.decode(latents, padded.positions)[:, :n], model.decode(latents[:, :n], batch.positions))
    seen = padded._replace(positions=padded.positions.clamp(min=0))
    assert not torch.allclose(model.encode(*seen[:3])[:, :n], model.encode(*batch[:3]))


def test_what_the_mask_hides_is_not_seen(family: list[Tokens]):
    model, batch = small_model(), batch_of(family)
    garbage = batch.values.where(batch.mask, torch.tensor(1e6))
    assert not batch.mask.all()
    assert torch.equal(model.encode(garbage, batch.mask, batch.positions), model.encode(*batch[:3]))
    assert not torch.allclose(model.encode(garbage, torch.ones_like(batch.mask), batch.positions), model.encode(*batch[:3]))


def test_the_embedding_does_not_depend_on_the_order_of_tokens(family: list[Tokens]):
    model, batch = small_model(), batch_of(family)
    latents, order = model.encode(*batch[:3]), torch.randperm(batch.values.shape[1])
    positions, groups = batch.positions[0], groups_of(family)
    embedding = model.embed(latents, positions, groups)
    torch.testing.assert_close(model.embed(latents[:, order], positions[order], groups), embedding, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model.embed(latents[:, order], positions, groups), embedding)
    assert embedding.shape == (3, len(groups) * 3 * 4)


def test_the_embedding_has_the_spectrum_of_each_group_and_nothing_of_groups_that_are_not_there():
    model, latents = small_model(), torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([[1, 2, 0], [1, 2, 1], [1, 2, 2], [1, 2, 3], [1, 2, 4], [2, 3, 0]])
    found = model.embed(latents, positions, [(1, 2), (2, 3), (3, 3)]).view(2, 3, 3, 4)
    expected = torch.linalg.svdvals(latents[:, :5]) / 5**0.5
    torch.testing.assert_close(found[:, 0, 2].exp(), expected)
    torch.testing.assert_close(found[:, 0, 0], latents[:, :5].mean(1))
    torch.testing.assert_close(found[:, 1, 2, 0].exp(), latents[:, 5].norm(dim=1))
    assert not found[:, 2].any()
    latents[1, 0, 0] = torch.nan
    assert model.embed(latents, positions, [(1, 2)]).isfinite().all(1).tolist() == [True, False]


class Constant(nn.Module):
    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output

    def forward(self, values: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
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
    def error_after_training(tokens: list[Tokens]) -> float:
        model, objective = small_model(latent=3), Reconstruction(scale_weight=1)
        train, held_out = tokens[:8], tokens[8:]
        windows = Windows([InMemory.of(one) for one in train], fitted(train), length=60, seed=0, cache=0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for batch in windows.batches(range(120), 8, rank=0, world_size=1, workers=0):
            optimizer.zero_grad()
            objective(model, batch)["loss"].backward()
            optimizer.step()
        batch = stacked(held_out, fitted(train))
        with torch.no_grad():
            scalars = objective(model, batch)
        return float(torch.stack([scalars[f"error/{role}"] for role in ("q", "k", "v", "fc1")]).mean())

    assert error_after_training(family) < 0.4
    assert error_after_training(noisy_family) > 0.7
