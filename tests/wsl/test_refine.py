"""Refinement is plain descent on timm's models; teachers are followed, and repulsion keeps models as far apart as teachers are."""

from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.zoos import SMALL, tuned
from wsl.operations import models
from wsl.operations.refine import Refinement, agreement_of_teachers
from wsl.operations.targets import Targets, predictions
from zoo_gen import InputError
from zoo_gen.architecture import build, initialize

State = dict[str, Tensor]
COUNT, CLASSES = 48, 3
PIXELS = torch.randn(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(CLASSES, (COUNT,), generator=torch.Generator().manual_seed(1))
PLAIN = {"batch_size": 16, "optimizer": "adamw", "learning_rate": 3e-3, "warmup": 0.0, "schedule": "constant"}
PLAIN |= {"weight_decay": 0.0, "repulsion": 0.0}


def refinement(steps: int = 20, **changed: object) -> Refinement:
    return Refinement(**{**PLAIN, "steps": steps, **changed})  # type: ignore[arg-type]


def states(count: int = 4, first: int = 0) -> list[State]:
    root = initialize(SMALL, 0)
    return [tuned(root, first + seed, by=0.1) for seed in range(count)]


@pytest.fixture(scope="module")
def teachers() -> Tensor:
    return predictions(SMALL, [{n: 3 * t if n.startswith("head") else t for n, t in one.items()} for one in states(5, 50)], PIXELS)


def refined(recipe: Refinement, some: list[State], targets: Targets, seed: int = 0) -> list[State]:
    return recipe(SMALL, some, PIXELS, targets, np.random.default_rng(seed)).states


def divergence(some: list[State], target: Tensor) -> Tensor:
    """Of each model, in nats, from one target or one for each."""
    found = predictions(SMALL, some, PIXELS).log()
    return functional.kl_div(found, target.expand_as(found), reduction="none").sum(-1).mean(-1)


def disagreement(some: list[State]) -> float:
    classes = predictions(SMALL, some, PIXELS).argmax(-1)
    return float(np.mean([(a != b).float().mean() for a, b in combinations(classes, 2)]))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_models_are_those_of_torch_optim_on_timms_model(optimizer: str) -> None:
    recipe = refinement(5, batch_size=COUNT, optimizer=optimizer)
    (found,) = refined(recipe, states(1), Targets.labels(LABELS, CLASSES))
    model = build(SMALL).eval()
    model.load_state_dict(states(1)[0])
    parameters = model.parameters()
    moving: torch.optim.Optimizer = (
        torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.0)
        if optimizer == "adamw"
        else torch.optim.SGD(parameters, lr=3e-3, momentum=0.9)
    )
    for _ in range(5):
        moving.zero_grad()
        functional.cross_entropy(model(PIXELS), LABELS).backward()
        moving.step()
    for name, tensor in model.state_dict().items():
        if not name.endswith("qkv.bias"):  # the gradient of key biases is round-off, which AdamW makes steps of
            assert torch.allclose(tensor, found[name], atol=1e-5), name
    assert not torch.allclose(states(1)[0]["head.weight"], found["head.weight"], atol=1e-3)


def test_refinement_towards_an_ensemble_lowers_the_divergence_more_than_towards_labels(teachers: Tensor) -> None:
    before = divergence(states(), teachers.mean(0))
    after = divergence(refined(refinement(), states(), Targets.ensemble(teachers)), teachers.mean(0))
    by_labels = divergence(refined(refinement(), states(), Targets.labels(LABELS, CLASSES)), teachers.mean(0))
    assert bool((after < 0.7 * before).all())
    assert bool((by_labels > 1.5 * after).all())


def test_the_figures_are_the_divergences_on_the_batches(teachers: Tensor) -> None:
    outcome = refinement(3, batch_size=1000)(SMALL, states(), PIXELS, Targets.ensemble(teachers), np.random.default_rng(0))
    found = outcome.figures["divergence"]
    assert found.shape == (4, 3)
    assert torch.allclose(found[:, 0], divergence(states(), teachers.mean(0)), atol=1e-5)
    assert bool((found[:, 2] < found[:, 0]).all())


def test_each_model_follows_its_own_mixture_of_teachers(teachers: Tensor) -> None:
    shares = torch.eye(5)[:4] * 0.8 + 0.04
    own = torch.einsum("ke,enc->knc", shares, teachers)
    after = refined(refinement(60), states(1) * 4, Targets.mixtures(teachers, shares))
    apart = torch.stack([divergence([state] * 4, own) for state in after])
    assert apart.argmin(1).tolist() == [0, 1, 2, 3]


def test_repulsion_raises_disagreement_and_the_targets_are_followed_all_the_same(teachers: Tensor) -> None:
    targets = Targets.ensemble(teachers)
    start = states(6)
    alone, apart = (refined(refinement(40, repulsion=repulsion), start, targets) for repulsion in (0.0, 1.0))
    assert disagreement(apart) > 1.5 * disagreement(alone)
    before, after = (divergence(some, teachers.mean(0)) for some in (start, apart))
    assert float(after.mean()) < 0.7 * float(before.mean())


def test_models_may_agree_as_much_as_teachers_do(teachers: Tensor) -> None:
    alike = teachers[:1].expand(3, -1, -1)
    assert float(agreement_of_teachers(alike)) == pytest.approx(1)
    assert float(agreement_of_teachers(teachers)) < 0.95
    alone, apart = (refined(refinement(5, repulsion=r), states(), Targets.ensemble(alike)) for r in (0.0, 9.0))
    for one, other in zip(alone, apart, strict=True):
        assert all(torch.allclose(one[name], other[name], atol=1e-4) for name in one)
    far = refined(refinement(5, repulsion=9.0), states(), Targets.ensemble(teachers))
    near = refined(refinement(5), states(), Targets.ensemble(teachers))
    assert any(
        not torch.allclose(one["head.weight"], other["head.weight"], atol=1e-3) for one, other in zip(near, far, strict=True)
    )


def test_labels_repel_by_the_agreement_of_teachers_that_they_are_given(teachers: Tensor) -> None:
    targets = Targets.labels(LABELS, CLASSES, teachers=teachers)
    start = states(1) * 2 + states(2, 9)
    alone, apart = (refined(refinement(30, repulsion=r), start, targets) for r in (0.0, 3.0))
    assert disagreement(apart) > disagreement(alone)


@pytest.mark.parametrize("repulsion", [0.0, 1.0])
def test_models_do_not_depend_on_how_they_are_divided_into_stacks(
    teachers: Tensor, repulsion: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, targets = refinement(4, repulsion=repulsion, optimizer="sgd"), Targets.mixtures(teachers, torch.eye(5))
    whole = refined(recipe, states(5), targets)
    monkeypatch.setattr(models, "AT_ONCE", 2)
    for one, other in zip(whole, refined(recipe, states(5), targets), strict=True):
        assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_a_stack_gives_the_models_of_one_by_one(teachers: Tensor) -> None:
    recipe, shares = refinement(4, optimizer="sgd"), torch.eye(5)
    whole = refined(recipe, states(5), Targets.mixtures(teachers, shares))
    for number, state in enumerate(states(5)):
        (alone,) = refined(recipe, [state], Targets.mixtures(teachers, shares[number : number + 1]))
        assert all(torch.allclose(alone[name], whole[number][name], atol=1e-5) for name in alone)


def test_equal_seeds_give_equal_models_and_others_do_not(teachers: Tensor) -> None:
    first, again, other = (refined(refinement(3), states(2), Targets.ensemble(teachers), seed)[0] for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_gradient_evaluations_and_their_images_are_counted(teachers: Tensor) -> None:
    done: list[int] = []
    costs = [
        refinement(4, repulsion=repulsion)(
            SMALL, states(), PIXELS, Targets.ensemble(teachers), np.random.default_rng(0), advance=done.append
        ).cost
        for repulsion in (0.0, 1.0)
    ]
    assert [(cost.gradients, cost.gradient_images, cost.forward_images) for cost in costs] == [(4, 64, 0), (4, 64, 64)]
    assert sum(done) == 2 * 4 * 4


def test_what_cannot_be_refined_is_refused(teachers: Tensor) -> None:
    rng, targets = np.random.default_rng(0), Targets.ensemble(teachers)
    nan = [*states(3), {**states(1)[0], "cls_token": states(1)[0]["cls_token"] * float("nan")}]
    repelling = refinement(repulsion=1.0)
    for recipe, some, pixels, to, message in (
        (refinement(), nan, PIXELS, targets, "model 3 of 4 has weights that are not finite"),
        (refinement(), states(), PIXELS[:0], Targets.labels(LABELS[:0], 3), "no images were given"),
        (refinement(), states(), PIXELS[:9], targets, "targets are of 48 images and 3 classes, not of 9 and 3"),
        (refinement(), states(), PIXELS, Targets.mixtures(teachers, torch.eye(5)), "targets are of 5 models, not of 4"),
        (repelling, states(), PIXELS, Targets.labels(LABELS, 3), "there are 4 and 0; pass two or more of both"),
        (repelling, states(1), PIXELS, targets, "there are 1 and 5; pass two or more of both"),
    ):
        with pytest.raises(InputError, match=message):
            recipe(SMALL, some, pixels, to, rng)
    for changed, message in (
        ({"steps": 0}, "steps of a refinement must be a whole number of at least 1"),
        ({"steps": 2.5}, "steps of a refinement must be a whole number of at least 1"),
        ({"repulsion": -1.0}, "repulsion of a refinement must be at least 0"),
        ({"optimizer": "lion"}, "unknown optimizer 'lion'"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"warmup": 2.0}, "is longer than the whole training"),
    ):
        with pytest.raises(InputError, match=message):
            refinement(**changed)  # type: ignore[arg-type]
