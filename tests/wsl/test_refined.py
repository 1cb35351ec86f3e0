"""Samplers that move train models by task vectors of other roots, and samplers whose models are refined on train images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.wsl.test_generators import make_family
from tests.zoos import known
from wsl.generators.copy_model import CopyModel
from wsl.generators.family import Family, Sample, flatten, with_noise
from wsl.generators.refined import Refined
from wsl.generators.scoring import layout_of_family
from wsl.generators.task_vectors import TaskVectors
from wsl.symmetry.group import MOVES, random_view
from wsl.symmetry.stacks import stack, unstack
from zoo_gen.errors import InputError
from zoo_gen.evaluate import logits

COPIES = CopyModel(noise=0.0, anchors=1, root="own")


def refined(
    generator: CopyModel, towards: str, *, teachers: int = 2, penalty: float | None = 1e-3, steps: int = 0, repulsion: float = 0.0
):
    rest = {"batch_size": 50, "learning_rate": 1e-2}
    return Refined(
        generator=generator, towards=towards, teachers=teachers, penalty=penalty, steps=steps, repulsion=repulsion, **rest
    )


@pytest.fixture(scope="module")
def families() -> list[Family]:
    """Two roots whose train models can be told apart by their images: labels are the signs of the images' means."""
    made = [make_family("a", "linear", models=3, seed=0), make_family("c", "linear", models=3, seed=200)]
    pixels = known(made[0].pixels)
    labels = (pixels.mean(dim=(1, 2, 3)) > 0).long()
    return [replace(one, pixels=pixels, labels=labels) for one in made]


def sampled(generator: TaskVectors | Refined, families: Sequence[Family], n: int = 6) -> list[Sample]:
    return generator.fit(families).sample(n, np.random.default_rng(0))


def task_vectors(share: float, noise: float = 0.0) -> TaskVectors:
    return TaskVectors(share=share, noise=noise, anchors=1, others=None)


def test_a_share_of_nothing_is_the_anchor_and_any_other_moves_the_body_and_not_the_head(families: list[Family]) -> None:
    for share in (0.0, 0.5):
        for family, state in sampled(task_vectors(share), families):
            anchor = family.states[family.anchors(1)[0]]
            for name, tensor in state.items():
                same = torch.allclose(tensor, anchor[name], atol=1e-6)
                assert same or (share and not name.startswith("head."))
            assert share == 0 or not np.allclose(flatten(state), flatten(anchor), atol=1e-3)


def test_task_vectors_do_not_depend_on_the_coordinates_of_the_other_root(families: list[Family]) -> None:
    family = families[0]
    layout, root = layout_of_family(family), known(family.root_state)
    assert layout is not None
    head = {name: tensor for name, tensor in family.states[0].items() if name.startswith("head.")}

    def other(moves: Sequence[str]) -> Family:
        """Another root near this one, so that there is one best alignment, in coordinates of its own."""

        def moved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
            whole = stack([{**head, **with_noise(state, 0.05, np.random.default_rng(1))}])
            view = random_view(whole, layout, torch.Generator().manual_seed(1), moves=moves, maps="orthogonal", strength=0.0)
            return {name: tensor.float() for name, tensor in unstack(view)[0].items() if name in state}

        return replace(family, root="c", states=[*map(moved, family.states)], root_state=moved(root))

    plain, disguised = other([]), other([move for move in MOVES if move != "rotation"])
    assert np.abs(flatten(plain.states[0]) - flatten(disguised.states[0])).max() > 0.1
    here, there = (sampled(task_vectors(0.5), [family, one]) for one in (plain, disguised))
    pairs = [(flatten(a), flatten(b)) for (one, a), (_, b) in zip(here, there, strict=True) if one is family]
    assert pairs
    anchor = flatten(family.states[family.anchors(1)[0]])
    for a, b in pairs:
        assert np.linalg.norm(a - b) < 0.05 * np.linalg.norm(a - anchor)  # a search ends near its optimum, and not at it


def test_task_vectors_need_another_root_of_the_same_shape(families: list[Family]) -> None:
    with pytest.raises(InputError, match="no two known roots have train models of one shape"):
        sampled(task_vectors(0.5), families[:1])


def losses(samples: Sequence[Sample]) -> list[float]:
    found = []
    for family, state in samples:
        outputs = logits(family.architecture, [state], known(family.pixels))[0]
        found.append(float(functional.cross_entropy(outputs, known(family.labels))))
    return found


def test_refined_models_know_the_labels_and_their_gradients_are_counted(families: list[Family]) -> None:
    plain = losses(COPIES.fit(families).sample(6, np.random.default_rng(0)))
    fitted = refined(COPIES, "labels")
    after_fit = losses(sampled(fitted, families))
    both = refined(COPIES, "labels", steps=20)
    after_steps = losses(sampled(both, families))
    assert np.mean(after_steps) < 0.9 * np.mean(after_fit) < 0.9 * np.mean(plain)
    assert fitted.uses == both.uses == "labels"
    assert both.gradient_evaluations - fitted.gradient_evaluations == pytest.approx(6 * 20)
    assert fitted.gradient_evaluations > 0


def test_repulsion_keeps_refined_models_apart(families: list[Family]) -> None:
    noisy = CopyModel(noise=0.3, anchors=1, root="own")

    def agreement(repulsion: float) -> float:
        generator = refined(noisy, "labels", teachers=3, penalty=None, steps=30, repulsion=repulsion)
        samples = sampled(generator, families[:1], n=4)
        states = [state for _, state in samples]
        likely = logits(families[0].architecture, states, known(families[0].pixels)).softmax(-1)
        unit = functional.normalize(likely, dim=-1)
        return float(torch.einsum("anc,bnc->abn", unit, unit).mean())

    assert agreement(20.0) < agreement(0.0) - 0.01


def test_distilled_models_use_no_label_and_are_nearer_to_their_teachers(families: list[Family]) -> None:
    unlabelled = [replace(family, labels=None) for family in families]
    start = CopyModel(noise=0.5, anchors=1, root="own")
    distilled = refined(start, "teachers", teachers=3, penalty=None, steps=30)
    assert distilled.uses == "unlabelled images"

    def apart(samples: Sequence[Sample]) -> float:
        found = []
        for family, state in samples:
            pixels = known(family.pixels)
            teachers = logits(family.architecture, list(family.states), pixels).softmax(-1).mean(0)
            found.append(float((logits(family.architecture, [state], pixels)[0].softmax(-1) - teachers).abs().mean()))
        return float(np.mean(found))

    before = start.fit(unlabelled).sample(6, np.random.default_rng(0))
    assert apart(sampled(distilled, unlabelled)) < 0.8 * apart(before)


def test_refinement_towards_labels_asks_for_them_and_towards_nothing_known_is_refused(families: list[Family]) -> None:
    needs = refined(COPIES, "labels")
    with pytest.raises(InputError, match="towards labels, as the train images of the zoo are not known"):
        sampled(needs, [replace(family, labels=None) for family in families])
    with pytest.raises(InputError, match="refined towards labels or teachers, not ensemble"):
        refined(COPIES, "ensemble")
