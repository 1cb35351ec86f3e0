"""Frontier: the best accuracy of each generator, over its scanned settings, among rows of a given novelty and diversity."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from wsl.generators.names import LEVELS, NEAREST, REAL
from wsl.generators.novelty import median_of
from zoo_gen.streams import stream

RESAMPLES = 200
"""Resamples of families that intervals are of."""


def frontier(rows: Sequence[Mapping[str, Any]], *, seed: int) -> list[dict[str, Any]]:
    """Returns for each generator and level the best median accuracy, None where no setting reaches the level.

    Intervals are 95 %, over families, which are drawn with replacement: medians, and which setting is best, follow the draw.
    """
    found = []
    for name in dict.fromkeys(row["generator"] for row in rows if row["generator"] not in (*REAL, NEAREST)):
        alike = [_figures(row) for row in rows if row["generator"] == name]
        whole = _best([np.concatenate(list(by_family.values())) for by_family in alike])
        families, rng, drawn = sorted({family for row in alike for family in row}), stream(seed, "frontier", name), []
        for _ in range(RESAMPLES):
            some = rng.choice(families, size=len(families))
            drawn.append(_best([_joined([row[family] for family in some if family in row]) for row in alike]))
        for i, level in enumerate(LEVELS):
            known = [best[i] for best in drawn if best[i] is not None]
            low, high = np.quantile(known, [0.025, 0.975]).tolist() if known and whole[i] is not None else (None, None)
            found.append({"generator": name, "at_least": level, "accuracy": whole[i], "low": low, "high": high})
    return found


def _figures(row: Mapping[str, Any]) -> dict[str, Float[np.ndarray, "S 3"]]:
    """Returns accuracy, novelty and diversity of the samples of a row, by family."""
    samples = row["samples"]
    table = np.array([samples["accuracy"], samples["novelty"], samples["diversity"]], dtype=float).T
    family = np.array(samples["family"])
    return {str(name): table[family == name] for name in np.unique(family)}


def _joined(tables: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate(tables) if tables else np.empty((0, 3))


def _best(tables: Sequence[Float[np.ndarray, "S 3"]]) -> list[float | None]:
    """Returns the best median accuracy of tables at each level; None where none reaches it."""
    medians = [[median_of(column) for column in table.T] for table in tables]
    found: list[float | None] = []
    for level in LEVELS:
        reached = [accuracy for accuracy, novelty, diversity in medians if novelty >= level and diversity >= level]
        reached = [accuracy for accuracy in reached if np.isfinite(accuracy)]
        found.append(max(reached) if reached else None)
    return found
