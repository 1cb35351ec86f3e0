"""Symmetries keep the function and change the weights; a table with one mistake in it is found out by that."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.architectures import MODELS, build, outputs
from wsl.layout import layout_of
from wsl.layout.slots import Axis, Layout
from wsl.symmetry.group import MAPPED, MOVES, PERMUTED, apply, random_view, sample
from wsl.symmetry.null_directions import NULLS, fold, unfold
from wsl.symmetry.stacks import stack
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
    kinds = {axis.kind for slot in layout.slots for part in slot.parts for dim in part.axes for axis in dim}
    kinds |= {rule.verb for rule in layout.rules if rule.verb in ("batch", "positive")}
    for moves in (*((kind,) for kind in ("mlp", "resid", "head", "vo", "batch", "positive") if kind in kinds), MOVES):
        assert change(moved[moves], weights) > 0.01, moves
    assert max((moved[MOVES][name][0] - moved[MOVES][name][1]).abs().max() for name in weights) > 0.01
    for maps in ("orthogonal", "diagonal"):
        other = view(weights, layout, ("qk", "vo"), maps)
        assert (outputs(model, other, inputs) - expected).norm() < 1e-10 * expected.norm()
        assert (change(other, weights) > 0.01) == ("vo" in kinds)


def test_what_a_form_lacks_does_not_move() -> None:
    for name, still in {"pre-norm": ("rotation",), "q/k norm": ("qk",), "plain": ("scale",)}.items():
        weights, layout = prepared(name)
        for move in still:
            assert change(view(weights, layout, (move,)), weights) < 1e-14
    weights, layout = prepared("plain")
    for move in ("qk", "vo", "rotation", "norm", "bias", "mean"):
        assert change(view(weights, layout, (move,)), weights) > 0.1, move


@pytest.mark.parametrize("move", ["mean", "rotation"])
def test_a_mean_that_no_norm_removes_is_felt(move: str) -> None:
    """The negative control: with the means of a model that has a final norm, the function changes."""
    model, _, inputs = build("no final norm")
    weights, layout = prepared("no final norm")
    assert not any(rule.verb == "mean" for rule in layout.rules)
    _, normed = prepared("plain")
    means = tuple(rule for rule in normed.rules if rule.verb == "mean")
    assert means
    expected = outputs(model, weights, inputs)
    wrong = view(weights, replace(layout, rules=layout.rules + means), (move,))
    assert (outputs(model, wrong, inputs) - expected).norm() > 0.01 * expected.norm()


def test_a_layer_that_reads_without_a_norm_feels_the_mean() -> None:
    model, heads, _ = build("plain")
    lacking = {name: tensor for name, tensor in model.state_dict().items() if "blocks.1.norm2" not in name}
    assert not any(rule.verb == "mean" for rule in layout_of(lacking, heads=heads).rules)
    assert any(rule.verb == "mean" for rule in layout_of(model, heads=heads).rules)


def test_without_a_head_the_output_moves_with_the_residual_stream() -> None:
    model, heads, inputs = build("no head")
    layout = layout_of(model, heads=heads)
    weights = stack([model.state_dict()] * K)
    expected = outputs(model, weights, inputs)
    element = sample(layout, K, torch.Generator().manual_seed(1), moves=("resid", "mlp"), maps="general", dtype=torch.float64)
    other = outputs(model, apply(element, weights, layout), inputs)
    order = element.maps["resid"]
    assert isinstance(order, Tensor)
    torch.testing.assert_close(other, expected.gather(-1, order.unsqueeze(1).expand_as(expected)), rtol=0, atol=1e-10)
    assert (other - expected).abs().max() > 0.01


@pytest.mark.parametrize("name", MODELS)
def test_unfolding_in_its_own_gauge_gives_a_model_back(name: str) -> None:
    weights, layout = prepared(name)
    folded, gauge = fold(weights, layout)
    assert (change(folded, weights) > 0.01) == bool(layout.rules)
    assert change(unfold(folded, gauge, layout), weights) < 1e-11
    again, _ = fold(folded, layout)
    assert change(again, folded) < 1e-12


def mistakes(layout: Layout) -> Iterator[tuple[str, Layout]]:
    """Every layout with one mark of a dual dropped or one axis renamed."""
    harmless = {(rule.source, rule.part or 0) for rule in layout.rules if rule.verb == "bias" and not rule.targets}
    kinds = (*PERMUTED, *MAPPED)
    for s, slot in enumerate(layout.slots):
        for p, part in enumerate(slot.parts):
            if (slot.name, p) in harmless:  # key biases may be anything
                continue
            for i, dim in enumerate(part.axes):
                for j, axis in enumerate(dim):
                    if axis.kind not in kinds:
                        continue
                    wrong = [Axis(f"{axis.kind}.wrong", axis.dual)] + ([Axis(axis.name, False)] if axis.dual else [])
                    for other in wrong:
                        axes = list(part.axes)
                        axes[i] = (*dim[:j], other, *dim[j + 1 :])
                        parts = (*slot.parts[:p], replace(part, axes=tuple(axes)), *slot.parts[p + 1 :])
                        slots = (*layout.slots[:s], replace(slot, parts=parts), *layout.slots[s + 1 :])
                        sizes = (*layout.sizes, (f"{axis.kind}.wrong", dict(layout.sizes)[axis.name]))
                        yield f"{slot.name}[{p}] {axis} -> {other}", replace(layout, slots=slots, sizes=sizes)


def missed(name: str, every: int) -> list[str]:
    """The mistakes in a table, of every so many, that leave outputs as they are."""
    model, heads, inputs = build(name)
    layout = layout_of(model, heads=heads)
    weights = stack([model.state_dict()] * 6)  # of two heads, half of the permutations change nothing
    expected = outputs(model, weights, inputs)
    found = list(mistakes(layout))
    drops = [pair for pair in found if "wrong" not in pair[0].partition("->")[2]]
    assert bool(drops) == any(not feature.startswith("sign.") for feature in layout.owners)  # a sign is its own dual
    kept = []
    for what, wrong in {*drops[::every], *found[::every]}:
        element = sample(
            wrong, 6, torch.Generator().manual_seed(1), moves=(*PERMUTED, *MAPPED), maps="general", dtype=torch.float64
        )
        error = (outputs(model, apply(element, weights, wrong), inputs) - expected).norm() / expected.norm()
        kept += [what] if error <= 1e-6 else []
    return kept


@pytest.mark.parametrize("name", [name for name in MODELS if name != "no head"])
def test_a_table_with_one_mistake_does_not_keep_the_function(name: str) -> None:
    assert missed(name, every=13) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "no head"])
def test_no_single_mistake_in_a_table_keeps_the_function(name: str) -> None:
    assert missed(name, every=1) == []


def test_each_checkpoint_of_a_stack_has_its_own_element_and_a_seed_repeats_it() -> None:
    weights, layout = prepared("plain")
    one, again = (view(weights, layout, MOVES) for _ in range(2))
    assert change(one, again) == 0
    assert change({name: tensor[:1] for name, tensor in one.items()}, {name: tensor[1:] for name, tensor in one.items()}) > 0.1


def test_heads_are_asked_for_where_they_matter() -> None:
    model, _, _ = build("plain")
    layout = layout_of(model.state_dict())
    with pytest.raises(InputError, match="heads="):
        view(stack([model.state_dict()]), layout, MOVES)
    view(stack([model.state_dict()]), layout, ("resid", "mlp", *NULLS))
    with pytest.raises(InputError, match="unknown moves"):
        view(stack([model.state_dict()]), layout, ("nonsense",))
    with pytest.raises(InputError, match="unknown maps"):
        view(stack([model.state_dict()]), layout, MOVES, maps="nonsense")
