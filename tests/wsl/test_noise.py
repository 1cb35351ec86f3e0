"""Noise in the shape of the Fisher factors moves outputs less than white noise of the same norm."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.zoos import known
from wsl.operations.noise import Noise
from wsl.symmetry.root_basis import RootBasis
from zoo_gen import Checkpoint, InputError, Zoo
from zoo_gen.evaluate import logits

State = dict[str, Tensor]
SCALE = 0.1


@pytest.fixture(scope="module")
def children(short_zoo: Path) -> list[Checkpoint]:
    zoo = Zoo.open(short_zoo).select(stage="finetune", final=True)
    first = zoo[0]
    return list(zoo.select(root=first.root))


@pytest.fixture(scope="module")
def states(children: list[Checkpoint]) -> list[State]:
    return [child.state_dict() for child in children]


@pytest.fixture(scope="module")
def basis(short_zoo: Path, children: list[Checkpoint]) -> RootBasis:
    return RootBasis.of(known(Zoo.open(short_zoo).root(children[0])), images=64, seed=0)


def noise(power: float = 0.5, scale: float = SCALE) -> Noise:
    return Noise(scale=scale, power=power, damping=1e-4)


def norm(state: State) -> float:
    return float(torch.cat([tensor.double().flatten() for tensor in state.values()]).norm())


def changes(after: list[State], before: list[State]) -> list[State]:
    return [{name: tensor - old[name] for name, tensor in new.items()} for new, old in zip(after, before, strict=True)]


def test_shaped_noise_moves_outputs_less_than_white_noise_of_the_same_norm(
    children: list[Checkpoint], states: list[State], basis: RootBasis, short_zoo: Path
) -> None:
    images = Zoo.open(short_zoo).images("finetune").train.pixels[:100]
    many = states * 8
    before = logits(children[0].architecture, many, images)
    shaped, white = (noise(power)(many, basis, np.random.default_rng(0)) for power in (0.5, 0.0))
    moved = [(logits(children[0].architecture, some, images) - before).square().mean().sqrt() for some in (shaped, white)]
    assert float(moved[0]) < 0.7 * float(moved[1])
    sizes = [np.mean([norm(change) for change in changes(some, many)]) for some in (shaped, white)]
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-4)


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_the_norm_is_the_share_of_the_weights_that_was_set(states: list[State], basis: RootBasis, power: float) -> None:
    for state, change in zip(states, changes(noise(power)(states, basis, np.random.default_rng(0)), states), strict=True):
        assert norm(change) == pytest.approx(SCALE * norm(state), rel=1e-4)


def test_shaped_noise_is_large_where_outputs_do_not_depend_on_the_root_and_white_noise_is_the_same_everywhere(
    states: list[State], basis: RootBasis
) -> None:
    strength = torch.cat([basis.slots[name].turn(basis.strength[name]).flatten() for name in basis.slots])
    weak, ratios = strength < strength.quantile(0.95), []
    for power in (0.0, 0.5):
        (change,) = changes(noise(power)(states[:1], basis, np.random.default_rng(0)), states[:1])
        turned = basis.forward(change)
        numbers = torch.cat([turned[name].flatten() for name in basis.slots])
        ratios.append(float(numbers[weak].square().mean().sqrt() / numbers[~weak].square().mean().sqrt()))
    assert ratios[0] == pytest.approx(1, rel=0.05)
    assert ratios[1] > 2


def test_heads_get_noise_too_and_a_scale_of_zero_none(states: list[State], basis: RootBasis) -> None:
    (change,) = changes(noise()(states[:1], basis, np.random.default_rng(0)), states[:1])
    assert all(bool(tensor.any()) for tensor in change.values())
    (same,) = noise(scale=0.0)(states[:1], basis, np.random.default_rng(0))
    assert all(torch.equal(same[name], tensor) for name, tensor in states[0].items())


def test_a_stack_gives_the_models_of_one_by_one(states: list[State], basis: RootBasis) -> None:
    together = noise()(states, basis, np.random.default_rng(0))
    rng = np.random.default_rng(0)
    for state, found in zip(states, together, strict=True):
        (alone,) = noise()([state], basis, rng)
        assert all(torch.equal(alone[name], tensor) for name, tensor in found.items())


def test_what_gets_no_noise_is_refused(states: list[State], basis: RootBasis) -> None:
    rng = np.random.default_rng(0)
    nan = {name: tensor * float("nan") for name, tensor in states[0].items()}
    bare = {name: tensor for name, tensor in states[0].items() if name != "cls_token"}
    for some, message in (
        ([states[0], nan], "model 1 of 2 has weights that are not finite"),
        ([states[0], bare], "model 1 of 2 lacks tensor 'cls_token'"),
        ([], "no model was given"),
    ):
        with pytest.raises(InputError, match=message):
            noise()(some, basis, rng)
    for changed, message in (
        ({"scale": -1.0, "power": 0.5, "damping": 0.1}, "scale and power of noise must be at least 0"),
        ({"scale": 1.0, "power": float("nan"), "damping": 0.1}, "scale and power of noise must be at least 0"),
        ({"scale": 1.0, "power": 0.5, "damping": 0.0}, "damping of noise must be more than 0"),
    ):
        with pytest.raises(InputError, match=message):
            Noise(**changed)
