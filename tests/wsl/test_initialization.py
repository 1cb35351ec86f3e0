"""The linear start: a hyper-representation begins as the best linear code of each role's tokens."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks.race import InMemory
from tests.wsl.batches import fitted
from tests.wsl.conftest import train_small
from tests.wsl.test_hyperrep import batch_of
from tests.wsl.test_train_cli import events
from wsl.data.token_statistics import TokenStatistics
from wsl.data.windows import Batch, Windows
from wsl.models.hyperrep import HyperRep
from wsl.tokenizers.tokens import Tokens
from wsl.train import main


def fresh(latent: int) -> HyperRep:
    torch.manual_seed(0)
    sizes = {"width": 32, "heads": 2, "encoder_depth": 1, "decoder_depth": 1, "mlp_ratio": 2}
    return HyperRep(token_width=17, latent=latent, blocks=4, roles=12, initialization="linear", **sizes)


@pytest.fixture(scope="module")
def windows(family: list[Tokens]) -> Windows:
    return Windows([InMemory.of(t) for t in family], fitted(family), length=family[0].plan.n_tokens, seed=0, cache=0)


def error(model: HyperRep, batch: Batch) -> float:
    with torch.no_grad():
        return (model(*batch[:3]) - batch.values).square()[batch.mask].mean().item()


def test_a_linear_start_decodes_log_scales_and_the_principal_components_of_each_role(family: list[Tokens], windows: Windows):
    model, batch = fresh(latent=3), batch_of(family, count=len(family))
    at_random = error(model, batch)
    model.initialize_linear(TokenStatistics((), windows).second_moments(roles=12))
    decoded = model(*batch[:3])
    values = batch.values.masked_fill(~batch.mask, 0)
    for role in batch.positions[..., 1].unique():
        tokens = values[batch.positions[..., 1] == role]
        directions, logs = tokens.split([16, 1], dim=1)
        vectors = torch.linalg.svd(directions, full_matrices=False).Vh[:2]
        expected = torch.cat([directions @ vectors.T @ vectors, logs], dim=1)
        torch.testing.assert_close(decoded[batch.positions[..., 1] == role], expected, atol=2e-4, rtol=1e-3)
    assert error(model, batch) < 0.5 * at_random


def test_a_linear_start_with_a_number_for_each_entry_loses_nothing(family: list[Tokens], windows: Windows):
    batch = batch_of(family)
    for latent in (17, 20):  # the second has numbers to spare
        model = fresh(latent)
        model.initialize_linear(TokenStatistics((), windows).second_moments(roles=12))
        assert error(model, batch) < 1e-8


def test_training_goes_on_from_a_linear_start_and_reaches_all_weights(family: list[Tokens], windows: Windows):
    model, batch = fresh(latent=2), batch_of(family)
    model.initialize_linear(TokenStatistics((), windows).second_moments(roles=12))
    first, before = error(model, batch), {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        loss = (model(*batch[:3]) - batch.values).square()[batch.mask].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert error(model, batch) < 0.9 * first
    assert not [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])]


def test_a_run_starts_linear_by_default_and_is_ahead_at_once(tiny_zoo: Path, tmp_path: Path):
    linear, random = (
        train_small(tiny_zoo, tmp_path / name, *extra) for name, extra in (("a", []), ("b", ["model.initialization=random"]))
    )
    losses = [next(e["loss"] for e in events(run.path) if e["event"] == "validation") for run in (linear, random)]
    assert losses[0] < 0.8 * losses[1]


def test_an_unknown_start_is_refused_before_anything_is_written(
    tiny_zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "model.initialization=pca", f"zoo={tiny_zoo}", "run=new"])
    with pytest.raises(SystemExit):
        main()
    assert "model.initialization must be linear or random, not pca" in capsys.readouterr().err
    assert not (tmp_path / "checkpoints").exists()
