"""Measures of populations against references: scipy, closed forms, identities of CKA, planted populations."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from tests.wsl.conftest import ARCHITECTURE
from wsl.analyses.behaviour import calibration_error, debiased_cka, error_overlap, jensen_shannon
from wsl.analyses.connectivity import at, barriers
from wsl.analyses.corruptions import CORRUPTIONS, corrupted
from wsl.analyses.explained_variance import bootstrap, gram_of, intervals, terms_of, type_two
from wsl.analyses.soup_recipes import epoch_recipes
from wsl.analyses.weight_distances import distances_modulo_symmetry, weight_distances
from wsl.layout import layout_of
from wsl.symmetry.group import MOVES
from wsl.symmetry.stacks import stack, unstack
from zoo_gen.architecture import build


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_jensen_shannon_divergence_is_that_of_scipy() -> None:
    logits = rng().normal(size=(3, 5, 4))
    p = softmax(logits, axis=-1)
    expected = np.mean([jensenshannon(p[0, i], p[2, i], base=2) ** 2 for i in range(5)])
    assert jensen_shannon(logits)[0, 2] == pytest.approx(expected)
    assert np.diag(jensen_shannon(logits)).tolist() == [0, 0, 0]


def test_errors_overlap_as_planted() -> None:
    errors = np.array([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]], dtype=bool)
    found = error_overlap(errors)
    assert found[0, 1] == pytest.approx(1 / 3)
    assert found[2, 2] == 1
    assert found[0, 2] == 0


def test_a_calibrated_model_has_no_calibration_error_and_a_sure_wrong_one_has_all() -> None:
    p = np.array([[[0.75, 0.25]] * 4, [[1 - 1e-9, 1e-9]] * 4])
    labels = np.array([0, 0, 0, 1])
    assert calibration_error(np.log(p), labels)[0] == pytest.approx(0)
    assert calibration_error(np.log(p[1:]), 1 - np.zeros(4, dtype=int))[0] == pytest.approx(1)


def test_cka_does_not_depend_on_rotation_and_scale() -> None:
    x = torch.randn(20, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64))[0]
    assert debiased_cka([torch.stack([x, 3 * x @ turn])])[0, 1] == pytest.approx(1, abs=1e-5)
    stretched = x * torch.tensor([9.0, 1, 1, 1, 1, 1])
    assert debiased_cka([torch.stack([x, stretched])])[0, 1] < 0.99


def test_debiased_cka_of_independent_features_of_few_samples_is_zero_on_average_and_the_biased_one_is_not() -> None:
    draws = torch.randn(400, 8, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = debiased_cka([draws])[:200, 200:]
    assert abs(found.mean()) < 0.02
    centred = draws - draws.mean(1, keepdim=True)
    kernels = (centred @ centred.mT).flatten(1)
    biased = torch.nn.functional.normalize(kernels) @ torch.nn.functional.normalize(kernels).mT
    assert biased[:200, 200:].mean() > 0.5


def test_debiased_cka_is_the_ratio_of_unbiased_estimates_of_hsic() -> None:
    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        """Song et al., 2012, equation 5."""
        k, m, n = k - np.diag(np.diag(k)), m - np.diag(np.diag(m)), len(k)
        one = np.ones(n)
        total = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - 2 * (one @ k @ m @ one) / (n - 2)
        return total / (n * (n - 3))

    x, y = rng().normal(size=(2, 12, 5))
    y = y + x
    k, m = x @ x.T, y @ y.T
    expected = hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))
    assert debiased_cka([torch.from_numpy(np.stack([x, y]))])[0, 1] == pytest.approx(expected, abs=1e-5)


def design() -> pd.DataFrame:
    return pd.DataFrame([{"a": i, "b": j} for i in range(3) for j in range(4) for _ in range(5)])


def test_type_two_of_a_balanced_design_is_the_closed_form() -> None:
    frame = design()
    y = rng().normal(size=len(frame)) + frame["a"].to_numpy()
    table = type_two(frame, terms_of(["a", "b"]), {"y": np.outer(y, y)})
    total = ((y - y.mean()) ** 2).sum()
    groups = frame.assign(y=y)
    for name in ("a", "b"):
        expected = sum(len(some) * (some["y"].mean() - y.mean()) ** 2 for _, some in groups.groupby(name)) / total
        assert table["y"][name] == pytest.approx(expected)
    assert table["y"].sum() == pytest.approx(1)
    assert table["df"].tolist() == [2, 3, 6, 48]


def test_type_two_of_an_unbalanced_design_is_the_difference_of_least_squares() -> None:
    frame = design().iloc[rng().permutation(60)[:41]].reset_index(drop=True)
    y = rng().normal(size=41) + frame["a"].to_numpy()

    def residual(*names: str) -> float:
        x = np.concatenate([np.ones((41, 1)), *(pd.get_dummies(frame[name]).to_numpy(float) for name in names)], axis=1)
        return float(((y - x @ np.linalg.lstsq(x, y, rcond=None)[0]) ** 2).sum())

    total = ((y - y.mean()) ** 2).sum()
    table = type_two(frame, terms_of(["a", "b"]), {"y": np.outer(y, y)})
    assert table["y"]["a"] == pytest.approx((residual("b") - residual("a", "b")) / total)
    assert table["y"]["b"] == pytest.approx((residual("a") - residual("a", "b")) / total)


def test_a_factor_that_tells_nothing_explains_its_degrees_of_freedom_and_one_that_tells_all_everything() -> None:
    frame = design()
    points = np.stack([frame["a"].to_numpy(float), frame["a"].to_numpy(float) ** 2], axis=1)
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    table = type_two(frame, terms_of(["a", "b"]), {"y": gram_of(squared)})
    assert table["y"]["a"] == pytest.approx(1)
    assert table["y"]["b"] == pytest.approx(0, abs=1e-9)
    noise = rng().normal(size=(60, 500))
    shares = type_two(frame, terms_of(["a", "b"]), {"y": noise @ noise.T})["y"]
    assert shares["a"] == pytest.approx(2 / 59, abs=0.01)


def test_intervals_hold_their_shares() -> None:
    frame = design()
    y = rng().normal(size=60) + frame["a"].to_numpy()
    grams = {"y": np.outer(y, y)}
    shares = type_two(frame, terms_of(["a", "b"]), grams)["y"]
    ends = intervals(shares, bootstrap(frame, terms_of(["a", "b"]), grams, n=10, rng=rng())["y"])
    assert 0 <= ends["a"][0] < shares["a"] < ends["a"][1] <= 1


def test_distances_and_cosines_are_those_of_numpy_however_models_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rng().normal(size=(7, 30)).astype(np.float32) + 5
    rows[3] = rows[0]
    states = [{"a": torch.from_numpy(row[:10]), "b": torch.from_numpy(row[10:])} for row in rows]
    layers = {"first": ["a"], "second": ["b"]}
    for at_once in (2**20, 60):
        monkeypatch.setattr("wsl.analyses.weight_distances.WEIGHTS_AT_ONCE", at_once)
        found = weight_distances([lambda s=s: s for s in states], layers, advance=lambda n: None)
        expected = np.linalg.norm(rows[:, None].astype(float) - rows[None].astype(float), axis=-1)
        assert found.distances() == pytest.approx(expected, abs=1e-5)
        assert found.distances()[0, 3] == 0
        norms = np.linalg.norm(rows.astype(float), axis=1)
        assert found.norms() == pytest.approx(norms)
        assert found.cosines() == pytest.approx(rows.astype(float) @ rows.T.astype(float) / np.outer(norms, norms), abs=1e-6)
        assert found.norms("first") == pytest.approx(np.linalg.norm(rows[:, :10], axis=1))


def test_copies_in_disguise_are_no_distance_apart_within_a_root_and_across_roots_and_other_models_are() -> None:
    from wsl import random_view

    torch.manual_seed(0)
    model = build(ARCHITECTURE)
    layout = layout_of(model)
    states = [{name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in model.state_dict().items()} for _ in range(3)]
    view = random_view(
        {name: tensor.double() for name, tensor in stack(states).items()},
        layout,
        torch.Generator().manual_seed(0),
        moves=MOVES,
        maps="orthogonal",
        strength=0.3,
    )
    disguised = unstack(view)
    found = distances_modulo_symmetry([states, disguised], layout, advance=lambda n: None)
    scale = found[0, 1]
    assert scale > 0.1
    assert found[0, 3] < 1e-3 * scale
    assert found[0, 4] > 0.5 * scale


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_corruptions_grow_with_their_strength_and_are_nothing_at_zero(kind: str) -> None:
    pixels = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).cumsum(2).cumsum(3)
    apart = [float((corrupted(pixels, kind, strength) - pixels).norm()) for strength in (0, 0.2, 0.5)]
    assert apart[0] == 0
    assert apart[1] < apart[2] + 1e-6
    assert torch.equal(corrupted(pixels, kind, 0.5), corrupted(pixels, kind, 0.5))


def test_blur_keeps_a_constant_image_and_contrast_its_mean() -> None:
    constant = torch.full((1, 2, 8, 8), 3.0)
    assert torch.allclose(corrupted(constant, "blur", 4.0), constant)
    pixels = torch.randn(2, 1, 8, 8)
    assert torch.allclose(corrupted(pixels, "contrast", 0.7).mean((1, 2, 3)), pixels.mean((1, 2, 3)), atol=1e-6)


def test_epoch_recipes_sum_to_one_and_choose_the_epochs_they_name() -> None:
    val = np.array([0.1, 0.9, 0.5, 0.9, 0.2])
    found = epoch_recipes(5, val, last=[2, 9], decays=[0.5], best=[2])
    assert all(share.sum() == pytest.approx(1) for share in found.values())
    assert found["last 2"].tolist() == [0, 0, 0, 0.5, 0.5]
    assert found["best epoch by val"].tolist() == [0, 0, 0, 1, 0]
    assert found["best 2 by val"].tolist() == [0, 0.5, 0, 0.5, 0]
    assert np.all(np.diff(found["exponential 0.5"]) > 0)
    assert "best 2 by val" not in epoch_recipes(5, None, last=[2], decays=[], best=[2])


def test_a_curve_with_its_bend_half_way_is_the_line_and_barriers_are_over_it() -> None:
    a, b = torch.randn(2, 1, 4)
    assert torch.allclose(at(a, (a + b) / 2, b, 0.3), torch.lerp(a, b, 0.3), atol=1e-6)
    assert barriers(np.array([[0.0, 2.0, 2.0], [0.0, 1.0, 2.0]])).tolist() == [1.0, 0.0]
