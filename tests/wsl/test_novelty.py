import numpy as np
import pytest

from wsl.generators.novelty import (
    THRESHOLD,
    Distances,
    disagreement,
    effective_rank,
    euclidean,
    judge,
    nearest_other,
    null_if_undefined,
    pool,
)


def cloud(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (N 50) and predicted classes of 80 images (N 80) of unrelated models."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 50)).astype(np.float32), rng.integers(5, size=(count, 80))


def verdict(samples, train):
    """What samples score against train models, both as (weights, predictions)."""
    spaces = {
        "weights": Distances.between(samples[0], train[0], distance=euclidean),
        "behaviour": Distances.between(samples[1], train[1], distance=disagreement),
    }
    return pool({"family": judge(spaces, np.random.default_rng(0))})


def test_a_fresh_draw_of_the_population_has_novelty_and_diversity_of_about_one():
    found = verdict(cloud(40, 1), cloud(8, 2))
    assert found["novelty"] == pytest.approx(1, abs=0.15)
    assert found["diversity"] == pytest.approx(1, abs=0.15)
    assert found["effective_rank_ratio"] == pytest.approx(1, abs=0.1)
    assert found["flags"] == []


def test_train_models_judged_against_the_others_are_not_flagged():
    weights, predictions = cloud(8, 2)
    spaces = {
        "weights": Distances.among(weights, distance=euclidean),
        "behaviour": Distances.among(predictions, distance=disagreement),
    }
    found = pool({"family": judge(spaces, np.random.default_rng(0))})
    assert found["flags"] == []
    assert found["novelty_by_space"] == pytest.approx({"weights": 1, "behaviour": 1})
    assert found["diversity_by_space"] == pytest.approx({"weights": 1, "behaviour": 1})
    assert found["novelties"].min() > THRESHOLD


def test_copies_have_novelty_zero_and_are_flagged_as_copied_alone():
    train = cloud(8, 2)
    found = verdict(train, train)
    assert found["novelty"] == 0
    assert found["diversity"] == pytest.approx(1, abs=0.1)
    assert found["flags"] == ["copied"]


def test_copies_of_one_train_model_are_copied_and_collapsed():
    train = cloud(8, 2)
    found = verdict(tuple(np.repeat(part[:1], 40, axis=0) for part in train), train)
    assert found["flags"] == ["copied", "collapsed"]


def test_copies_with_a_little_noise_are_flagged_and_with_much_noise_are_not():
    train = cloud(8, 2)
    picked = np.arange(40) % 8
    noise = np.random.default_rng(3).standard_normal((40, 50)).astype(np.float32)
    little = verdict((train[0][picked] + 0.05 * noise, train[1][picked]), train)
    assert 0 < little["novelty_by_space"]["weights"] < THRESHOLD
    assert "copied" in little["flags"]
    assert verdict((train[0][picked] + noise, cloud(40, 5)[1]), train)["flags"] == []


def test_new_weights_with_the_old_behaviour_are_flagged_and_so_is_the_reverse():
    train, fresh = cloud(8, 2), cloud(40, 1)
    picked = np.arange(40) % 8
    new_weights, new_behaviour = (
        verdict((fresh[0], train[1][picked]), train),
        verdict((train[0][picked], fresh[1]), train),
    )
    assert new_weights["novelty_by_space"]["weights"] > 0.8
    assert new_behaviour["novelty_by_space"]["behaviour"] > 0.8
    assert new_weights["novelty"] == new_behaviour["novelty"] == 0
    assert "copied" in new_weights["flags"]
    assert "copied" in new_behaviour["flags"]


def test_a_sampler_that_always_gives_the_same_new_model_has_collapsed_and_copied_nothing():
    one = cloud(1, 1)
    found = verdict((np.repeat(one[0], 40, axis=0), np.repeat(one[1], 40, axis=0)), cloud(8, 2))
    assert found["novelty"] > 0.8
    assert found["diversity"] == 0
    assert found["effective_rank_ratio"] == 0
    assert found["flags"] == ["collapsed"]


def test_diversity_does_not_fall_because_there_are_more_samples_than_train_models():
    few, many = verdict(cloud(8, 1), cloud(8, 2)), verdict(cloud(300, 1), cloud(8, 2))
    assert many["diversity"] == pytest.approx(few["diversity"], abs=0.1)
    crowd = euclidean(cloud(300, 1)[0], cloud(300, 1)[0])
    assert np.median(nearest_other(crowd)) < 0.95 * np.median(nearest_other(crowd[:8, :8]))


def test_ratios_do_not_depend_on_the_unit_of_the_weights():
    samples, train = cloud(20, 1), cloud(8, 2)
    scaled = verdict((1000 * samples[0], samples[1]), (1000 * train[0], train[1]))
    assert scaled["novelty_by_space"]["weights"] == pytest.approx(verdict(samples, train)["novelty_by_space"]["weights"])


@pytest.mark.parametrize(
    ("train", "reason"),
    [(cloud(1, 2), "one train model"), (tuple(np.repeat(part, 6, axis=0) for part in cloud(1, 2)), "coincide")],
    ids=["one train model", "identical train models"],
)
def test_families_without_a_scale_give_null_and_the_reason(train, reason):
    found = verdict(cloud(20, 1), train)
    assert np.isnan([found["novelty"], found["diversity"]]).all()
    assert found["flags"] == []
    assert any(reason in note for note in found["notes"])
    assert null_if_undefined({"novelty": found["novelty"], "each": found["novelties"][:2]}) == {
        "novelty": None,
        "each": [None] * 2,
    }


def test_a_single_sample_has_a_novelty_but_no_diversity():
    found = verdict(cloud(1, 1), cloud(8, 2))
    assert found["novelty"] > 0.8
    assert np.isnan(found["diversity"])
    assert any("one sample" in note for note in found["notes"])


def test_a_family_without_a_scale_does_not_hide_the_others():
    judged = {}
    for name, train in {"alone": cloud(1, 2), "company": cloud(8, 2)}.items():
        samples = cloud(20, 1)
        spaces = {
            "weights": Distances.between(samples[0], train[0], distance=euclidean),
            "behaviour": Distances.between(samples[1], train[1], distance=disagreement),
        }
        judged[name] = judge(spaces, np.random.default_rng(0))
    found = pool(judged)
    assert found["novelty"] == pytest.approx(verdict(cloud(20, 1), cloud(8, 2))["novelty"])
    assert found["notes"]
    assert all(note.startswith("alone: ") for note in found["notes"])


def test_weights_that_are_not_finite_are_infinitely_far_and_break_nothing():
    samples = cloud(20, 1)
    samples[0][0, 0], samples[0][1, 3] = np.nan, np.inf
    found = verdict(samples, cloud(8, 2))
    assert np.isfinite([found["novelty"], found["diversity"]]).all()


def test_the_effective_rank_counts_the_dimensions_that_points_fill():
    rng = np.random.default_rng(0)
    line = rng.standard_normal((30, 1)) * rng.standard_normal(50)
    assert effective_rank(euclidean(line, line)) == pytest.approx(1, abs=1e-3)
    simplex = np.eye(9)
    assert effective_rank(euclidean(simplex, simplex)) == pytest.approx(8)
    assert effective_rank(np.zeros((5, 5))) == 0


def test_disagreement_is_the_share_of_images_and_euclidean_the_length_of_the_difference():
    assert disagreement(np.array([[0, 1, 2, 3]]), np.array([[0, 1, 2, 3], [0, 1, 0, 0]])).tolist() == [[0, 0.5]]
    assert euclidean(np.array([[3.0, 0.0]]), np.array([[0.0, 4.0]])).tolist() == [[5]]
