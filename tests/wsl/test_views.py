"""A random view is the same function in other weights, the same whenever it is named, and never cached."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch.func import functional_call

from wsl.data.augmentation import RandomView, Viewed
from wsl.data.sources import Held, Stored, pairs_of, survey
from wsl.data.standardizer import Standardizer
from wsl.data.windows import Windows
from wsl.tokenizers.residual import Residual
from zoo_gen import InputError, Zoo
from zoo_gen.config import CONFIGS, instantiate

CARDS = sorted((CONFIGS / "view").glob("*.yaml"))
MOVES = ["resid", "mlp", "head", "qk", "vo"]


@pytest.fixture(scope="module", params=["root", "none"])
def reference(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def stored(tiny_zoo: Path, reference: str) -> list[Stored]:
    zoo = Zoo.open(tiny_zoo).select(stage="finetune", final=True, pretraining="supervised")
    return survey(islice(pairs_of(zoo), 14), Residual(width=64, reference=reference))


def random(*moves: str) -> RandomView:
    return RandomView(moves=list(moves), maps="orthogonal", strength=0.2)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.stem)
def test_every_card_gives_sources_of_the_same_plan(card: Path, stored: list[Stored]):
    source = instantiate(OmegaConf.to_container(OmegaConf.load(card)))(stored[0])
    assert source.plan is stored[0].plan


def test_a_view_and_its_root_keep_their_functions_and_their_weights_move(stored: list[Stored]):
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for one in (stored[0], stored[-1]):
        for moves in (MOVES, [*MOVES, "rotation"]):
            moved, root = random(*moves).move(one, (0, 1))
            for weights, checkpoint in [(moved, one.checkpoint), *([(root, one.root)] if root else [])]:
                model = checkpoint.build()
                outputs = functional_call(model, weights, (images,))
                torch.testing.assert_close(outputs, model(images), rtol=1e-3, atol=1e-4)
                assert not torch.allclose(weights["blocks.0.mlp.fc1.weight"], checkpoint.state_dict()["blocks.0.mlp.fc1.weight"])
            broken = {**moved, "blocks.0.mlp.fc1.weight": one.checkpoint.state_dict()["blocks.0.mlp.fc1.weight"]}
            model = one.checkpoint.build()
            assert not torch.allclose(functional_call(model, broken, (images,)), model(images), rtol=1e-3, atol=1e-4)


def test_a_permuted_difference_has_the_size_of_the_difference(stored: list[Stored], reference: str):
    one, name = stored[0], "blocks.0.mlp.fc1.weight"
    moved, root = random("resid", "mlp").move(one, (3,))
    if reference == "root":
        before = one.checkpoint.state_dict()[name] - one.root.state_dict()[name]
        assert (moved[name] - root[name]).norm().item() == pytest.approx(before.norm().item(), rel=1e-5)
        assert (moved[name] - one.root.state_dict()[name]).norm() > 2 * before.norm()
    assert moved[name].norm().item() == pytest.approx(one.checkpoint.state_dict()[name].norm().item(), rel=1e-5)


def test_windows_of_views_follow_from_seed_epoch_and_number_whoever_draws_them(stored: list[Stored]):
    standardizer = Standardizer.fit_sums((one.plan, one.sums) for one in stored)
    stored = stored[::3]  # with heads of both types
    viewed = [random(*MOVES)(one) for one in stored]
    drawn, cached, plain = (
        Windows(sources, standardizer, length=100, seed=0, cache=cache)
        for sources, cache in ((viewed, 0), (viewed, 10**9), (stored, 0))
    )
    steps = range(2 * drawn.per_epoch // 4)
    alone = list(drawn.batches(steps, 4, rank=0, world_size=1, workers=0))
    for found, windows, workers in ((True, drawn, 2), (True, cached, 1), (False, plain, 0)):
        others = windows.batches(steps, 4, rank=0, world_size=1, workers=workers)
        assert all(torch.equal(a.values, b.values) for a, b in zip(alone, others, strict=True)) == found
    assert all(batch.values.isfinite().all() for batch in alone)


def test_a_window_of_a_view_is_a_slice_of_the_view(stored: list[Stored], reference: str):
    source = random(*MOVES)(stored[0])
    assert isinstance(source, Viewed)
    key = (0, 0, 0)
    weights, root = source.view.move(stored[0], key)
    whole = Held.of(Residual(width=64, reference=reference).encode(weights, root=root))
    windows = Windows([whole], Standardizer.fit_sums([(whole.plan, whole.sums)]), length=100, seed=0, cache=0)
    window, _ = windows._layout(0, 0)
    values, sums = source.draw(window, key)
    assert torch.equal(values, whole.values[:100])
    assert torch.equal(sums, whole.sums)
    assert not torch.equal(values, source.draw(window, (0, 1, 0))[0])


def test_null_directions_of_differences_and_unknown_moves_are_refused(stored: list[Stored], reference: str):
    with pytest.raises(InputError, match=r"unknown view\.moves spin"):
        random("spin")
    if reference == "root":
        with pytest.raises(InputError, match=r"norm cannot move differences to a root.*reference=none"):
            random("norm")(stored[0])
    else:
        weights, _ = random("norm", "bias").move(stored[0], (0,))
        images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        model = stored[0].checkpoint.build()
        torch.testing.assert_close(functional_call(model, weights, (images,)), model(images), rtol=1e-3, atol=1e-4)
