"""Symmetries made by hand, one by one: each keeps the function and has distance 0; its broken twin does neither."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.layers.mlp import GluMlp, SwiGLU
from timm.models.vision_transformer import ParallelScalingBlock
from torch import Tensor, nn

from tests.architectures import MODELS, GateFirst, build, outputs, small
from wsl.layout import architectures, layout_of
from wsl.layout.axis_table import parse
from wsl.symmetry.alignment import align, distance
from wsl.symmetry.canonical import canonicalize
from wsl.symmetry.group import MOVES, random_view, transform
from wsl.symmetry.null_directions import fold
from wsl.symmetry.stacks import stack
from wsl.symmetry.weight_matching import match
from zoo_gen.errors import InputError

Weights = dict[str, Tensor]
Move = Callable[[Weights], None]
"""A change of a state dict in place."""


def factor(values: str, rows: slice, *, back: bool = True) -> Move:
    """A factor of each value of a gated MLP, which the next layer takes back."""

    def move(w: Weights) -> None:
        s = torch.linspace(0.5, 2, len(w[f"blocks.1.mlp.{values}.bias"][rows])).double()
        s[::3] *= -1
        for kind in ("weight", "bias"):
            w[f"blocks.1.mlp.{values}.{kind}"][rows] *= s.view(-1, *[1] * (kind == "weight"))
        w["blocks.1.mlp.fc2.weight"] *= 1 / s if back else s.abs()

    return move


ALL = slice(None)
FIRST, SECOND = slice(0, 32), slice(32, 64)


def mean_of(part: int, *, of: str = "attn.qkv", start: int = 0, evenly: bool = True) -> Move:
    """Another mean over the features of a head's queries (part 0) or keys (part 1)."""

    def move(w: Weights) -> None:
        rows = slice(start + 16 * part + 4, start + 16 * part + (8 if evenly else 7))
        w[f"blocks.1.{of}.weight"][rows] += torch.linspace(-1, 1, 16).double()
        w[f"blocks.1.{of}.bias"][rows] += 0.7

    return move


def permute_dims(*, keys: bool = True) -> Move:
    """The features of all heads in another order, in queries and keys alike."""

    def move(w: Weights) -> None:
        order = torch.tensor([2, 0, 3, 1])
        for kind in ("weight", "bias"):
            rows = w[f"blocks.1.attn.qkv.{kind}"][: 32 if keys else 16]
            rows.copy_(rows.unflatten(0, (-1, 4))[:, order].flatten(0, 1).clone())
            for name in ("q_norm", "k_norm")[: 1 + keys]:
                w[f"blocks.1.attn.{name}.{kind}"] = w[f"blocks.1.attn.{name}.{kind}"][order].clone()

    return move


def exchange(*, back: bool = True) -> Move:
    """A factor of each normed feature, from queries to keys."""

    def move(w: Weights) -> None:
        s = torch.tensor([2.0, -0.5, 3.0, -1.0]).double()
        for kind in ("weight", "bias"):
            w[f"blocks.1.attn.q_norm.{kind}"] *= s
            w[f"blocks.1.attn.k_norm.{kind}"] *= 1 / s if back else s

    return move


def swap_registers(*, with_class: bool = False) -> Move:
    def move(w: Weights) -> None:
        w["reg_token"] = w["reg_token"][:, [2, 0, 1]].clone()
        if with_class:
            w["reg_token"][:, 0], w["cls_token"][:, 0] = w["cls_token"][:, 0].clone(), w["reg_token"][:, 0].clone()

    return move


def exchange_biases(*, back: bool = True) -> Move:
    def move(w: Weights) -> None:
        change = torch.tensor([1.0, -2.0, 0.5]).double()
        w["head.bias"] += change
        w["head_dist.bias"] -= change if back else 2 * change

    return move


def latent(*, back: bool = True) -> Move:
    """A scale of the latent, and any other change of it and its layer that keeps their product with the bias."""

    def move(w: Weights) -> None:
        before = w["attn_pool.q.weight"] @ w["attn_pool.latent"].flatten() + w["attn_pool.q.bias"]
        w["attn_pool.latent"] *= -3
        w["attn_pool.latent"][..., 0] += 1
        w["attn_pool.q.weight"] /= -2
        if back:
            w["attn_pool.q.bias"].copy_(before - w["attn_pool.q.weight"] @ w["attn_pool.latent"].flatten())

    return move


def mean_of_stream(*, evenly: bool = True) -> Move:
    def move(w: Weights) -> None:
        w["cls_token"][..., 0 if evenly else 1 :] += 0.8
        w["blocks.0.mlp.fc2.weight"][0 if evenly else 1 :] += torch.linspace(-1, 1, 64).double()
        name, scale = "blocks.0.mlp.fc1.weight", w["blocks.0.norm2.weight"]
        w[name] += torch.linspace(-1, 1, 64).double()[:, None] / (scale if evenly else 1)  # read off a vector of mean zero

    return move


def channel(number: int, factor: float, writes: list[str], reads: list[str]) -> Move:
    """A factor of one channel in all tensors that write it, which those that read it take back."""

    def move(w: Weights) -> None:
        for name in writes:
            w[name][number] *= factor
        for name in reads:
            w[name][:, number] /= factor

    return move


def through_flatten(factor: float, places: int) -> Move:
    """A factor of the last channel before a flatten; the linear layer reads it at four places."""

    def move(w: Weights) -> None:
        w["3.weight"][4] *= factor
        w["3.bias"][4] *= factor
        w["6.weight"][:, 20 - places :] /= factor

    return move


def batch_norm(conv: str, norm: str, *, epsilon: float = 1e-5, mean: bool = True) -> Move:
    """Another scale and shift of a layer before a batch norm, which its running statistics take back."""

    def move(w: Weights) -> None:
        s = torch.linspace(0.5, 2, len(w[f"{norm}.weight"])).double()
        s[::3] *= -1
        w[f"{conv}.weight"] *= s.view(-1, 1, 1, 1)
        w[f"{norm}.weight"] *= s.sign()
        if f"{conv}.bias" in w:
            w[f"{conv}.bias"].mul_(s).add_(0.7)
            w[f"{norm}.running_mean"].mul_(s).add_(0.7 * mean)
        elif mean:
            w[f"{norm}.running_mean"].mul_(s)
        w[f"{norm}.running_var"].add_(epsilon).mul_(s.square()).sub_(epsilon)

    return move


def of_shortcut(*, back: bool = True) -> Move:
    def move(w: Weights) -> None:
        change = torch.linspace(-1, 1, 8).double()
        w["layer1.0.downsample.1.bias"] += change
        w["layer1.0.bn2.bias"] -= change if back else 2 * change

    return move


def permuted_stream(*, second: bool = True) -> Move:
    """The channels of the first stage in another order, in all blocks."""

    def move(w: Weights) -> None:
        order = torch.tensor([3, 0, 1, 2, 7, 6, 4, 5])
        for name in (
            "layer1.0.conv2",
            "layer1.0.bn2",
            "layer1.0.downsample.0",
            "layer1.0.downsample.1",
            "layer1.1.conv2",
            "layer1.1.bn2",
        ):
            if second or "layer1.1" not in name:
                for key in (key for key in w if key.startswith(f"{name}.") and w[key].ndim):
                    w[key] = w[key][order].clone()
        for name in ("layer1.1.conv1", "layer2.0.conv1", "layer2.0.downsample.0"):
            w[f"{name}.weight"] = w[f"{name}.weight"][:, order].clone()

    return move


_READS = ["layer1.1.conv1.weight", "layer2.0.conv1.weight", "layer2.0.downsample.0.weight"]


def stream(factor: float, *, all_blocks: bool = True) -> Move:
    """A positive factor of a channel of a stream: of the scales and shifts of all norms that write it."""
    norms = ("layer1.0.bn2", "layer1.0.downsample.1", "layer1.1.bn2")[: 2 + all_blocks]
    return channel(2, factor, [f"{norm}.{kind}" for norm in norms for kind in ("weight", "bias")], _READS)


@dataclass
class Law:
    """A model, a move that keeps its function, and one that does not."""

    model: Callable[[], nn.Module]
    move: Move
    broken: Move


normed = partial(small, qk_norm=True)
LAWS = {
    "factors of the values of SwiGLU": Law(
        partial(small, mlp_layer=SwiGLU), factor("fc1_x", ALL), factor("fc1_x", ALL, back=False)
    ),
    "factors of the gates of SwiGLU are none": Law(partial(small, mlp_layer=SwiGLU), factor("fc1_x", ALL), factor("fc1_g", ALL)),
    "factors of the values of GLU": Law(partial(small, mlp_layer=GluMlp), factor("fc1", FIRST), factor("fc1", SECOND)),
    "factors of the values of packed SwiGLU": Law(partial(small, mlp_layer=GateFirst), factor("fc1", SECOND), factor("fc1", FIRST)),
    "mean of normed queries": Law(normed, mean_of(0), mean_of(0, evenly=False)),
    "mean of normed keys": Law(normed, mean_of(1), mean_of(1, evenly=False)),
    "mean of values is none": Law(normed, mean_of(0), mean_of(2)),
    "mean of normed queries in one projection": Law(
        partial(small, qk_norm=True, block_fn=ParallelScalingBlock),
        mean_of(0, of="in_proj", start=64),
        mean_of(0, of="in_proj", start=64, evenly=False),
    ),
    "mean of queries under a layer norm without shift": Law(
        partial(normed, norm_layer=partial(nn.LayerNorm, bias=False)), mean_of(0), mean_of(0, evenly=False)
    ),
    "permutation of normed features": Law(normed, permute_dims(), permute_dims(keys=False)),
    "exchange of scale of queries and keys": Law(normed, exchange(), exchange(back=False)),
    "registers": Law(partial(small, reg_tokens=3, no_embed_class=True), swap_registers(), swap_registers(with_class=True)),
    "biases of distilled heads": Law(MODELS["distilled"], exchange_biases(), exchange_biases(back=False)),
    "latent of attention pooling": Law(MODELS["attention pooling"], latent(), latent(back=False)),
    "a positive factor of a channel before ReLU": Law(
        MODELS["CNN"], channel(1, 3, ["0.weight", "0.bias"], ["3.weight"]), channel(1, -3, ["0.weight", "0.bias"], ["3.weight"])
    ),
    "a sign of a channel before tanh and a flatten": Law(MODELS["CNN of tanh"], through_flatten(-1, 4), through_flatten(-1, 3)),
    "a sign of a channel before a maximum is none": Law(
        MODELS["CNN of tanh"],
        channel(1, -1, ["6.weight", "6.bias"], ["9.weight"]),
        channel(1, -1, ["0.weight", "0.bias"], ["3.weight"]),
    ),
    "a factor of a neuron needs its bias": Law(
        MODELS["CNN"], channel(1, 3, ["6.weight", "6.bias"], ["9.weight"]), channel(1, 3, ["6.weight"], ["9.weight"])
    ),
    "a factor of a channel before a flatten": Law(MODELS["CNN"], through_flatten(3, 4), through_flatten(3, 3)),
    "a factor of a channel behind a batch norm": Law(
        MODELS["CNN with batch norms"],
        channel(1, 3, ["1.weight", "1.bias"], ["4.weight"]),
        channel(1, 3, ["1.weight"], ["4.weight"]),
    ),
    "scale and shift of a layer before a batch norm": Law(
        MODELS["CNN with batch norms of tanh"], batch_norm("0", "1"), batch_norm("0", "1", mean=False)
    ),
    "the epsilon of a batch norm counts": Law(
        MODELS["CNN with batch norms of tanh"], batch_norm("4", "5"), batch_norm("4", "5", epsilon=0.02)
    ),
    "scale of a convolution of a ResNet": Law(
        MODELS["ResNet of GELU"], batch_norm("layer2.1.conv1", "layer2.1.bn1"), batch_norm("conv1", "bn1", mean=False)
    ),
    "biases of a block and its shortcut": Law(MODELS["ResNet of GELU"], of_shortcut(), of_shortcut(back=False)),
    "channels of a stream of a ResNet": Law(MODELS["ResNet"], permuted_stream(), permuted_stream(second=False)),
    "a positive factor of a stream of a ResNet": Law(MODELS["ResNet"], stream(3), stream(3, all_blocks=False)),
    "means under layer norms without shift": Law(
        partial(small, norm_layer=partial(nn.LayerNorm, bias=False)), mean_of_stream(), mean_of_stream(evenly=False)
    ),
}


def made(model: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    built = model().double().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for module in built.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
    return built


def moved_by(move: Move, model: nn.Module) -> Weights:
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    move(weights)
    return stack([weights])


@pytest.mark.parametrize(("name", "other"), [("CNN", "CNN of tanh"), ("ResNet", "ResNet of GELU")])
def test_a_positive_factor_is_no_symmetry_of_other_activations(name: str, other: str) -> None:
    move = channel(1, 3, ["0.weight", "0.bias"], ["3.weight"]) if "CNN" in name else stream(3)
    for one, still in ((name, True), (other, False)):
        model = made(MODELS[one])
        weights, copy = stack([model.state_dict()]), moved_by(move, model)
        assert (apart(model, copy, weights) < 1e-10) == still, one
        assert (float(distance(copy, weights, layout_of(model))) < 1e-9 * size(weights)) == still, one


def test_a_state_dict_of_convolutions_has_fewer_symmetries_than_its_model() -> None:
    """It tells neither activations, nor the order of norms and activations, nor the epsilon of norms."""
    for name, verbs, left in (
        ("CNN with batch norms", {"batch", "positive"}, set()),
        ("ResNet", {"batch", "positive", "sum"}, {"batch", "sum"}),
    ):
        model = made(MODELS[name])
        assert {rule.verb for rule in layout_of(model).rules} == verbs
        layout, weights = layout_of(model.state_dict()), stack([model.state_dict()])
        assert {rule.verb for rule in layout.rules} == left
        copy = random_view(weights, layout, torch.Generator().manual_seed(1), moves=MOVES, maps="general", strength=0.3)
        assert apart(model, copy, weights) < 1e-10
        assert float(distance(copy, weights, layout)) < 1e-9 * size(weights)


def test_a_counter_of_batches_is_no_obstacle() -> None:
    """It is an integer without any axis."""
    model = MODELS["ResNet"]().eval()
    layout, weights = layout_of(model), stack([model.state_dict()] * 2)
    assert weights["bn1.num_batches_tracked"].dtype == torch.int64
    copy = random_view(weights, layout, torch.Generator().manual_seed(1), moves=MOVES, maps="general", strength=0.3)
    assert (distance(copy, weights, layout) < 1e-3).all()


def test_norms_of_batches_of_a_model_are_of_its_classes() -> None:
    with pytest.raises(InputError, match="is a InstanceNorm2d"):
        layout_of(nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)))


def apart(model: nn.Module, other: Weights, weights: Weights) -> float:
    """How far outputs are from those of the weights, relative to these."""
    channels = next(module for module in model.modules() if isinstance(module, nn.Conv2d)).in_channels
    inputs = torch.randn(3, channels, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = outputs(model, weights, inputs)
    return float((outputs(model, other, inputs) - expected).norm() / expected.norm())


def size(weights: Weights) -> float:
    return float(sum((tensor.square().sum() for tensor in weights.values()), torch.zeros(())).sqrt())


@pytest.mark.parametrize("name", LAWS)
def test_a_symmetry_keeps_the_function_and_has_distance_zero_and_its_broken_twin_does_neither(name: str) -> None:
    law = LAWS[name]
    model = made(law.model)
    layout, weights = layout_of(model), stack([model.state_dict()])
    copy, broken = moved_by(law.move, model), moved_by(law.broken, model)
    assert size({n: copy[n] - weights[n] for n in copy}) > 0.1
    assert apart(model, copy, weights) < 1e-10
    assert float(distance(copy, weights, layout)) < 1e-9 * size(weights)
    assert apart(model, broken, weights) > 1e-4
    assert float(distance(broken, weights, layout)) > 1e-3


@pytest.mark.parametrize("weighted", [True, False])
def test_every_rotation_is_a_symmetry_under_rms_norms_and_not_under_layer_norms(weighted: bool) -> None:
    turn = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    kept = {}
    for norm in (nn.RMSNorm, nn.LayerNorm):
        form: dict[str, Any] = {"elementwise_affine": weighted} | ({"bias": False} if norm is nn.LayerNorm else {})
        model = made(partial(small, norm_layer=partial(norm, **form)))
        layout, weights = layout_of(model), stack([model.state_dict()])
        copy, _ = fold(weights, layout)
        for slot in layout.slots:
            scale = ".norm" in f".{slot.name}"
            for i, dim in enumerate(slot.parts[0].axes, 1):
                if not scale and dim[0].name == "resid":
                    copy[slot.name] = (copy[slot.name].movedim(i, -1) @ turn.T).movedim(-1, i)
        kept[norm] = apart(model, copy, weights), float(distance(copy, weights, layout)) / size(weights)
    assert max(kept[nn.RMSNorm]) < 1e-9
    assert min(kept[nn.LayerNorm]) > 1e-2


def test_what_only_a_model_tells_is_no_symmetry_of_its_state_dict() -> None:
    """A state dict may be of a model without the symmetry, so no map of it is taken."""
    told = {
        "packed gated MLP": ("factor",),
        "registers without positions": ("register",),
        "layer norms without shift": ("mean",),
    }
    for name, moves in told.items():
        model, heads, _ = build(name)
        weights = stack([model.state_dict()])
        for source, still in ((model, False), (model.state_dict(), True)):
            layout = layout_of(source, heads=heads)
            view = random_view(weights, layout, torch.Generator().manual_seed(1), moves=moves, maps="general", strength=0.3)
            assert all(torch.allclose(view[n], weights[n], rtol=0, atol=1e-12) for n in view) == still, name
    model, heads, _ = build("RMS norms")
    ones = torch.ones(16, dtype=torch.float64)
    for source, fixed in ((model, False), (model.state_dict(), True)):
        layout = layout_of(source, heads=heads)
        weights = fold(stack([model.state_dict()]), layout)[0]
        view = random_view(weights, layout, torch.Generator().manual_seed(1), moves=("rotation",), maps="general", strength=0.3)
        assert torch.allclose(view["pos_embed"] @ ones, weights["pos_embed"] @ ones, atol=1e-10) == fixed


def build_small(norm: Any, setting: str) -> nn.Module:
    settings: dict[str, Any] = {setting: True}
    return small(norm_layer=norm, **settings)


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm])
@pytest.mark.parametrize(("setting", "name"), [("qk_norm", "q_norm"), ("scale_mlp_norm", "mlp.norm")])
def test_a_norm_that_no_tensor_tells_of_is_refused(norm: type[nn.Module], setting: str, name: str) -> None:
    plain = partial(norm, elementwise_affine=False)
    with pytest.raises(InputError, match=rf"blocks\.0\.\S*{name} is a norm without weights"):
        layout_of(build_small(plain, setting))
    assert layout_of(small(norm_layer=plain)).family == "vit"
    assert layout_of(build_small(norm, setting)).family == "vit"


class Sine(nn.Module):
    """A chain of layers of sines, whose neurons may change sign."""

    def __init__(self, *, depth: int = 3, width: int = 8, inputs: int = 3, outputs: int = 2):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width if i else inputs, width) for i in range(depth))
        self.end = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).sin()
        return self.end(x)


def chain(depth: int, *, feature: str) -> str:
    """A table of a chain of layers: each reads the neurons of the layer before it."""
    axes = ["channel", *(f"(mlp.{i} {feature}.{i})" if feature else f"mlp.{i}" for i in range(depth))]
    rows = [f"layers.{i}.weight  fc1: {axes[i + 1]} {axes[i]}\n layers.{i}.bias  vectors: {axes[i + 1]}" for i in range(depth)]
    return "\n".join([*rows, f"end.weight  head: class {axes[-1]}\n end.bias  head: class"])


@pytest.fixture
def with_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a table beside those there are."""

    def put(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(f"TABLES = ('''{text}''',)")
        monkeypatch.setattr(architectures, "__path__", [str(tmp_path)])

    yield put
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(f"{architectures.__name__}.{path.stem}", None)


def test_signs_of_sine_neurons_are_a_symmetry(with_table) -> None:
    with_table("sines", chain(3, feature="sign"))
    torch.manual_seed(0)
    model = Sine().double()
    layout, weights = layout_of(model), stack([model.state_dict()] * 4)
    inputs = torch.randn(5, 3, dtype=torch.float64)
    expected = outputs(model, weights, inputs)
    for moves in (("sign",), ("mlp", "sign")):
        copy = random_view(weights, layout, torch.Generator().manual_seed(1), moves=moves, maps="general", strength=0.3)
        assert size({n: copy[n] - weights[n] for n in copy}) > 0.1
        assert (outputs(model, copy, inputs) - expected).norm() < 1e-10 * expected.norm()
        assert (distance(copy, weights, layout) < 1e-9).all()
        back = align(copy, layout, to=weights, moves=moves).weights
        assert size({n: back[n] - weights[n] for n in back}) < 1e-9
    assert size({n: a - canonicalize(weights, layout)[n] for n, a in canonicalize(copy, layout).items()}) < 1e-9
    broken = {name: tensor.clone() for name, tensor in weights.items()}
    broken["layers.1.bias"][:, 0] *= -1  # without its weights
    assert (outputs(model, broken, inputs) - expected).norm() > 1e-3 * expected.norm()
    assert (distance(broken, weights, layout) > 1e-3).all()


def test_copies_of_a_chain_of_layers_come_back_by_their_permutations_alone(with_table) -> None:
    with_table("chain", chain(3, feature=""))
    torch.manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in Sine(depth=3, width=8, inputs=1, outputs=1).state_dict().items()}
    weights = {name: torch.randn(64, *shape, dtype=torch.float64) for name, shape in shapes.items()}
    layout = layout_of({name: tensor[0] for name, tensor in weights.items()})
    copy = random_view(weights, layout, torch.Generator().manual_seed(1), moves=("mlp",), maps="general", strength=0.3)
    assert (align(copy, layout, to=weights, moves=("mlp",)).distance == 0).all()
    noisy = {name: tensor + 1e-3 * torch.randn_like(tensor) for name, tensor in copy.items()}
    assert (align(noisy, layout, to=weights, moves=("mlp",)).distance < 0.1).all()
    once = transform(copy, match(copy, weights, layout, ("mlp",)), layout)  # the negative control: from the weights as they are
    stuck = torch.stack([(once[n] != weights[n]).flatten(1).any(1) for n in once]).any(0)
    assert stuck.double().mean() > 0.1


class TwoHeads(nn.Module):
    """Values of four heads, mixed by a tensor that has an axis of two other heads beside theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.v = nn.Linear(6, 12)
        self.mix = nn.Parameter(torch.randn(2, 12))
        self.out = nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.v(x) @ self.mix.mT)


TWO_HEADS = """
    v.weight    v: (head.a vo.a) channel
    v.bias      vectors: (head.a vo.a)
    mix         fc1: head.b (head.a vo.a*)
    out.weight  o: class head.b
    out.bias    head: class
"""


def test_a_map_of_heads_follows_its_own_heads_where_a_tensor_has_others(with_table) -> None:
    with_table("two_heads", TWO_HEADS)
    torch.manual_seed(0)
    model = TwoHeads().double()
    weights = stack([model.state_dict()] * 2)
    layout = replace(layout_of(model.state_dict()), sizes=(("channel", 6), ("class", 5), ("head.a", 4), ("head.b", 2), ("vo.a", 3)))
    inputs = torch.randn(7, 6, dtype=torch.float64)
    expected = outputs(model, weights, inputs)
    for moves in (("vo",), ("head",), ("head", "vo"), MOVES):
        copy = random_view(weights, layout, torch.Generator().manual_seed(1), moves=moves, maps="general", strength=0.3)
        assert size({n: copy[n] - weights[n] for n in copy}) > 0.1
        assert (outputs(model, copy, inputs) - expected).norm() < 1e-10 * expected.norm()
        aligned = align(copy, layout, to=weights, moves=moves).weights
        assert (outputs(model, aligned, inputs) - expected).norm() < 1e-10 * expected.norm()
        assert (distance(copy, weights, layout) < 1e-9).all()
        turned = random_view(weights, layout, torch.Generator().manual_seed(1), moves=moves, maps="orthogonal", strength=0.3)
        assert (align(turned, layout, to=weights, moves=moves).distance < 1e-8).all()
    broken = {name: tensor.clone() for name, tensor in weights.items()}
    broken["mix"] = broken["mix"].flip(1)  # without the heads that are read
    assert (outputs(model, broken, inputs) - expected).norm() > 1e-3 * expected.norm()
    assert (distance(broken, weights, layout) > 1e-3).all()


@pytest.mark.parametrize(
    "axes",
    [
        "(head.a vo.a*) (head.b vo.b)",
        "(head.a vo.a*) (head.b vo.a)",
        "(head.a head.b vo.a*) class",
        "(head.a vo.a*) head.a",
        "class vo.a*",
    ],
)
def test_a_tensor_whose_maps_could_be_meant_in_two_ways_is_a_bug_of_its_table(axes: str) -> None:
    parse("mix  fc1: (head.a vo.a*) head.b")
    with pytest.raises(ValueError, match=r"must stand once|of one part"):
        parse(f"mix  fc1: {axes}")
    with pytest.raises(ValueError, match=r"axis 'vo\.a' belongs to 'head\.b', and to 'head\.a' before"):
        parse("v fc1: (head.a vo.a) class\nmix  fc1: (head.b vo.a*) class")
