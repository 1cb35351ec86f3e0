"""A population of embeddings, and how far others are from it: Mahalanobis' distance in its principal directions.

Directions are those that the embeddings vary in, and no more than there are embeddings: with thousands of features, all of them
would fill a square of gigabytes. What is left of an embedding beside them counts as one variance, the floor.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

FEWEST = 1e-4
"""Share of the largest variance: directions of less count as this wide."""


def population(embeddings: Float[np.ndarray, "N F"]) -> dict[str, np.ndarray]:
    """Returns mean and directions of embeddings; there are no more directions than embeddings, however many features."""
    mean = embeddings.mean(0)
    _, lengths, vectors = np.linalg.svd(embeddings - mean, full_matrices=False)
    variances = lengths**2 / max(1, len(embeddings) - 1)
    floor = max(FEWEST * variances[0], np.finfo(float).tiny)
    wide = variances > floor
    directions = vectors[wide].T / np.sqrt(variances[wide])
    return {"population/mean": mean, "population/directions": directions, "population/floor": np.array([floor])}


def distances_of(tensors: Mapping[str, np.ndarray], embeddings: Float[np.ndarray, "N F"]) -> Float[np.ndarray, "N"]:
    """Root mean squares over F directions, in deviations; those that hardly vary have that of the floor."""
    centred, directions = embeddings - tensors["population/mean"], tensors["population/directions"]
    turned = centred @ directions
    along = turned**2 / np.maximum((directions**2).sum(0), np.finfo(float).tiny)
    others = np.maximum((centred**2).sum(axis=1) - along.sum(axis=1), 0) / tensors["population/floor"]
    squares = ((turned**2).sum(axis=1) + others) / embeddings.shape[1]
    return np.sqrt(np.nan_to_num(squares, nan=np.inf, posinf=np.inf))  # none is a number where an embedding is too far away
