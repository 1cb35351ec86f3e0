"""Merging is in function space what it says: copies in disguise merge into the model, groups are merged as one by one."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call

from tests.zoos import SMALL, tuned
from wsl import MOVES, distance, layout_of, random_view, stack, unstack
from wsl.operations import models
from wsl.operations.merge import Interpolation, Merging, interpolate, merge
from zoo_gen import InputError
from zoo_gen.architecture import build, initialize, outline

State = dict[str, Tensor]
LAYOUT = layout_of(outline(SMALL))
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SHARES = [0.0, 0.3, 0.5, 1.0, 1.4]


@pytest.fixture(scope="module")
def states() -> list[State]:
    root = initialize(SMALL, 0)
    return [{name: tensor.double() for name, tensor in tuned(root, seed).items()} for seed in range(5)]


def outputs(state: State) -> Tensor:
    return functional_call(build(SMALL).double().eval(), state, (IMAGES,)).detach()


def disguised(state: State, seed: int = 0) -> State:
    rng = torch.Generator().manual_seed(seed)
    return unstack(random_view(stack([state]), LAYOUT, rng, moves=MOVES, maps="orthogonal", strength=0.3))[0]


@pytest.mark.parametrize("share", SHARES)
def test_between_a_model_and_its_copy_in_disguise_is_the_models_function_at_any_share(states: list[State], share: float) -> None:
    between = interpolate(states[:2], [disguised(state) for state in states[:2]], share, LAYOUT)
    for state, found in zip(states, between, strict=False):
        assert torch.allclose(outputs(found), outputs(state), atol=1e-8)


def test_without_alignment_it_is_another_function(states: list[State]) -> None:
    (found,) = interpolate(states[:1], [disguised(states[0])], 0.5, LAYOUT, moves=[])
    assert float((outputs(found) - outputs(states[0])).abs().max()) > 0.1


def test_the_ends_are_the_first_model_itself_and_the_function_of_the_other(states: list[State]) -> None:
    (first,), (last,) = (interpolate(states[:1], states[1:2], share, LAYOUT) for share in (0.0, 1.0))
    assert all(torch.equal(first[name], tensor) for name, tensor in states[0].items())
    assert torch.allclose(outputs(last), outputs(states[1]), atol=1e-8)


def test_a_merged_model_is_the_mean_of_aligned_models(states: list[State]) -> None:
    (found,) = merge([states[:3]], [(0.5, 0.3, 0.2)], LAYOUT)
    first, others = states[0], [interpolate([states[0]], [other], 1.0, LAYOUT)[0] for other in states[1:3]]
    for name, tensor in found.items():
        assert torch.allclose(tensor, 0.5 * first[name] + 0.3 * others[0][name] + 0.2 * others[1][name], atol=1e-12)


def test_groups_merged_together_are_those_merged_one_by_one(states: list[State]) -> None:
    groups = [[states[i], disguised(states[(i + 1) % 5], i)] for i in range(5)]
    together = merge(groups, [(0.4, 0.6)] * 5, LAYOUT)
    for group, found in zip(groups, together, strict=True):
        (alone,) = merge([group], [(0.4, 0.6)], LAYOUT)
        assert all(torch.allclose(alone[name], tensor, atol=1e-9) for name, tensor in found.items())


def test_equal_pairs_are_aligned_once_and_a_model_to_itself_never(states: list[State]) -> None:
    copies = [{name: tensor.clone() for name, tensor in states[1].items()} for _ in range(40)]
    done: list[int] = []
    found = merge([[states[0], copy] for copy in copies], [(0.5, 0.5)] * 40, LAYOUT, advance=done.append)
    assert sum(done) == 1
    assert len(found) == 40
    done.clear()
    merge([[states[0], states[0], states[0]]], [(0.2, 0.3, 0.5)], LAYOUT, advance=done.append)
    assert done == []


def test_two_hundred_models_are_merged_in_stacks(states: list[State], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "AT_ONCE", 2)
    groups = [[states[i % 5], states[(i * 3 + 1) % 5]] for i in range(200)]
    done: list[int] = []
    found = merge(groups, [(1 - i / 200, i / 200) for i in range(200)], LAYOUT, advance=done.append)
    assert len(found) == 200
    assert max(done) == 2
    assert torch.allclose(outputs(found[0]), outputs(states[0]))


def test_merging_keeps_the_number_format_and_alignment_lowers_the_distance(states: list[State]) -> None:
    half = [{name: tensor.float() for name, tensor in state.items()} for state in states[:2]]
    (found,) = interpolate(half[:1], half[1:], 0.5, LAYOUT)
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    away = distance(stack([found]), stack(half[:1]), LAYOUT)
    (plain,) = interpolate(half[:1], [disguised(half[1])], 0.5, LAYOUT, moves=[])
    assert float(away) < float(distance(stack([plain]), stack(half[:1]), LAYOUT))


def test_the_cards_are_the_functions(states: list[State]) -> None:
    for made, expected in (
        (Interpolation(share=0.3, moves=None)(states[:1], states[1:2], LAYOUT), interpolate(states[:1], states[1:2], 0.3, LAYOUT)),
        (Merging(moves=["mlp"])([states[:2]], [(0.5, 0.5)], LAYOUT), merge([states[:2]], [(0.5, 0.5)], LAYOUT, moves=["mlp"])),
    ):
        assert all(torch.equal(made[0][name], tensor) for name, tensor in expected[0].items())


def test_what_cannot_be_merged_is_refused(states: list[State]) -> None:
    a, b = states[:2]
    nan = {name: tensor * float("nan") for name, tensor in b.items()}
    short = {**b, "head.bias": b["head.bias"][:2]}
    bare = {name: tensor for name, tensor in b.items() if name != "head.bias"}
    for groups, shares, message in (
        ([[a, nan]], [(0.5, 0.5)], "model 1 of 2 has weights that are not finite"),
        ([[a, short]], [(0.5, 0.5)], r"model 1 of 2 has 'head.bias' of shape \(2,\), not \(3,\)"),
        ([[a, bare]], [(0.5, 0.5)], "model 1 of 2 lacks tensor 'head.bias'"),
        ([[a, b]], [(0.5, 0.6)], "shares of group 0 sum to 1.1, not to 1"),
        ([[a, b]], [(1.0,)], "group 0 has 2 models and 1 share"),
        ([[a, b]], [], "1 group of models cannot be merged by shares of 0"),
        ([[]], [()], "group 0 has 0 models"),
        ([], [], "no model was given"),
    ):
        with pytest.raises(InputError, match=message):
            merge(groups, shares, LAYOUT)
    with pytest.raises(InputError, match="2 models cannot be interpolated with 1"):
        interpolate([a, b], [a], 0.5, LAYOUT)
    with pytest.raises(InputError, match="unknown moves turn"):
        Merging(moves=["turn"])
    with pytest.raises(InputError, match="the share of an interpolation is nan"):
        Interpolation(share=float("nan"), moves=None)
