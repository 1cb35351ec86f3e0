"""FisherBasis weights move with the weights, count what outputs feel, and align copies."""

import pytest
import torch
from torch import Tensor, nn

from tests.architectures import MODELS, build, outputs
from wsl.layout import layout_of
from wsl.layout.slots import Layout
from wsl.symmetry import fisher as module
from wsl.symmetry.alignment import align_by_felt
from wsl.symmetry.canonical import standardize
from wsl.symmetry.fisher import felt
from wsl.symmetry.group import MAPPED, MOVES, PERMUTED, axes_of, random_view, sample, transform
from wsl.symmetry.null_directions import stack
from zoo_gen.errors import InputError

COMPACT = (*PERMUTED, *MAPPED)


def size(weights: dict[str, Tensor]) -> Tensor:
    return torch.stack([tensor.square().sum() for tensor in weights.values()]).sum().sqrt()


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
    return size({name: a[name] - b[name] for name in b}) / size(b)


def prepared(name: str) -> tuple[dict[str, Tensor], Layout, nn.Module, Tensor]:
    model, heads, inputs = build(name)
    return stack([model.state_dict()]), layout_of(model, heads=heads), model, inputs


@pytest.mark.parametrize("name", [name for name in MODELS if name != "no head"])
def test_what_is_felt_moves_with_the_weights(name: str) -> None:
    weights, layout, model, inputs = prepared(name)
    weights = standardize(weights, layout)
    found = felt(weights, layout, model, inputs)
    for moves in ((move,) for move in (*COMPACT, "rotation")):
        element = sample(layout, 1, torch.Generator().manual_seed(1), moves=moves, maps="orthogonal", dtype=torch.float64)
        maps = element.maps | element.rotations
        moved = felt(transform(weights, maps, layout), layout, model, inputs)
        assert apart(moved, transform(found, maps, layout)) < 1e-6, moves
    changing = "vo" if axes_of(layout, ("vo",)) else "mlp"
    general = sample(layout, 1, torch.Generator().manual_seed(1), moves=(changing,), maps="general", dtype=torch.float64).maps
    moved = felt(transform(weights, general, layout), layout, model, inputs)
    assert changing == "mlp" or apart(moved, transform(found, general, layout)) > 1e-2  # a map that keeps no distances


def test_what_outputs_do_not_feel_hardly_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, layout, model, inputs = prepared("plain")
    weights["blocks.0.mlp.fc2.weight"][:, :, 3] = 0
    for damping, most in ((0.0, 1e-3), (module.DAMPING, 0.2)):
        monkeypatch.setattr(module, "DAMPING", damping)
        rows = felt(weights, layout, model, inputs)["blocks.0.mlp.fc1.weight"][0].norm(dim=1)
        others = rows[torch.arange(len(rows)) != 3]
        assert rows[3] < most * others.median()
        assert others.min() > most * others.median()


def test_without_power_weights_are_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, layout, model, inputs = prepared("plain")
    name = "blocks.0.attn.qkv.weight"
    monkeypatch.setattr(module, "POWER", 0.0)
    torch.testing.assert_close(felt(weights, layout, model, inputs)[name], weights[name])
    monkeypatch.setattr(module, "POWER", 0.5)
    assert not torch.allclose(felt(weights, layout, model, inputs)[name], weights[name])


@pytest.mark.parametrize("name", ["plain", "layer scale", "MLP head", "Hugging Face ViT", "BERT"])
def test_a_copy_is_aligned_to_itself_and_keeps_its_function(name: str) -> None:
    weights, layout, model, inputs = prepared(name)
    for moves in (COMPACT, MOVES):
        copy = random_view(weights, layout, torch.Generator().manual_seed(1), moves=moves, maps="orthogonal", strength=0.3)
        assert apart(copy, weights) > 0.1
        found = align_by_felt(copy, layout, to=weights, moves=moves, model=model, inputs=inputs)
        assert apart(found.weights, weights) < 1e-5, moves
    other = {name: tensor + 0.1 * torch.randn(tensor.shape, dtype=tensor.dtype) for name, tensor in weights.items()}
    found = align_by_felt(other, layout, to=weights, moves=MOVES, model=model, inputs=inputs)
    expected = outputs(model, other, inputs)
    assert (outputs(model, found.weights, inputs) - expected).norm() < 1e-9 * expected.norm()
    assert apart(found.weights, weights) > 1e-3


def test_a_model_without_one_tensor_of_outputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, layout, model, inputs = prepared("plain")
    monkeypatch.setattr(model, "forward", lambda x: (x, x))
    with pytest.raises(InputError, match="returns a tuple"):
        felt(weights, layout, model, inputs)
