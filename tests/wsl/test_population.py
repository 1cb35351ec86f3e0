"""Distances from a population of embeddings are Mahalanobis', by no more directions than there are embeddings."""

import numpy as np
import pytest

from wsl.probes.population import FEWEST, distances_of, population


def drawn(count: int, features: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings whose features vary unequally, and others that lie apart."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(features, features)) * np.logspace(0, -4, features)[:, None]
    embeddings = rng.normal(size=(count, features)) @ mix
    return embeddings, embeddings[:5] + 0.01 * rng.normal(size=(5, features))


@pytest.mark.parametrize(("count", "features"), [(50, 20), (20, 50)])
def test_distances_are_those_by_the_whole_covariance_whose_variances_have_a_floor(count: int, features: int):
    embeddings, others = drawn(count, features)
    variances, vectors = np.linalg.eigh(np.cov(embeddings.T))
    scale = np.sqrt(np.maximum(variances, FEWEST * variances.max()))
    expected = np.sqrt(((((others - embeddings.mean(0)) @ vectors) / scale) ** 2).mean(1))
    np.testing.assert_allclose(distances_of(population(embeddings), others), expected, rtol=1e-9)


def test_there_are_no_more_directions_than_embeddings():
    embeddings, others = drawn(6, 3000)
    found = population(embeddings)
    assert found["population/directions"].shape[0] == 3000
    assert found["population/directions"].shape[1] < 6
    moved = distances_of(found, others + 100.0)
    assert (moved > 10 * distances_of(found, others)).all()


@np.errstate(over="ignore", invalid="ignore")
def test_an_embedding_that_is_too_far_away_to_measure_is_infinitely_far():
    embeddings, others = drawn(20, 5)
    others[0] = 1e300
    distances = distances_of(population(embeddings), others)
    assert distances[0] == np.inf
    assert np.isfinite(distances[1:]).all()


def test_a_population_of_equal_embeddings_has_no_directions():
    found = population(np.ones((4, 3)))
    assert distances_of(found, np.ones((2, 3))).tolist() == [0, 0]
    assert (distances_of(found, np.zeros((2, 3))) > 1e6).all()
