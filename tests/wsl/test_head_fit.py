"""Fitted last layers are the optimum of a convex loss: no gradient is left, and scikit-learn finds none better."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from tests.zoos import SMALL, tuned
from wsl.operations import models
from wsl.operations.head_fit import HeadFit, features, last_layer
from wsl.operations.targets import Targets, predictions
from zoo_gen import InputError
from zoo_gen.architecture import build, initialize, skeleton, with_head
from zoo_gen.stack import stack_of

State = dict[str, Tensor]
PENALTY, COUNT, CLASSES = 0.01, 60, 3
FIT = HeadFit(penalty=PENALTY, tolerance=1e-7, steps=100)
BACKBONE: dict[str, Any] = with_head(SMALL, "none", CLASSES)
ARCHITECTURES = {head: with_head(BACKBONE, head, CLASSES) for head in ("linear", "mlp")}
LAST = {"linear": "head", "mlp": "head.fc2"}
PIXELS = torch.randn(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(CLASSES, (COUNT,), generator=torch.Generator().manual_seed(1))
TARGETS = Targets.labels(LABELS, CLASSES)


def states(head: str = "linear", count: int = 4) -> list[State]:
    root = initialize(ARCHITECTURES[head], 0)
    return [tuned(root, seed, by=0.1) for seed in range(count)]


def loss(head: str, state: State, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of timm's own model in float64, and the norm of its gradient by the last layer."""
    layer = {name: t.double().requires_grad_(name.startswith(LAST[head] + ".")) for name, t in state.items()}
    logits = functional_call(build(ARCHITECTURES[head]).double().eval(), layer, (PIXELS.double(),))
    fitted = functional.cross_entropy(logits, targets.double()) + PENALTY / 2 * layer[f"{LAST[head]}.weight"].square().sum()
    fitted.backward()
    gradient = torch.cat([t.grad.flatten() for t in layer.values() if t.grad is not None])
    return fitted.detach(), gradient.norm()


@pytest.mark.parametrize("head", ARCHITECTURES)
def test_no_gradient_is_left_and_the_figures_are_those_of_the_models(head: str) -> None:
    found = FIT(ARCHITECTURES[head], states(head), PIXELS, TARGETS)
    for state, told in zip(found.states, found.figures["loss"], strict=True):
        value, gradient = loss(head, state, functional.one_hot(LABELS, CLASSES))
        assert float(gradient) < 1e-5
        assert float(value) == pytest.approx(float(told), abs=1e-5)
    assert float(found.figures["gradient_norm"].max()) <= FIT.tolerance


def test_too_few_steps_leave_a_gradient_and_say_so() -> None:
    found = HeadFit(penalty=PENALTY, tolerance=1e-7, steps=1)(SMALL, states(), PIXELS, TARGETS)
    assert float(found.figures["gradient_norm"].min()) > 1e-4
    assert float(loss("linear", found.states[0], functional.one_hot(LABELS, CLASSES))[1]) > 1e-4


@pytest.mark.parametrize("penalty", [1e-4, 1e-2, 1.0])
def test_scikit_learn_finds_no_lower_loss_at_the_same_penalty(penalty: float) -> None:
    fit = HeadFit(penalty=penalty, tolerance=1e-8, steps=100)
    found = fit(SMALL, states(), PIXELS, TARGETS)
    read = features(stack_of(skeleton(SMALL), states()), "head", PIXELS).double().numpy()
    for x, ours in zip(read, found.figures["loss"], strict=True):
        theirs = LogisticRegression(C=1 / (penalty * COUNT), tol=1e-10, max_iter=10_000).fit(x, LABELS.numpy())
        logits = torch.from_numpy(x @ theirs.coef_.T + theirs.intercept_)
        value = float(functional.cross_entropy(logits, LABELS)) + penalty / 2 * float(np.square(theirs.coef_).sum())
        assert float(ours) <= value + 1e-6
        assert value <= float(ours) + 1e-6  # nor do we


def test_soft_targets_of_each_model_are_fitted() -> None:
    soft = torch.randn(4, COUNT, CLASSES, generator=torch.Generator().manual_seed(2)).softmax(-1)
    own = torch.eye(4)
    found = FIT(SMALL, states(), PIXELS, Targets.mixtures(soft, own)).states
    for number, state in enumerate(found):
        assert float(loss("linear", state, soft[number])[1]) < 1e-5
        assert float(loss("linear", state, soft[(number + 1) % 4])[1]) > 1e-3  # those of another are not


@pytest.mark.parametrize("head", ARCHITECTURES)
def test_the_last_layer_alone_changes_and_the_old_one_does_not_matter(head: str) -> None:
    before, layer = states(head), LAST[head]
    moved = [{n: t + (n.startswith(f"{layer}.")) * 3.0 for n, t in state.items()} for state in before]
    first, again = (FIT(ARCHITECTURES[head], some, PIXELS, TARGETS).states for some in (before, moved))
    for state, one, other in zip(before, first, again, strict=True):
        assert {name for name in state if not torch.equal(state[name], one[name])} == {f"{layer}.weight", f"{layer}.bias"}
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_stack_gives_the_models_of_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "AT_ONCE", 3)
    together = FIT(SMALL, states(count=7), PIXELS, TARGETS)
    for number, state in enumerate(states(count=7)):
        alone = FIT(SMALL, [state], PIXELS, TARGETS)
        assert all(torch.allclose(alone.states[0][name], t, atol=1e-5) for name, t in together.states[number].items())


def test_features_cost_no_gradients_and_evaluations_of_heads_are_counted() -> None:
    cost = FIT(SMALL, states(), PIXELS, TARGETS).cost
    assert (cost.gradients, cost.gradient_images, cost.forward_images) == (0, 0, COUNT)
    assert cost.head_gradients > 2
    assert (cost + cost).forward_images == 2 * COUNT


def test_a_class_without_images_and_equal_features_have_an_optimum_too() -> None:
    two = Targets.labels(LABELS.clamp(max=1), CLASSES)
    assert float(FIT(SMALL, states(), PIXELS, two).figures["gradient_norm"].max()) <= FIT.tolerance
    flat = FIT(SMALL, states(), torch.zeros_like(PIXELS), TARGETS)
    assert float(flat.figures["gradient_norm"].max()) <= FIT.tolerance
    shares = torch.bincount(LABELS).double() / COUNT
    assert float(flat.figures["loss"][0]) == pytest.approx(float(torch.special.entr(shares).sum()), abs=1e-6)


def test_the_last_layer_is_found_and_roots_have_none() -> None:
    assert {head: last_layer(card) for head, card in ARCHITECTURES.items()} == LAST
    with pytest.raises(InputError, match="with 0 classes has no last linear layer"):
        last_layer(BACKBONE)


def test_what_cannot_be_fitted_is_refused() -> None:
    some = states()
    nan = [*some[:3], {**some[3], "cls_token": some[3]["cls_token"] * float("nan")}]
    mlp = states("mlp")
    others = Targets.labels(LABELS[:-1], CLASSES)
    for given, pixels, targets, message in (
        (nan, PIXELS, TARGETS, "model 3 of 4 has weights that are not finite"),
        (mlp, PIXELS, TARGETS, "model 0 of 4 lacks tensor 'head.bias'|has, and the others lack"),
        (some, PIXELS[:0], Targets.labels(LABELS[:0], CLASSES), "no images were given to run 4 models on"),
        (some, PIXELS, others, "targets are of 59 images and 3 classes, not of 60 and 3"),
        (some, PIXELS, Targets.labels(LABELS, 4), "targets are of 60 images and 4 classes, not of 60 and 3"),
        ([], PIXELS, TARGETS, "no model was given"),
    ):
        with pytest.raises(InputError, match=message):
            FIT(SMALL, given, pixels, targets)
    with pytest.raises(InputError, match="penalty of a head fit must be more than 0"):
        HeadFit(penalty=0.0, tolerance=1e-6, steps=10)
    with pytest.raises(InputError, match="steps of a head fit must be a whole number"):
        HeadFit(penalty=1.0, tolerance=1e-6, steps=0)


def test_targets_are_probabilities_and_mixtures_of_their_sources() -> None:
    teachers = predictions(SMALL, states(), PIXELS)
    assert torch.allclose(Targets.ensemble(teachers).of(slice(0, 9)), teachers.mean(0, keepdim=True), atol=1e-6)
    shares = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    mixed = Targets.mixtures(teachers, shares).of(slice(0, 2), torch.tensor([3, 5]))
    assert torch.allclose(mixed, torch.stack([teachers[:2].mean(0), teachers[3]])[:, [3, 5]], atol=1e-6)
    for wrong, message in (
        (lambda: Targets.labels(LABELS, 2), "labels go from 0 to 2, and models have 2 classes"),
        (lambda: Targets.mixtures(teachers, shares[:, :3]), "shares of targets must be probabilities|by 3 shares"),
        (lambda: Targets.mixtures(teachers, shares * 2), "shares of targets must be probabilities"),
        (lambda: Targets.ensemble(teachers * float("nan")), "predictions of targets must be probabilities"),
        (lambda: predictions(SMALL, [], PIXELS), "no teacher was given"),
        (lambda: Targets.ensemble(teachers[:0]), "an ensemble of no teachers"),
    ):
        with pytest.raises(InputError, match=message):
            wrong()
