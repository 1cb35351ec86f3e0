"""Alignment brings copies back, finds neurons under noise, and measures distances that no symmetry changes."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from tests.architectures import MODELS, build, outputs
from wsl.generators.novelty import Distances, euclidean, judge, pool
from wsl.layout import architectures, layout_of
from wsl.layout.slots import Layout
from wsl.symmetry.alignment import align, align_by_loss, aligned_vectors, distance
from wsl.symmetry.canonical import canonicalize
from wsl.symmetry.group import MAPPED, MOVES, PERMUTED, random_view
from wsl.symmetry.null_directions import NULLS
from wsl.symmetry.stacks import stack, unstack
from wsl.tokenizers.residual import Residual
from zoo_gen import Zoo
from zoo_gen.errors import InputError

COMPACT = (*PERMUTED, *MAPPED)


def norm(weights: dict[str, Tensor]) -> Tensor:
    return sum((tensor.reshape(len(tensor), -1).square().sum(1) for tensor in weights.values()), torch.zeros(())).sqrt()


def minus(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: a[name] - b[name] for name in b}


def moved(weights: dict[str, Tensor], layout: Layout, moves: tuple[str, ...], maps: str = "orthogonal") -> dict[str, Tensor]:
    return random_view(weights, layout, torch.Generator().manual_seed(1), moves=moves, maps=maps, strength=0.3)


@pytest.mark.parametrize("name", MODELS)
def test_a_moved_model_comes_back_to_itself(name: str) -> None:
    model, heads, _ = build(name)
    layout = layout_of(model, heads=heads)
    weights = stack([model.state_dict()] * 2)
    copy = moved(weights, layout, COMPACT)
    for moves in (COMPACT, MOVES):
        assert (norm(minus(align(copy, layout, to=weights, moves=moves).weights, weights)) < 1e-5 * norm(weights)).all(), moves
    disguised = moved(weights, layout, MOVES, "general")
    found = align(disguised, layout, to=weights, moves=MOVES)
    assert (norm(minus(found.weights, weights)) < 1e-5 * norm(weights)).all()
    assert (distance(disguised, weights, layout) < 1e-6 * norm(weights)).all()


@pytest.mark.parametrize("moves", [("spin",), "resid", ("resid", "spin")])
def test_moves_that_are_none_are_refused(moves: str | tuple[str, ...]) -> None:
    model, heads, _ = build("plain")
    layout, weights = layout_of(model, heads=heads), stack([model.state_dict()])
    with pytest.raises(InputError, match="unknown moves spin" if "spin" in moves else r"pass a collection of names, \('resid',\)"):
        align(weights, layout, to=weights, moves=moves)
    with pytest.raises(InputError, match="moves"):
        moved(weights, layout, moves)  # pyright: ignore[reportArgumentType]
    assert align(weights, layout, to=weights, moves=("resid",)).distance == 0


def test_what_is_no_stack_of_the_layout_is_refused() -> None:
    model, heads, _ = build("plain")
    layout, state_dict = layout_of(model, heads=heads), model.state_dict()
    weights = stack([state_dict])
    wrong = {
        r"wsl\.symmetry\.stacks\.stack": state_dict,
        r"has shape \(1, 8\), not \(K, 16\)": weights | {"norm.weight": torch.ones(1, 8)},
        r"has shape \(2, 16\), not \(K, 16\) with one K": weights | {"norm.weight": torch.ones(2, 16)},
        r"lacks tensor 'norm\.bias'": {name: tensor for name, tensor in weights.items() if name != "norm.bias"},
        "the layout lacks, tensor 'extra'": weights | {"extra": torch.ones(1)},
        "no checkpoint": {name: tensor[:0] for name, tensor in weights.items()},
    }
    acts: list[Callable[[dict[str, Tensor]], object]] = [
        lambda other: canonicalize(other, layout),
        lambda other: align(other, layout, to=weights, moves=COMPACT),
        lambda other: align(weights, layout, to=other, moves=COMPACT),
        lambda other: distance(weights, other, layout),
        lambda other: aligned_vectors(other, layout, to=weights),
        lambda other: moved(other, layout, COMPACT),
    ]
    for message, other in wrong.items():
        for act in acts:
            with pytest.raises(InputError, match=message):
                act(other)
    canonicalize(weights, layout)


@pytest.mark.parametrize("moves", [COMPACT, MOVES])
def test_two_checkpoints_are_not_aligned_to_three(moves: tuple[str, ...]) -> None:
    model, heads, _ = build("plain")
    layout, one = layout_of(model, heads=heads), model.state_dict()
    with pytest.raises(InputError, match="2 checkpoints cannot be compared to 3"):
        align(stack([one] * 2), layout, to=stack([one] * 3), moves=moves)
    with pytest.raises(InputError, match="1 checkpoint cannot be compared to 2"):
        distance(stack([one]), stack([one] * 2), layout)
    assert len(align(stack([one] * 2), layout, to=stack([one]), moves=moves).distance) == 2


@pytest.fixture(scope="module", params=["linear", "mlp"])
def trained(tiny_zoo: Path, request: pytest.FixtureRequest) -> tuple[dict[str, Tensor], Layout, nn.Module, Tensor]:
    """Children of the first root with one kind of head, in float64."""
    zoo = Zoo.open(tiny_zoo)
    chosen = list(zoo.select(final=True, status="ok", head=request.param, root="supervised_0"))
    weights = {name: tensor.double() for name, tensor in stack([one.state_dict() for one in chosen]).items()}
    return weights, layout_of(chosen[0].build()), chosen[0].build(), zoo.images("finetune").train.pixels[:64]


def test_neurons_and_heads_are_matched_under_one_percent_of_noise(trained) -> None:
    weights, layout, _, _ = trained
    generator = torch.Generator().manual_seed(0)
    copy = moved(weights, layout, COMPACT)
    noisy = {
        name: tensor + 0.01 * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        for name, tensor in copy.items()
    }
    for moves in (COMPACT, MOVES):
        back = align(noisy, layout, to=weights, moves=moves).weights
        matched = []
        for block in range(layout.depth):
            rows, columns = f"blocks.{block}.mlp.fc1.weight", f"blocks.{block}.mlp.fc2.weight"
            matched.append(best(torch.cat([back[rows], back[columns].mT], -1), torch.cat([weights[rows], weights[columns].mT], -1)))
            q, k, v = rearrange(back[f"blocks.{block}.attn.qkv.weight"], "n (p h d) m -> p n h d m", p=3, h=4)
            q1, k1, v1 = rearrange(weights[f"blocks.{block}.attn.qkv.weight"], "n (p h d) m -> p n h d m", p=3, h=4)
            matched.append(best((q.mT @ k).flatten(2), (q1.mT @ k1).flatten(2)))
            matched.append(best(v.flatten(2), v1.flatten(2)))
        assert torch.cat([one.flatten() for one in matched]).double().mean() >= 0.99


def best(a: Tensor, b: Tensor) -> Tensor:
    """Whether each of the vectors (N n F) of one stack is most like the vector of the same place in the other."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    likeness = functional.normalize(a, dim=-1) @ functional.normalize(b, dim=-1).mT
    return likeness.argmax(-1) == torch.arange(a.shape[1])


def test_a_loss_brings_models_together_in_function_and_leaves_copies_alone(trained) -> None:
    weights, layout, model, pixels = trained
    one = {name: tensor[:1] for name, tensor in weights.items()}
    others = {name: tensor[[1, 6]] for name, tensor in weights.items()}
    model, pixels = model.double(), pixels[:16].double()
    expected = outputs(model, one, pixels)

    def loss(weights: dict[str, Tensor]) -> Tensor:
        found = torch.stack([functional_call(model, each, (pixels,)) for each in unstack(weights)])
        return (found - expected).square().flatten(1).mean(1)

    def half_way(aligned: dict[str, Tensor]) -> Tensor:
        return loss({name: (tensor + weights[name][:1]) / 2 for name, tensor in aligned.items()})

    moved_others = moved(others, layout, COMPACT)
    for moves in (COMPACT, MOVES):
        by_weights = align(moved_others, layout, to=one, moves=moves).weights
        found = align_by_loss(moved_others, layout, to=one, moves=moves, loss=loss, steps=10, rate=0.01).weights
        assert (half_way(found) < half_way(by_weights)).all()
        change = outputs(model, found, pixels) - outputs(model, others, pixels)
        assert change.norm() < 1e-9 * expected.norm()
        copy = align_by_loss(moved(one, layout, COMPACT), layout, to=one, moves=moves, loss=loss, steps=10, rate=0.01).weights
        assert (norm(minus(copy, one)) < 1e-5 * norm(one)).all()
    still = align_by_loss(moved_others, layout, to=one, moves=PERMUTED, loss=loss, steps=10, rate=0.01).weights
    assert (norm(minus(still, align(moved_others, layout, to=one, moves=PERMUTED).weights)) == 0).all()


def test_alignment_keeps_the_function_and_does_not_add_distance(trained) -> None:
    weights, layout, model, pixels = trained
    model = model.double()
    one = {name: tensor[:1] for name, tensor in weights.items()}
    others = {name: tensor[1:] for name, tensor in weights.items()}
    found = align(others, layout, to=one, moves=MOVES)
    expected = outputs(model, others, pixels.double())
    assert (outputs(model, found.weights, pixels.double()) - expected).norm() < 1e-9 * expected.norm()
    shuffled = moved(others, layout, COMPACT)
    raw, aligned = (
        norm(minus(shuffled, {n: t.expand_as(others[n]) for n, t in one.items()})),
        norm(minus(align(shuffled, layout, to=one, moves=COMPACT).weights, {n: t.expand_as(others[n]) for n, t in one.items()})),
    )
    assert (aligned < raw).all()


DISGUISES = {
    **{move: (move,) for move in (*NULLS, *PERMUTED, *MAPPED, "rotation") if move not in ("scale", "sum")},
    "all": MOVES,
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_copy_in_disguise_is_flagged(trained, disguise: str) -> None:
    weights, layout, _, _ = trained
    centre = {name: tensor[:1] for name, tensor in weights.items()}
    copies = moved({name: tensor[[2, 5, 7]] for name, tensor in weights.items()}, layout, DISGUISES[disguise], "general")
    train = aligned_vectors(weights, layout, to=centre)
    samples = aligned_vectors(copies, layout, to=centre)
    distances = Distances.between(samples, train, distance=euclidean)
    own = np.sort(distances.train + np.diag(np.full(len(train), np.inf)), axis=1)[:, 0]
    assert (distances.to_train[[0, 1, 2], [2, 5, 7]] < 1e-6 * np.median(own)).all()
    spaces = {"weights": distances, "behaviour": distances}
    assert "copied" in pool({"family": judge(spaces, np.random.default_rng(0))})["flags"]


def test_real_models_are_not_flagged(trained) -> None:
    weights, layout, _, _ = trained
    vectors = aligned_vectors(weights, layout, to={name: tensor[:1] for name, tensor in weights.items()})
    own = Distances.among(vectors, distance=euclidean)
    assert pool({"family": judge({"weights": own, "behaviour": own}, np.random.default_rng(0))})["flags"] == []


def test_diverged_models_are_infinitely_far(trained) -> None:
    weights, layout, _, _ = trained
    broken = {name: tensor[:3].clone() for name, tensor in weights.items()}
    broken["cls_token"][1] = float("inf")
    vectors = aligned_vectors(broken, layout, to={name: tensor[:1] for name, tensor in weights.items()})
    distances = euclidean(vectors, vectors)
    assert np.isinf(distances[1]).all()
    assert np.isfinite(distances[0, [0, 2]]).all()


def test_distance_is_that_of_orbits(trained) -> None:
    weights, layout, _, _ = trained
    a, b = ({name: tensor[[i, i + 1]] for name, tensor in weights.items()} for i in (0, 3))
    found = distance(a, b, layout)
    assert (found > 0.01).all()
    torch.testing.assert_close(distance(moved(a, layout, MOVES), b, layout), found, rtol=1e-6, atol=0)
    torch.testing.assert_close(distance(b, a, layout), found, rtol=0.05, atol=0)


def test_aligned_vectors_are_as_far_from_their_reference_as_the_distance_says(trained) -> None:
    weights, layout, _, _ = trained
    weights = moved(weights, layout, MOVES)
    one = {name: tensor[:1] for name, tensor in weights.items()}
    copies = {name: tensor.expand_as(weights[name]) for name, tensor in one.items()}
    vectors = aligned_vectors(weights, layout, to=one)
    found = torch.from_numpy(np.linalg.norm(vectors - vectors[0], axis=1))
    for reference in (one, copies):
        torch.testing.assert_close(found, distance(weights, reference, layout), rtol=1e-6, atol=1e-6)
    forms = canonicalize(weights, layout)
    assert (found[1:] < norm(minus(forms, {name: tensor[:1] for name, tensor in forms.items()}))[1:]).all()


class MadeUp(nn.Module):
    """A transformer of nobody's: one norm per block, one head, squared ReLU, a head without bias."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 12)
        self.layers = nn.ModuleList(
            nn.ModuleDict(
                {
                    "ln": nn.LayerNorm(12),
                    "qk": nn.Linear(12, 8),
                    "v": nn.Linear(12, 4),
                    "out": nn.Linear(4, 12),
                    "up": nn.Linear(12, 20),
                    "down": nn.Linear(20, 12),
                }
            )
            for _ in range(2)
        )
        self.end = nn.LayerNorm(12)
        self.classes = nn.Linear(12, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for raw in self.layers:
            assert isinstance(raw, nn.ModuleDict)
            layer = raw
            h = layer["ln"](x)
            q, k = layer["qk"](h).chunk(2, dim=-1)
            x = x + layer["out"]((q @ k.mT).softmax(-1) @ layer["v"](h)) + layer["down"](layer["up"](h).relu().square())
        return self.classes(self.end(x).mean(1))


MADE_UP = """
    stem.weight              patch: resid channel
    stem.bias                embed: resid
    layers.{b}.ln.weight     vectors: resid
    layers.{b}.ln.bias       vectors: resid
    layers.{b}.qk.weight     q: (head.{b} qk.{b}) resid | k: (head.{b} qk.{b}*) resid
    layers.{b}.qk.bias       vectors: (head.{b} qk.{b}) | vectors: (head.{b} qk.{b}*)
    layers.{b}.v.weight      v: (head.{b} vo.{b}) resid
    layers.{b}.v.bias        vectors: (head.{b} vo.{b})
    layers.{b}.out.weight    o: resid (head.{b} vo.{b}*)
    layers.{b}.out.bias      vectors: resid
    layers.{b}.up.weight     fc1: mlp.{b} resid
    layers.{b}.up.bias       vectors: mlp.{b}
    layers.{b}.down.weight   fc2: resid mlp.{b}
    layers.{b}.down.bias     vectors: resid
    end.weight               vectors: resid
    end.bias                 vectors: resid
    classes.weight           head: class resid
    norm layers.{b}.ln -> layers.{b}.qk layers.{b}.v layers.{b}.up
    norm end -> classes
    bias layers.{b}.qk.bias[1] -> nothing
    bias layers.{b}.v.bias -> layers.{b}.out
    mean stem layers.{b}.out layers.{b}.down -> nothing
"""


def test_a_new_architecture_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made_up.py").write_text(f"TABLES = ('''{MADE_UP}''',)")
    monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(tmp_path)])
    torch.manual_seed(0)
    model = MadeUp().double()
    layout = layout_of(model, heads=1)
    monkeypatch.delitem(sys.modules, "wsl.layout.architectures.made_up")
    assert layout.family == "made_up"
    assert sorted(slot.name for slot in layout.slots) == sorted(model.state_dict())
    weights, inputs = stack([model.state_dict()]), torch.randn(2, 4, 5, dtype=torch.float64)
    expected = outputs(model, weights, inputs)
    for moves in [*((move,) for move in MOVES), MOVES]:
        other = moved(weights, layout, moves, "general")
        assert (outputs(model, other, inputs) - expected).norm() < 1e-10 * expected.norm(), moves
    copy = moved(weights, layout, MOVES, "general")
    assert norm(minus(canonicalize(copy, layout), canonicalize(weights, layout))) < 1e-8
    assert distance(copy, weights, layout) < 1e-6
    one = {name: tensor.float() for name, tensor in model.state_dict().items()}
    tokenizer = Residual(width=8, reference="none")
    decoded = tokenizer.decode(tokenizer.encode(one))
    assert all(torch.equal(decoded[name], one[name]) for name in one)
