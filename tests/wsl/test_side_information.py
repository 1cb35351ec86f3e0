"""Side information is what the root and the head tell of a body, in the tokens' own form; where neither tells, it is zeros."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional

from tests.zoos import known
from wsl.data.pairs import pairs_of
from wsl.data.rehearsal import Rehearsal
from wsl.data.side_information import CHANNELS, SideInformation, SourceSides, body_of, changing
from wsl.data.sources import scan
from wsl.data.standardizer import Standardizer
from wsl.data.token_inputs import TokenInputs
from wsl.run import Run
from wsl.tokenizers.fisher_basis import FisherBasis
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.tokens import Tokenizer
from wsl.training.run_training import train
from wsl.training.settings import TrainConfig
from zoo_gen import Checkpoint, Zoo
from zoo_gen.config import compose
from zoo_gen.images import ImageSplit

WIDTH = 64
RECIPE = Rehearsal(steps=2, batch_size=16, sgd=0.03, adamw=1e-3)
NONE = dataclasses.replace(RECIPE, steps=0)
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def zoo(tiny_zoo: Path) -> Zoo:
    return Zoo.open(tiny_zoo)


@pytest.fixture(scope="module")
def pairs(zoo: Zoo) -> list[tuple[Checkpoint, Checkpoint]]:
    """Three checkpoints of one root and shape."""
    finals = zoo.select(stage="finetune", final=True, pretraining="supervised", head="linear")
    return [(checkpoint, known(root)) for checkpoint, root in islice(pairs_of(finals), 3)]


@pytest.fixture(scope="module", params=["residual", "fisher_basis"])
def inputs(request: pytest.FixtureRequest, zoo: Zoo, pairs: list[tuple[Checkpoint, Checkpoint]]) -> TokenInputs:
    return inputs_of(tokenizer_of(request.param, pairs), pairs, zoo)


@pytest.fixture(scope="module")
def plain(zoo: Zoo, pairs: list[tuple[Checkpoint, Checkpoint]]) -> TokenInputs:
    return inputs_of(tokenizer_of("residual", pairs), pairs, zoo)


def tokenizer_of(kind: str, pairs: Sequence[tuple[Checkpoint, Checkpoint]]) -> Tokenizer:
    if kind == "residual":
        return Residual(width=WIDTH, reference="root")
    tokenizer = FisherBasis(width=WIDTH, images=16, seed=0)
    tokenizer.prepare(root for _, root in pairs)
    return tokenizer


def inputs_of(tokenizer: Tokenizer, pairs: Sequence[tuple[Checkpoint, Checkpoint]], zoo: Zoo | None) -> TokenInputs:
    sources = scan(pairs, tokenizer)
    standardizer = Standardizer.fit((source.plan, source.sums) for source in sources)
    return TokenInputs(tokenizer, standardizer, 448, RECIPE, zoo)


def found_by(inputs: TokenInputs, pairs: Sequence[tuple[Checkpoint, Checkpoint]], **changes: Any) -> list[Tensor]:
    """The side information of checkpoints, (T C D) each."""
    inputs = dataclasses.replace(inputs, **changes)
    root = pairs[0][1].state_dict()
    plan = inputs.tokenizer.plan(pairs[0][0].state_dict(), root=root)
    every = inputs.side_information.all(plan, [checkpoint.state_dict() for checkpoint, _ in pairs], [root] * len(pairs))
    return [side.unflatten(1, (len(CHANNELS), WIDTH)) for side in every]


def of_unit_size(change: Tensor, plan: Plan) -> Tensor:
    """A change of a body over the root of its mean square in each group."""
    size = torch.ones(plan.n_tokens, 1)
    for group in plan.groups:
        own = change[group.start : group.stop]
        size[group.start : group.stop] = own.square().mean().sqrt() if own.any() else 1
    return change / size


def test_the_root_channel_is_the_roots_own_weights_in_the_form_of_tokens(
    inputs: TokenInputs, pairs: list[tuple[Checkpoint, Checkpoint]]
):
    weights, root = (checkpoint.state_dict() for checkpoint in pairs[0])
    plan = inputs.tokenizer.plan(weights, root=root)
    channel = inputs.side_information.roots(plan, weights, root)[:, :WIDTH]
    for factor in (0.01, -0.3):
        body = body_of(plan)
        moved = {name: (1 + factor) * root[name] if name in body else tensor for name, tensor in weights.items()}
        tokens = inputs.standardizer.in_deviations(inputs.tokenizer.encode(moved, root=root)).where(changing(plan), 0)
        torch.testing.assert_close(of_unit_size(tokens, plan), channel if factor > 0 else -channel, atol=1e-4, rtol=1e-3)
    other = inputs.standardizer.in_deviations(inputs.tokenizer.encode(weights, root=root)).where(changing(plan), 0)
    assert functional.cosine_similarity(other.flatten(), channel.flatten(), dim=0).abs() < 0.5


def test_channels_have_a_mean_square_of_one_in_each_group(inputs: TokenInputs, pairs: list[tuple[Checkpoint, Checkpoint]]):
    root = pairs[0][1].state_dict()
    plan = inputs.tokenizer.plan(pairs[0][0].state_dict(), root=root)
    for side in found_by(inputs, pairs):
        for group in plan.groups:
            squares = side[group.start : group.stop].square().mean((0, 2))
            changes = changing(plan)[group.start : group.stop].any()
            torch.testing.assert_close(squares, torch.full((len(CHANNELS),), float(changes)), atol=1e-4, rtol=1e-4)


def test_heads_and_padding_have_none(inputs: TokenInputs, pairs: list[tuple[Checkpoint, Checkpoint]]):
    root = pairs[0][1].state_dict()
    plan = inputs.tokenizer.plan(pairs[0][0].state_dict(), root=root)
    assert {name for name in root if name not in body_of(plan)} == {"head.weight", "head.bias"}
    assert not changing(plan).all()
    for side in found_by(inputs, pairs):
        assert not side[~changing(plan)[:, None].expand_as(side)].any()
        assert (side[changing(plan)[:, None].expand_as(side)] != 0).float().mean() > 0.9


def test_bodies_of_checkpoints_are_not_looked_at_and_heads_are(inputs: TokenInputs, pairs: list[tuple[Checkpoint, Checkpoint]]):
    root = pairs[0][1].state_dict()
    first, second = (checkpoint.state_dict() for checkpoint, _ in pairs[:2])
    plan = inputs.tokenizer.plan(first, root=root)
    body = body_of(plan)
    crossed = {name: second[name] if name in body else first[name] for name in first}
    garbage = {name: torch.full_like(first[name], torch.nan) if name in body else first[name] for name in first}
    one, same, blind, other = inputs.side_information.all(plan, [first, crossed, garbage, second], [root] * 4)
    assert torch.equal(one, same)
    assert torch.equal(one, blind)
    assert torch.equal(one[:, :WIDTH], other[:, :WIDTH])  # the root is the same one
    assert not torch.allclose(one[:, WIDTH:], other[:, WIDTH:], atol=1e-3)


def test_rehearsals_go_where_the_fine_tuned_model_went(plain: TokenInputs, zoo: Zoo):
    """A body that was fine-tuned by the recipe itself is its own channel."""
    finals = zoo.select(stage="finetune", final=True, pretraining="supervised", head="linear")
    pairs = [(checkpoint, known(root)) for checkpoint, root in islice(pairs_of(finals), 2)]
    weights, root = (checkpoint.state_dict() for checkpoint in pairs[0])
    plan = plain.tokenizer.plan(weights, root=root)
    start = {name: root[name] if name in body_of(plan) else tensor for name, tensor in weights.items()}
    fixed = frozenset(start) - body_of(plan)
    images = zoo.images("finetune").train
    side = found_by(plain, pairs[:1])[0]
    for number, change in enumerate(RECIPE.changes(pairs[0][0].architecture, [start], fixed, images)[0], start=1):
        tuned = {name: tensor + change[name] for name, tensor in start.items()}
        tokens = plain.standardizer.in_deviations(plain.tokenizer.encode(tuned, root=root)).where(changing(plan), 0)
        torch.testing.assert_close(side[:, number], of_unit_size(tokens, plan), atol=1e-4, rtol=1e-3)
        assert not torch.allclose(side[:, 3 - number], tokens, atol=1e-3)


def test_one_by_one_and_in_stacks_side_information_is_the_same(inputs: TokenInputs, pairs: list[tuple[Checkpoint, Checkpoint]]):
    together = found_by(inputs, pairs)
    alone = [found_by(inputs, [pair])[0] for pair in pairs]
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one[:, 0], other[:, 0])
        torch.testing.assert_close(one[:, 1], other[:, 1], atol=1e-4, rtol=1e-3)
        assert functional.cosine_similarity(one[:, 2].flatten(), other[:, 2].flatten(), dim=0) > 0.999
    assert not torch.allclose(together[0][:, 1:], together[1][:, 1:], atol=1e-3)


@pytest.mark.parametrize("lacks", [{"zoo": None}, {"rehearsal": NONE}])
def test_without_images_or_steps_there_are_no_rehearsals_and_the_root_is_known(
    inputs: TokenInputs, pairs: list[tuple[Checkpoint, Checkpoint]], lacks: dict[str, Any]
):
    for full, side in zip(found_by(inputs, pairs), found_by(inputs, pairs, **lacks), strict=True):
        assert torch.equal(side[:, 0], full[:, 0])
        assert side[:, 0].any()
        assert full[:, 1:].any()
        assert not side[:, 1:].any()


def test_without_a_root_nothing_is_known(plain: TokenInputs, pairs: list[tuple[Checkpoint, Checkpoint]], zoo: Zoo):
    weights, root = (checkpoint.state_dict() for checkpoint in pairs[0])
    rootless = inputs_of(Residual(width=WIDTH, reference="none"), pairs, zoo)
    plan = rootless.tokenizer.plan(weights)
    for given in (None, root):
        (side,) = rootless.side_information.all(plan, [weights], [given])
        assert side.shape == (plan.n_tokens, len(CHANNELS) * WIDTH)
        assert not side.any()
    plan = plain.tokenizer.plan(weights, root=root)
    assert not plain.side_information.all(plan, [weights], [None])[0].any()
    assert plain.side_information.all(plan, [weights], [root])[0].any()


def test_models_that_no_stack_runs_are_not_rehearsed(
    plain: TokenInputs, pairs: list[tuple[Checkpoint, Checkpoint]], monkeypatch: pytest.MonkeyPatch
):
    described = pairs[0][0].architecture
    assert described in plain.side_information.architectures.values()
    odd = {**described, "model_args": {**described["model_args"], "drop_path_rate": 0.5}}
    monkeypatch.setattr(Checkpoint, "architecture", property(lambda checkpoint: odd))
    side = found_by(plain, pairs)[0]
    assert side[:, 0].any()
    assert not side[:, 1:].any()
    monkeypatch.setattr(Checkpoint, "architecture", property(lambda checkpoint: described))
    assert found_by(plain, pairs)[0][:, 1:].any()


def test_models_with_fewer_classes_than_the_images_are_not_rehearsed(
    plain: TokenInputs, pairs: list[tuple[Checkpoint, Checkpoint]]
):
    images = known(plain.side_information.images)
    weights, root = (checkpoint.state_dict() for checkpoint in pairs[0])
    plan = plain.tokenizer.plan(weights, root=root)
    for more in (0, 1):
        finder = SideInformation(plain.tokenizer, plain.standardizer, RECIPE, zoo=plain.zoo)
        finder.images = ImageSplit(images.pixels, images.labels + more)
        (side,) = finder.all(plan, [weights], [root])
        assert side[:, :WIDTH].any()
        assert bool(side[:, WIDTH:].any()) == (more == 0)


def test_many_roots_are_looked_at_by_many_threads(plain: TokenInputs, pairs: list[tuple[Checkpoint, Checkpoint]]):
    weights, root = (checkpoint.state_dict() for checkpoint in pairs[0])
    plan = plain.tokenizer.plan(weights, root=root)
    roots = [{name: tensor.roll(n) for name, tensor in root.items()} for n in range(40)]
    finder = SideInformation(plain.tokenizer, plain.standardizer, NONE, zoo=None)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda each: finder.roots(plan, weights, each), [*roots, *roots]))
    for each, side in zip(roots, found, strict=False):
        alone = SideInformation(plain.tokenizer, plain.standardizer, NONE, zoo=None)
        assert torch.equal(side, alone.roots(plan, weights, each))
    assert not torch.allclose(found[0], found[1])
    assert finder.roots(plan, weights, roots[-1]) is finder.roots(plan, weights, roots[-1])  # of many checkpoints, one in memory


def test_side_information_of_files_is_found_by_plan_and_kept(plain: TokenInputs, zoo: Zoo):
    finals = zoo.select(stage="finetune", final=True, optimizer="sgd", learning_rate=3e-2)
    sources = scan(islice(pairs_of(finals), 0, None, 2), plain.tokenizer)
    assert len({source.plan for source in sources}) == 2
    assert len({known(source.root).model for source in sources}) == 3
    standardizer = Standardizer.fit((source.plan, source.sums) for source in sources)
    finder = SideInformation(plain.tokenizer, standardizer, RECIPE, zoo=zoo)
    sides = SourceSides(sources, [finder] * len(sources))
    stacks = sides.stacks()
    assert sorted(chain.from_iterable(stacks)) == [*range(len(sources))]
    assert len(stacks) == 2  # one of each plan, whatever the root
    for some in stacks:
        sides.find(some)
    for number, source in enumerate(sources):
        weights, root = source.checkpoint.state_dict(), known(source.root).state_dict()
        (expected,) = finder.all(source.plan, [weights], [root])
        torch.testing.assert_close(sides[number][:, : 2 * WIDTH], expected[:, : 2 * WIDTH], atol=1e-4, rtol=1e-3)
        assert sides[number] is sides[number]
    lazily = SourceSides(sources, [finder] * len(sources))
    torch.testing.assert_close(lazily[1][:, : 2 * WIDTH], sides[1][:, : 2 * WIDTH], atol=1e-4, rtol=1e-3)
    other = next(n for n, s in enumerate(sources) if s.plan == sources[1].plan and s.checkpoint.root != sources[1].checkpoint.root)
    assert not torch.allclose(sides[other][:, :WIDTH], sides[1][:, :WIDTH], atol=1e-3)


@pytest.fixture(scope="module")
def rehearsed(tiny_zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with its own settings, and rehearsals of two steps."""
    return train_rehearsed(tiny_zoo, tmp_path_factory.mktemp("runs") / "rehearsed")


def train_rehearsed(zoo: Path, folder: Path, *overrides: str) -> Run:
    small = ["model.width=32", "model.heads=2", "accelerator=cpu", "batch_size=2", "steps=2", "warmup=1", "validate_every=2"]
    recipe = ["rehearsed=8", "rehearsal.steps=2", "rehearsal.batch_size=16", "tokenizer.images=16", "validation_batches=1"]
    settings = [*small, *recipe, "model_name=hyperrep", "log_every=1", "objective.terms.behaviour.images=4", f"zoo={zoo}"]
    train(TrainConfig(**compose("train", [*settings, *overrides])), [Zoo.open(zoo)], folder, Console(quiet=True))
    return Run.open(folder)


def test_a_run_decodes_by_the_heads_that_latents_hold(rehearsed: Run):
    finals = list(rehearsed.split.test.select(final=True, head="linear"))[:2]
    tokens, latents = zip(*rehearsed.latents(finals), strict=True)
    root = known(rehearsed.zoo.root(finals[0])).state_dict()
    together = rehearsed.decode_all(tokens, latents, roots=[root, root])
    for one, own, latent in zip(together, tokens, latents, strict=True):
        alone = rehearsed.decode(own, latent, root=root)
        assert max(float((one[name] - alone[name]).abs().max()) for name in one) < 1e-3
    sides = rehearsed.decoding.sides(tokens, latents, roots=[root, root])
    assert sides[0][:, WIDTH:].any()
    assert not torch.allclose(sides[0][:, WIDTH:], sides[1][:, WIDTH:], atol=1e-3)
    heads = tokens[0].positions[:, 1] == tokens[0].positions[-1, 1]
    assert heads.any()
    crossed = latents[0].where(~heads[:, None], latents[1])  # the body's latents of the first, under the second's head
    (under,) = rehearsed.decoding.sides(tokens[:1], [crossed], roots=[root])
    torch.testing.assert_close(under[:, : 2 * WIDTH], sides[1][:, : 2 * WIDTH], atol=1e-3, rtol=1e-2)


def test_latents_that_are_not_finite_are_decoded_without_a_rehearsal_and_spare_the_others(rehearsed: Run):
    finals = list(rehearsed.split.test.select(final=True, head="linear"))[:2]
    tokens, latents = zip(*rehearsed.latents(finals), strict=True)
    root = known(rehearsed.zoo.root(finals[0])).state_dict()
    spoiled = latents[0].clone()
    spoiled[3] = torch.nan
    first, second = rehearsed.decode_all(tokens, [spoiled, latents[1]], roots=[root, root])
    assert not all(tensor.isfinite().all() for tensor in first.values())
    assert all(tensor.isfinite().all() for tensor in second.values())
    assert not rehearsed.decoding.sides(tokens, [spoiled, latents[1]], roots=[root, root])[0].any()


def test_a_run_with_rehearsals_is_written_down_and_read_again(rehearsed: Run):
    assert rehearsed.inputs.tokens.rehearsal == Rehearsal(steps=2, batch_size=16, sgd=0.03, adamw=1e-3)
    assert rehearsed.model.gains.any()
    assert ((rehearsed.model.gains > -0.05) & (rehearsed.model.gains < 1.05)).all()  # fitted, then trained for two steps
    assert rehearsed.model.allocation.energy.any()


def test_a_run_with_rehearsals_is_the_same_run_again_and_another_recipe_is_another(rehearsed: Run, tiny_zoo: Path, tmp_path: Path):
    same, other = (train_rehearsed(tiny_zoo, tmp_path / str(steps), f"rehearsal.steps={steps}") for steps in (2, 1))
    weights = rehearsed.model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in same.model.state_dict().items())
    assert not torch.equal(other.model.state_dict()["gains"], weights["gains"])
