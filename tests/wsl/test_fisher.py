"""Second moments of gradients turn with the weights' symmetries, and are sums over the outputs."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from tests.architectures import MODELS, build, small
from wsl.layout import layout_of
from wsl.layout.slots import Axis, Layout, Part, Slot
from wsl.symmetry.canonical import standardize
from wsl.symmetry.fisher import moments
from wsl.symmetry.group import MAPPED, PERMUTED, Maps, sample, transform
from wsl.symmetry.rotations import folded_layout
from wsl.symmetry.stacks import stack
from zoo_gen.errors import InputError

Moments = Mapping[str, list[list[Tensor]]]
COMPACT = (*PERMUTED, *MAPPED, "rotation")
MODELS_WITH_OUTPUTS = [name for name in MODELS if name != "no head"]
CONVOLUTIONS = ("cnn", "resnet")


def prepared(name: str) -> tuple[dict[str, Tensor], Layout, list[Slot], nn.Module, Tensor]:
    """A model in standard form, and its tensors that some symmetry moves; scales of folded norms are ones that nothing moves."""
    model, heads, inputs = build(name)
    layout = layout_of(model, heads=heads)
    folded = {name for rule in layout.rules if rule.verb in ("norm", "scale") for name in (rule.source, f"{rule.source}.weight")}
    slots = [slot for slot in layout.slots if slot.name not in folded and any(map(has_symmetry, axes_of(slot)))]
    return standardize(stack([model.state_dict()]), layout), folded_layout(layout), slots, model, inputs


def axes_of(slot: Slot) -> list[tuple[Axis, ...]]:
    return [dim for part in slot.parts for dim in part.axes]


def has_symmetry(dim: tuple[Axis, ...]) -> bool:
    return any(axis.kind in (*PERMUTED, *MAPPED) for axis in dim)


def measured(weights: Mapping[str, Tensor], slots: list[Slot], model: nn.Module, inputs: Tensor) -> Moments:
    return moments({name: tensor[0] for name, tensor in weights.items()}, slots, model, inputs)


def elements(layout: Layout, moves: tuple[str, ...], maps: str) -> Maps:
    element = sample(layout, 1, torch.Generator().manual_seed(1), moves=moves, maps=maps, dtype=torch.float64)
    return element.maps | element.rotations


def turned(found: Moments, slots: list[Slot], maps: Maps, layout: Layout) -> Moments:
    """Turns each moment M (n, n) of a dimension into g M g^T; diagonals of dimensions without symmetry stay."""
    return {
        slot.name: [
            [turn(moment, dim, maps, layout) if moment.ndim > 1 else moment for moment, dim in zip(piece, part.axes, strict=True)]
            for piece, part in zip(found[slot.name], slot.parts, strict=True)
        ]
        for slot in slots
    }


def turn(moment: Tensor, dim: tuple[Axis, ...], maps: Maps, layout: Layout) -> Tensor:
    part = Part("vectors", 0, len(moment), (dim, (Axis("free", False),)))
    one = Layout("moment", 0, (Slot("moment", tuple(moment.shape), "moment", (part,)),), layout.sizes)
    for _ in range(2):  # g (g M)^T, where M is symmetric
        moment = transform({"moment": moment.unsqueeze(0)}, maps, one)["moment"][0].mT
    return moment


def apart(a: Moments, b: Moments) -> float:
    """Relative distance of all moments."""
    pairs = [(x, y) for name in b for one, other in zip(a[name], b[name], strict=True) for x, y in zip(one, other, strict=True)]
    squares = [sum(tensor.square().sum() for tensor in tensors) for tensors in ([x - y for x, y in pairs], [y for _, y in pairs])]
    return float(torch.as_tensor(squares[0] / squares[1]).sqrt())


@pytest.mark.parametrize("name", MODELS_WITH_OUTPUTS)
def test_moments_turn_with_permutations_and_orthogonal_maps_of_the_weights(name: str) -> None:
    weights, layout, slots, model, inputs = prepared(name)
    before = measured(weights, slots, model, inputs)
    turning = {move: maps for move in COMPACT if (maps := elements(layout, (move,), "orthogonal"))}
    assert turning.keys() >= ({"mlp"} if layout.family in CONVOLUTIONS else {"resid", "head", "vo"})
    for move, maps in turning.items():
        after = measured(transform(weights, maps, layout), slots, model, inputs)
        assert apart(after, turned(before, slots, maps, layout)) < 1e-9, move
        assert apart(after, before) > 1e-4, move


@pytest.mark.parametrize("name", [name for name in MODELS_WITH_OUTPUTS if not {"CNN", "ResNet"} & set(name.split())])
def test_moments_turn_with_no_map_that_changes_distances(name: str) -> None:
    weights, layout, slots, model, inputs = prepared(name)
    maps = elements(layout, ("vo",), "general")
    before = measured(weights, slots, model, inputs)
    after = measured(transform(weights, maps, layout), slots, model, inputs)
    assert apart(after, turned(before, slots, maps, layout)) > 1e-2


def test_moments_are_sums_over_the_gradients_of_all_outputs() -> None:
    model = small(num_classes=1).double().eval()
    name = "blocks.0.attn.proj.weight"
    slots = [slot for slot in layout_of(model).slots if slot.name == name]
    images = torch.randn(5, 1, 8, 8, dtype=torch.float64)
    gradients = [torch.autograd.grad(model(x).sum(), model.get_parameter(name))[0] for x in images.split(1)]
    rows, columns = moments(model.state_dict(), slots, model, images)[name][0]
    torch.testing.assert_close(rows, sum((g @ g.mT for g in gradients), torch.zeros(())))
    torch.testing.assert_close(columns, sum((g.mT @ g for g in gradients), torch.zeros(())))
    assert not torch.allclose(rows, moments(model.state_dict(), slots, model, images[:4])[name][0][0])


def test_a_neuron_that_no_output_depends_on_has_no_moment() -> None:
    weights, _, slots, model, inputs = prepared("plain")
    weights["blocks.0.mlp.fc2.weight"][:, :, 3] = 0
    rows = measured(weights, slots, model, inputs)["blocks.0.mlp.fc1.weight"][0][0].diagonal()
    assert (rows == 0).nonzero().flatten().tolist() == [3]


def test_a_model_without_one_tensor_of_outputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, _, slots, model, inputs = prepared("plain")
    monkeypatch.setattr(model, "forward", lambda x: (x, x))
    with pytest.raises(InputError, match="returns a tuple"):
        measured(weights, slots, model, inputs)
