"""The canonical form is one for all copies of a model, a model of the same function, and its own canonical form."""

import pytest
import torch
from torch import Tensor, nn

from tests.architectures import MODELS, build, outputs
from wsl.layout import layout_of
from wsl.layout.slots import Layout
from wsl.symmetry.canonical import canonicalize
from wsl.symmetry.group import MOVES, apply, random_view, sample
from wsl.symmetry.stacks import stack
from zoo_gen import Zoo
from zoo_gen.errors import InputError


def relative(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    square = [
        torch.stack([w[name].reshape(len(w[name]), -1).square().sum(1) for name in b]).sum(0)
        for w in ({n: a[n] - b[n] for n in b}, b)
    ]
    return (square[0] / square[1]).sqrt().max().item()


def loaded(name: str) -> tuple[nn.Module, dict[str, Tensor], Layout, Tensor]:
    model, heads, inputs = build(name)
    return model, stack([model.state_dict()] * 3), layout_of(model, heads=heads), inputs


def moved(weights: dict[str, Tensor], layout: Layout, seed: int = 1) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return random_view(weights, layout, generator, moves=MOVES, maps="general", strength=0.3)


@pytest.mark.parametrize("name", MODELS)
def test_the_canonical_form_forgets_symmetries_and_nothing_else(name: str) -> None:
    model, weights, layout, inputs = loaded(name)
    form = canonicalize(weights, layout)
    assert relative(canonicalize(moved(weights, layout), layout), form) < 1e-9
    assert relative(canonicalize(form, layout), form) < 1e-9
    if name != "no head":
        expected = outputs(model, weights, inputs)
        assert (outputs(model, form, inputs) - expected).norm() < 1e-10 * expected.norm()
    noisy = {name: tensor + 1e-3 * torch.randn_like(tensor) for name, tensor in weights.items()}
    assert relative(canonicalize(noisy, layout), form) > 1e-4


def test_float32_weights_are_computed_in_float64() -> None:
    _, weights, layout, _ = loaded("plain")
    single = {name: tensor.float() for name, tensor in weights.items()}
    form = canonicalize(single, layout)
    assert {tensor.dtype for tensor in form.values()} == {torch.float64}
    assert relative(canonicalize({name: tensor.double() for name, tensor in single.items()}, layout), form) == 0


def test_a_wrong_table_has_no_canonical_form() -> None:
    """The negative control: moved by a map that is no symmetry, a model has another form."""
    _, weights, layout, _ = loaded("plain")
    wrong = moved(weights, layout) | {"pos_embed": weights["pos_embed"]}
    assert relative(canonicalize(wrong, layout), canonicalize(weights, layout)) > 1e-3


def test_dead_and_duplicate_neurons_and_equal_singular_values_do_not_disturb_it() -> None:
    model, weights, layout, inputs = loaded("plain")
    for name in ("mlp.fc1.weight", "mlp.fc1.bias"):
        weights[f"blocks.0.{name}"][:, :5] = 0  # dead
        weights[f"blocks.0.{name}"][:, 5] = weights[f"blocks.0.{name}"][:, 6]  # duplicates
    weights["blocks.0.mlp.fc2.weight"][..., :5] = 0
    weights["blocks.0.mlp.fc2.weight"][..., 5] = weights["blocks.0.mlp.fc2.weight"][..., 6]
    frame = torch.linalg.qr(torch.randn(15, 8, dtype=torch.float64)).Q.T
    centred = torch.cat([frame, -frame.sum(1, keepdim=True)], dim=1)
    centred = torch.linalg.qr(centred.T - centred.T.mean(0)).Q.T
    weights["blocks.1.norm1.weight"][:] = 1
    for start in (0, 16):  # queries and keys of the first head: all singular values are equal
        weights["blocks.1.attn.qkv.weight"][:, start : start + 4] = centred[start // 4 : start // 4 + 4]
        weights["blocks.1.attn.qkv.bias"][:, start : start + 4] = 0
        weights["blocks.1.norm1.bias"][:] = 0
    weights["blocks.1.attn.qkv.weight"][:, 8:12] = 0  # a head whose queries are dead
    weights["blocks.1.attn.qkv.bias"][:, 8:12] = 0
    form = canonicalize(weights, layout)
    copy = canonicalize(moved(weights, layout), layout)
    assert relative(copy, form) < 1e-7  # the root of the round-off of a singular value of 0
    assert relative(canonicalize(form, layout), form) < 1e-7
    expected = outputs(model, weights, inputs)
    assert (outputs(model, form, inputs) - expected).norm() < 1e-10 * expected.norm()


def test_diverged_weights_are_refused() -> None:
    _, weights, layout, _ = loaded("plain")
    weights["cls_token"][0] = float("nan")
    with pytest.raises(InputError, match="cls_token"):
        canonicalize(weights, layout)


def test_checkpoints_of_a_zoo_have_one_canonical_form(tiny_zoo) -> None:
    chosen = list(Zoo.open(tiny_zoo).select(final=True, status="ok", head="linear"))[::9]
    weights = {name: tensor.double() for name, tensor in stack([one.state_dict() for one in chosen]).items()}
    layout = layout_of(chosen[0].build())
    form = canonicalize(weights, layout)
    for seed in range(3):
        assert relative(canonicalize(moved(weights, layout, seed), layout), form) < 1e-6


def test_no_rotation_is_applied_without_folding() -> None:
    model, weights, layout, inputs = loaded("plain")
    element = sample(layout, 3, torch.Generator().manual_seed(0), moves=("rotation",), maps="general", dtype=torch.float64)
    expected = outputs(model, weights, inputs)
    assert (outputs(model, apply(element, weights, layout), inputs) - expected).norm() < 1e-10 * expected.norm()
