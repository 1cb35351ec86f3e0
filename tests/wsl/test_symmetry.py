"""Symmetries keep the function and change the weights; a table with one mistake in it is found out by that."""

import pytest
import torch
from torch import Tensor

from tests.architectures import MODELS, build, outputs
from wsl.fold import NULLS, fold, stack, unfold
from wsl.layout import Layout, layout_of
from wsl.symmetry import MOVES, random_view, sample
from zoo_gen.errors import InputError

K = 2


def view(weights: dict[str, Tensor], layout: Layout, moves: tuple[str, ...], maps: str = "general") -> dict[str, Tensor]:
    return random_view(weights, layout, torch.Generator().manual_seed(1), moves=moves, maps=maps, strength=0.3)


def change(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max((a[name] - b[name]).abs().max().item() for name in a)


def prepared(name: str) -> tuple[dict[str, Tensor], Layout]:
    model, heads, _ = build(name)
    return stack([model.state_dict()] * K), layout_of(model, heads=heads)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "no head"])
def test_every_move_alone_and_all_together_keep_the_function(name: str) -> None:
    model, heads, inputs = build(name)
    layout = layout_of(model, heads=heads)
    weights = stack([model.state_dict()] * K)
    expected = outputs(model, weights, inputs)
    moved = {moves: view(weights, layout, moves) for moves in [*((move,) for move in MOVES), MOVES]}
    for moves, other in moved.items():
        error = (outputs(model, other, inputs) - expected).norm() / expected.norm()
        assert error < 1e-10, (moves, error)
    assert all((moved[MOVES][name][0] - moved[MOVES][name][1]).abs().max() > 1e-3 for name in ("mlp.0",) if name in weights)
    assert change(moved[MOVES], weights) > 0.1
    for maps in ("orthogonal", "diagonal"):
        other = view(weights, layout, ("qk", "vo"), maps)
        assert (outputs(model, other, inputs) - expected).norm() < 1e-10 * expected.norm()
        assert change(other, weights) > 0.01
