"""Masked tokens ask for what is hidden, contrast tells checkpoints apart but not views, spread keeps distances."""

import copy
import math
from itertools import islice

import pytest
import torch
from torch import Tensor, nn

from wsl.data.augmentation import RandomView
from wsl.data.sources import Held, Stored, pairs_of, survey
from wsl.data.windows import Batch, Windows
from wsl.run import Run
from wsl.tokenizers.fisher_basis import Felt
from wsl.training.objectives.contrastive import Contrastive, nt_xent
from wsl.training.objectives.masked import MaskedTokens
from wsl.training.objectives.spread import Spread
from zoo_gen import InputError

VIEW = RandomView(moves=["mlp", "qk", "vo"], maps="orthogonal", strength=0.0)


class Told(nn.Module):
    """A model that answers by a function, and whose latents are the squares of its tokens, or the same for all."""

    def __init__(self, answer, *, blind: bool = False):
        super().__init__()
        self.answer, self.blind = answer, blind

    def forward(self, values: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        return self.answer(values, mask)

    def encode(self, values: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        return torch.ones_like(values) if self.blind else values.masked_fill(~mask, 0)


@pytest.fixture(scope="module")
def sources(tiny_run: Run) -> list[Stored]:
    finals = tiny_run.split.train.select(final=True, head="linear", learning_rate=3e-3)
    return survey(islice(pairs_of(finals), 4), tiny_run.tokenizer)


@pytest.fixture(scope="module")
def batch(tiny_run: Run, sources: list[Stored]) -> Batch:
    windows = Windows(sources, tiny_run.standardizer, length=448, seed=0, cache=0)
    return Batch(*map(torch.stack, zip(*(windows[n] for n in range(len(sources))), strict=True)))


def test_hidden_tokens_are_neither_seen_nor_forgiven(batch: Batch):
    torch.manual_seed(0)
    objective = MaskedTokens(share=0.5)
    seen = []

    def echo(values: Tensor, mask: Tensor) -> Tensor:
        seen.append(((values != 0).any(-1).float().mean(), mask.any(-1).float().mean()))
        return values

    blind = objective(Told(echo), batch)["loss"]  # tells what it sees, and zeros where it sees nothing
    assert [round(float(share), 1) for share in seen[0]] == [0.5, 0.5]
    knowing = objective(Told(lambda *_: batch.values), batch)["loss"]
    assert float(knowing) == 0
    assert float(blind) == pytest.approx(float((batch.values * batch.mask).square().sum() / batch.mask.sum()), rel=0.2)
    for share in (0.0, 1.0):
        with pytest.raises(InputError, match="share"):
            MaskedTokens(share=share)


def test_errors_of_tokens_that_are_not_hidden_do_not_count(batch: Batch):
    torch.manual_seed(0)

    def wrong_where_seen(values: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, values + 7, batch.values)

    assert float(MaskedTokens(share=0.5)(Told(wrong_where_seen), batch)["loss"]) == 0
    assert float(MaskedTokens(share=0.5)(Told(lambda *_: batch.values + 7), batch)["loss"]) > 40


def test_contrast_matches_views_of_a_checkpoint_and_a_blind_model_is_at_chance(tiny_run: Run, sources: list[Stored], batch: Batch):
    torch.manual_seed(0)
    objective = Contrastive(view=VIEW, temperature=0.1)
    objective.prepare(tiny_run, sources)
    sharp = objective(Told(None), batch)
    blind = objective(Told(None, blind=True), batch)
    assert float(sharp["matched"]) == 1
    assert float(blind["loss"]) == pytest.approx(math.log(2 * len(sources) - 1), abs=1e-4)
    assert float(sharp["loss"]) < 0.8 * float(blind["loss"])


def test_views_move_what_the_model_sees_and_are_drawn_anew(tiny_run: Run, sources: list[Stored], batch: Batch):
    torch.manual_seed(0)
    objective = Contrastive(view=VIEW, temperature=0.1)
    objective.prepare(tiny_run, sources)
    one, other = objective._drawn(0, batch), objective._drawn(0, batch)
    assert one.shape == batch.values[0].shape
    assert not torch.allclose(one, other)
    still = Contrastive(view=RandomView(moves=[], maps="orthogonal", strength=0.0), temperature=0.1)
    still.prepare(tiny_run, sources)
    torch.testing.assert_close(still._drawn(0, batch), batch.values[0], atol=1e-5, rtol=1e-4)


def test_the_loss_of_two_views_is_that_of_the_formula_and_skips_views_of_the_same_checkpoint():
    views = torch.nn.functional.normalize(torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    found = nt_xent(views, torch.tensor([0, 1, 2]), temperature=0.5)["loss"]
    flat = views.flatten(0, 1)
    similar = (flat @ flat.T / 0.5).exp()
    expected = [-math.log(similar[i, (i + 3) % 6] / (similar[i].sum() - similar[i, i])) for i in range(6)]
    assert float(found) == pytest.approx(sum(expected) / 6, rel=1e-5)
    assert float(nt_xent(views, torch.tensor([0, 0, 2]), temperature=0.5)["loss"]) < float(found)


def test_what_cannot_be_moved_is_refused(tiny_run: Run, sources: list[Stored]):
    objective = Contrastive(view=VIEW, temperature=0.1)
    tokens = tiny_run.tokenizer.encode(sources[0].checkpoint.state_dict(), root=sources[0].root.state_dict())
    with pytest.raises(InputError, match="those of a zoo"):
        objective.prepare(tiny_run, [Held.of(tokens)])
    run = copy.copy(tiny_run)
    run.tokenizer = Felt(width=64, images=1, seed=0)
    with pytest.raises(InputError, match="another tokenizer"):
        objective.prepare(run, sources)
    with pytest.raises(InputError, match="temperature"):
        Contrastive(view=VIEW, temperature=0)


def test_spread_asks_for_the_distances_that_there_were_and_no_more(batch: Batch):
    spread = Spread()
    exact = spread(Told(lambda values, mask: values), batch)
    assert float(exact["loss"]) == pytest.approx(0, abs=1e-9)
    half = spread(Told(lambda values, mask: 0.5 * values), batch)
    assert float(half["loss"]) == pytest.approx(0.25, abs=1e-4)
    assert float(half["spread"]) == pytest.approx(0.5, abs=1e-4)
    assert float(spread(Told(lambda values, mask: 2 * values), batch)["loss"]) == 0
    values = batch.values.clone().requires_grad_()
    collapsed = spread(Told(lambda *_: values.mean(0, keepdim=True).expand_as(values)), batch)
    assert float(collapsed["loss"].detach()) > 0.9
    alone = Batch(*(tensor[:1] for tensor in batch))
    found = spread(Told(lambda *_: values[:1]), alone)
    assert float(found["loss"].detach()) == 0
    assert found["spread"].isnan()
    found["loss"].backward()
    assert values.grad is not None
