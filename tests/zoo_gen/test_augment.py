"""Augmentation keeps what it promises to keep, and does something."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.zoo_gen.test_stack import recipes
from zoo_gen.augment import DRAWS, Strengths, mix, mixing_draws, view
from zoo_gen.objectives import cross_entropy, nt_xent, smooth_targets

NOTHING = {
    "crop": 1.0,
    "shift": 0.0,
    "rotate": 0.0,
    "flip": 0.0,
    "jitter": 0.0,
    "random_erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
}


def images(k: int) -> torch.Tensor:
    return torch.randn(k, 16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def draws(k: int) -> torch.Tensor:
    return torch.rand(k, 16, DRAWS, generator=torch.Generator().manual_seed(1))


def test_no_augmentation_changes_nothing() -> None:
    assert torch.equal(view(images(2), draws(2), Strengths(recipes(NOTHING, NOTHING), "cpu")), images(2))


@pytest.mark.parametrize("change", [{"crop": 0.5}, {"shift": 0.2}, {"rotate": 30.0}, {"jitter": 0.4}, {"random_erasing": 1.0}])
def test_a_models_view_does_not_depend_on_its_neighbours(change: dict[str, float]) -> None:
    with_change = NOTHING | change
    alone = view(images(1), draws(1), Strengths(recipes(with_change), "cpu"))
    beside = view(images(2), draws(2), Strengths(recipes(with_change, NOTHING), "cpu"))
    torch.testing.assert_close(beside[0], view(images(2), draws(2), Strengths(recipes(with_change, with_change), "cpu"))[0])
    torch.testing.assert_close(beside[1], images(2)[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone[0], images(1)[0])


def test_a_flip_mirrors_the_columns() -> None:
    flipped = view(images(1), draws(1), Strengths(recipes(NOTHING | {"flip": 1.0}), "cpu"))
    torch.testing.assert_close(flipped, images(1).flip(-1), atol=1e-5, rtol=1e-5)


def test_erasing_sets_a_rectangle_to_the_mean() -> None:
    pixels = torch.ones(1, 16, 1, 8, 8)
    erased = view(pixels, draws(1), Strengths(recipes(NOTHING | {"random_erasing": 1.0}), "cpu")) == 0
    share = erased.float().mean((2, 3, 4))
    assert bool((share > 0).any())
    assert float(share.max()) < 0.5


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_targets_say_how_much_of_each_image_there_is(kind: str) -> None:
    members = recipes(NOTHING | {kind: 1.0})
    drawn = torch.from_numpy(mixing_draws([np.random.default_rng(0)], 5, Strengths(members, "cpu")))
    white = torch.cat([torch.ones(1, 8, 1, 8, 8), torch.zeros(1, 8, 1, 8, 8)], 1)
    labels = torch.cat([torch.zeros(1, 8), torch.ones(1, 8)], 1).long()
    for step in range(5):
        pixels, targets = mix(white, smooth_targets(labels, 2, torch.zeros(1)), drawn[:, step])
        torch.testing.assert_close(pixels.mean((2, 3, 4)), targets[..., 0])
        torch.testing.assert_close(targets.sum(-1), torch.ones(1, 16))
    assert len(set(drawn[0, :, 0].tolist())) > 1


def test_smoothed_cross_entropy_is_that_of_torch() -> None:
    logits, labels = torch.randn(2, 6, 5), torch.randint(5, (2, 6))
    ours = cross_entropy(logits, smooth_targets(labels, 5, torch.tensor([0.1, 0.0])))
    theirs = [torch.nn.functional.cross_entropy(logits[k], labels[k], label_smoothing=s) for k, s in enumerate((0.1, 0.0))]
    torch.testing.assert_close(ours, torch.stack(theirs))


def test_nt_xent_prefers_matching_views() -> None:
    views = torch.randn(1, 8, 4, generator=torch.Generator().manual_seed(0))
    matching = nt_xent(torch.cat([views, views], 1), torch.tensor([0.07]))
    shuffled = nt_xent(torch.cat([views, views.roll(1, dims=1)], 1), torch.tensor([0.07]))
    assert float(matching) < 0.1 < float(shuffled)


def test_a_recipe_is_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipes({})[0].epochs = 3  # type: ignore[misc]
