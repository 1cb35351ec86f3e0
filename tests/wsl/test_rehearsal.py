"""Rehearsals are plain fine-tunings of timm's model on the same batches, hold the head still, and depend on it."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoos import SMALL, tuned
from wsl.data.rehearsal import Rehearsal
from wsl.data.token_inputs import rehearsal_of
from zoo_gen import InputError
from zoo_gen.architecture import build, initialize
from zoo_gen.images import ImageSplit

RECIPE = Rehearsal(steps=5, batch_size=8, sgd=0.03, adamw=1e-3)
HEAD = frozenset({"head.weight", "head.bias"})
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def images() -> ImageSplit:
    rng = torch.Generator().manual_seed(0)
    return ImageSplit(torch.randn(20, 1, 8, 8, generator=rng), torch.randint(3, (20,), generator=rng))


def models(count: int) -> list[State]:
    """A root under several heads."""
    root = initialize(SMALL, 0)
    heads = [tuned(root, seed) for seed in range(count)]
    return [{name: head[name] if name in HEAD else root[name] for name in root} for head in heads]


def by_hand(start: State, images: ImageSplit, optimizer: str) -> State:
    """The change by a plain loop of PyTorch."""
    model = build(SMALL)
    model.load_state_dict(start)
    body = [parameter for name, parameter in model.named_parameters() if name not in HEAD]
    moving: torch.optim.Optimizer = (
        torch.optim.SGD(body, lr=RECIPE.sgd, momentum=0.9)
        if optimizer == "sgd"
        else torch.optim.Adam(body, lr=RECIPE.adamw, betas=(0.9, 0.99))
    )
    rng, order = torch.Generator().manual_seed(0), list[Tensor]()
    for _ in range(RECIPE.steps):
        order = order or list(torch.randperm(len(images), generator=rng).split(RECIPE.batch_size))
        batch = order.pop(0)
        moving.zero_grad()
        functional.cross_entropy(model(images.pixels[batch]), images.labels[batch]).backward()
        if optimizer == "sgd":
            nn.utils.clip_grad_norm_(body, 1.0)
        moving.step()
    return {name: tensor - start[name] for name, tensor in model.state_dict().items()}


def changes(states: list[State], images: ImageSplit, *, fixed: frozenset[str] = HEAD, recipe: Rehearsal = RECIPE) -> list[Any]:
    return recipe.changes(SMALL, states, fixed, images)


def close(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    """Whether changes agree, but for biases of keys: their gradients are rounding errors, which AdamW takes for gradients."""
    assert a.keys() == b.keys()
    parts = [[c[name].chunk(3)[::2] if name.endswith("qkv.bias") else [c[name]] for name in a] for c in (a, b)]
    return all(torch.allclose(*pair, atol=1e-5, rtol=1e-3) for both in zip(*parts, strict=True) for pair in zip(*both, strict=True))


def test_a_rehearsal_is_a_plain_fine_tuning_on_the_same_batches(images: ImageSplit):
    (start,) = models(1)
    ((sgd, adamw),) = changes([start], images)
    assert close(sgd, by_hand(start, images, "sgd"))
    assert close(adamw, by_hand(start, images, "adamw"))
    assert not close(sgd, adamw)
    others = ImageSplit(images.pixels.flip(0), images.labels)
    assert not close(sgd, by_hand(start, others, "sgd"))


def test_gradients_are_clipped_to_unit_norm(images: ImageSplit):
    (start,) = models(1)
    loud = {name: 20 * tensor if name in HEAD else tensor for name, tensor in start.items()}
    ((sgd, _),) = changes([loud], images)
    assert close(sgd, by_hand(loud, images, "sgd"))
    length = torch.cat([tensor.flatten() for tensor in sgd.values()]).norm()
    longest = RECIPE.sgd * sum(1 - 0.9**step for step in range(1, RECIPE.steps + 1)) / 0.1
    assert 0.1 * longest < length < longest


def test_what_is_fixed_does_not_move_and_all_else_does(images: ImageSplit):
    for change in changes(models(1), images)[0]:
        assert {name for name, tensor in change.items() if not tensor.any()} == HEAD
    for change in changes(models(1), images, fixed=frozenset())[0]:
        assert not [name for name, tensor in change.items() if not tensor.any()]
    everything = frozenset(models(1)[0])
    assert not any(tensor.any() for change in changes(models(1), images, fixed=everything)[0] for tensor in change.values())


def test_models_rehearse_alike_one_by_one_and_in_stacks_and_every_time(images: ImageSplit, monkeypatch: pytest.MonkeyPatch):
    states = models(5)
    together = changes(states, images)
    again = changes(states, images)
    monkeypatch.setattr("wsl.data.rehearsal.AT_ONCE", 2)
    in_twos = changes(states, images)
    monkeypatch.setattr("wsl.data.rehearsal.WEIGHTS_AT_ONCE", 1)
    alone = changes(states, images)
    for one, same, two, single in zip(together, again, in_twos, alone, strict=True):
        for optimizer in (0, 1):
            assert all(torch.equal(tensor, same[optimizer][name]) for name, tensor in one[optimizer].items())
            assert close(one[optimizer], two[optimizer])
            assert close(one[optimizer], single[optimizer])
    assert not close(together[0][0], together[1][0])


def test_a_body_goes_elsewhere_under_another_head(images: ImageSplit):
    first, second = changes(models(2), images)
    for one, other in zip(first, second, strict=True):
        both = [torch.cat([tensor.flatten() for name, tensor in c.items() if name not in HEAD]) for c in (one, other)]
        assert functional.cosine_similarity(*both, dim=0) < 0.9
    same = changes([models(2)[0]] * 2, images)
    assert close(same[0][0], same[1][0])


def test_the_random_state_of_the_caller_is_left_alone(images: ImageSplit):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    changes(models(1), images)
    assert torch.equal(torch.rand(1), expected)


def test_the_threads_that_a_training_was_given_are_left_alone(images: ImageSplit):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        changes(models(2), images)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_no_steps_are_no_change(images: ImageSplit):
    none = Rehearsal(steps=0, batch_size=8, sgd=0.03, adamw=1e-3)
    assert not any(tensor.any() for change in changes(models(1), images, recipe=none)[0] for tensor in change.values())


@pytest.mark.parametrize(
    "wrong",
    [{"steps": -1}, {"batch_size": 0}, {"sgd": 0.0}, {"adamw": -1.0}, {"sgd": float("inf")}, {"adamw": float("nan")}],
)
def test_numbers_that_nothing_can_be_rehearsed_with_are_refused(wrong: dict[str, Any]):
    right = {"steps": 1, "batch_size": 1, "sgd": 0.1, "adamw": 0.1}
    assert rehearsal_of(right) == Rehearsal(steps=1, batch_size=1, sgd=0.1, adamw=0.1)
    with pytest.raises(InputError, match=r"rehearsal\.steps must be at least 0"):
        rehearsal_of({**right, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        [1],
        {"steps": 1},
        {"steps": 1, "batch_size": 1, "sgd": 0.1, "adamw": 0.1, "lion": 0.1},
        {"steps": "4", "batch_size": 1, "sgd": 0.1, "adamw": 0.1},
        {"steps": 1.5, "batch_size": 1, "sgd": 0.1, "adamw": 0.1},
        {"steps": 2, "batch_size": 2.5, "sgd": 0.1, "adamw": 0.1},
    ],
)
def test_a_recipe_that_is_none_is_refused(wrong: Any):
    with pytest.raises(InputError, match=r"rehearsal needs the numbers|rehearsal\.steps and batch_size are whole numbers"):
        rehearsal_of(wrong)


def test_a_model_that_no_stack_runs_is_refused(images: ImageSplit):
    resnet = {"architecture": "resnet18", "num_classes": 3, "model_args": {"in_chans": 1}}
    state = build(resnet).state_dict()
    with pytest.raises(InputError, match="cannot stack"):
        RECIPE.changes(resnet, [state], frozenset(), images)
