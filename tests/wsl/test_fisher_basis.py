"""Tokens in the basis of the root come back to the bit, and hold most of a change in few numbers; a random basis does not."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.zoos import known
from wsl.data.pairs import pairs_of
from wsl.data.sources import scan
from wsl.symmetry.root_basis import RootBasis
from wsl.tokenizers.fisher_basis import FisherBasis
from wsl.tokenizers.residual import Residual
from zoo_gen import Checkpoint, InputError, Zoo


@pytest.fixture(scope="module")
def pair(tiny_zoo: Path) -> tuple[Checkpoint, Checkpoint]:
    trained = Zoo.open(tiny_zoo).select(stage="finetune", final=True, optimizer="adamw", learning_rate=3e-3)
    child, root = next(pairs_of(trained))
    return child, known(root)


@pytest.fixture(scope="module")
def tokenizer(pair: tuple[Checkpoint, Checkpoint]) -> FisherBasis:
    tokenizer = FisherBasis(width=64, images=64, seed=0)
    tokenizer.prepare([pair[1]])
    return tokenizer


def test_every_bit_comes_back_and_other_values_up_to_rounding(pair: tuple[Checkpoint, Checkpoint], tokenizer: FisherBasis):
    weights, root = (checkpoint.state_dict() for checkpoint in pair)
    tokens = tokenizer.encode(weights, root=root)
    exact = tokenizer.decode(tokens, root=root)
    turned = tokenizer.decode(tokens.with_values(tokens.values), root=root)
    plain = Residual(width=64, reference="root").encode(weights, root=root)
    assert tokens.plan == plain.plan
    assert not torch.allclose(tokens.values, plain.values, atol=1e-3)
    for name, weight in weights.items():
        assert torch.equal(exact[name], weight)
        torch.testing.assert_close(turned[name], weight, atol=1e-5, rtol=1e-4)


def test_what_is_not_finite_comes_back_too(pair: tuple[Checkpoint, Checkpoint], tokenizer: FisherBasis):
    weights, root = (checkpoint.state_dict() for checkpoint in pair)
    broken = {name: weight.clone() for name, weight in weights.items()}
    broken["blocks.0.mlp.fc1.weight"][0, 0] = torch.nan
    back = tokenizer.decode(tokenizer.encode(broken, root=root), root=root)
    assert all(torch.equal(back[name].view(torch.int32), weight.view(torch.int32)) for name, weight in broken.items())


def error(values: Tensor) -> float:
    """Share of the energy of tokens outside their largest quarter of places, chosen on other checkpoints."""
    train, test = values[::2].square().mean(0).flatten(), values[1::2].square().mean(0).flatten()
    dropped = train.argsort(descending=True)[len(train) // 4 :]
    return float(test[dropped].sum() / test.sum())


def test_a_quarter_of_the_numbers_has_more_of_a_change_than_in_a_random_frame(
    tiny_zoo: Path, tokenizer: FisherBasis, monkeypatch: pytest.MonkeyPatch
):
    zoo = Zoo.open(tiny_zoo).select(stage="finetune", root="supervised_0", head="linear")
    pairs = list(pairs_of(zoo))
    root = known(pairs[0][1])

    def encoded(by: FisherBasis) -> Tensor:
        by.prepare([root])
        return torch.stack([by.encode(checkpoint.state_dict(), root=root.state_dict()).values for checkpoint, _ in pairs])

    generator = torch.Generator().manual_seed(0)
    right = error(encoded(tokenizer))

    def shuffled(basis: Tensor | None) -> Tensor | None:
        return None if basis is None else torch.linalg.qr(torch.randn(basis.shape, generator=generator)).Q

    basis = tokenizer.basis(root.state_dict())
    bases = {name: tuple(tuple(map(shuffled, part)) for part in parts) for name, parts in basis.bases.items()}
    monkeypatch.setattr(RootBasis, "of", lambda root, **settings: replace(basis, bases=bases))
    assert right < 0.8 * error(encoded(FisherBasis(width=64, images=64, seed=0)))


def test_bases_are_orthogonal_and_strengths_are_those_of_the_gradients(pair: tuple[Checkpoint, Checkpoint], tokenizer: FisherBasis):
    root = pair[1].state_dict()
    basis = tokenizer.basis(root)
    assert isinstance(basis, RootBasis)
    for bases in basis.bases.values():
        for matrix in (one for part in bases for one in part if one is not None):
            torch.testing.assert_close(matrix @ matrix.mT, torch.eye(len(matrix)), atol=1e-5, rtol=0)
    assert not any(name.startswith("head") for name in basis.bases)
    strength = basis.strength["blocks.0.mlp.fc1.weight"]
    assert strength[0, 0] == strength.max()
    assert strength[-1, -1] == strength.min()
    plan = tokenizer.plan(pair[0].state_dict(), root=root)
    assert tokenizer.strength(plan, root=root).shape == (plan.n_tokens, plan.width)


def test_bases_are_found_once_and_leave_the_threads_of_a_training_alone(tiny_zoo: Path, monkeypatch: pytest.MonkeyPatch):
    roots, found = list(Zoo.open(tiny_zoo).select(stage="pretrain", final=True)), list[str]()
    of = RootBasis.of
    monkeypatch.setattr(RootBasis, "of", lambda root, **settings: found.append(root.model) or of(root, **settings))
    tokenizer, before = FisherBasis(width=64, images=4, seed=0), torch.get_num_threads()
    tokenizer.prepare(roots)
    assert not found
    try:
        torch.set_num_threads(3)
        bases = [tokenizer.basis(root.state_dict()) for root in [*roots, *roots]]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert sorted(found) == sorted(root.model for root in roots)
    assert bases[0] is bases[len(roots)]
    assert bases[0] is not bases[1]


def test_roots_that_it_has_not_been_told_of_are_refused(pair: tuple[Checkpoint, Checkpoint], tokenizer: FisherBasis):
    weights, root = (checkpoint.state_dict() for checkpoint in pair)
    moved = {name: weight + 1e-3 for name, weight in root.items()}
    with pytest.raises(InputError, match="not been told"):
        tokenizer.encode(weights, root=moved)
    with pytest.raises(InputError, match="pass root="):
        tokenizer.encode(weights)
    with pytest.raises(InputError, match="images"):
        FisherBasis(width=64, images=0, seed=0)


def test_a_survey_has_the_sums_of_turned_tokens(pair: tuple[Checkpoint, Checkpoint], tokenizer: FisherBasis, tiny_zoo: Path):
    zoo = Zoo.open(tiny_zoo).select(stage="finetune", root=pair[1].model)
    plain = scan(islice(pairs_of(zoo), 1), Residual(width=64, reference="root"))[0]
    tokenizer.prepare([known(plain.root)])
    turned = scan([(plain.checkpoint, plain.root)], tokenizer)[0]
    torch.testing.assert_close(turned.sums[:, 1].sum(), plain.sums[:, 1].sum(), rtol=1e-4, atol=1e-6)  # turning keeps squares
    assert not torch.allclose(turned.sums[:, 0], plain.sums[:, 0])
