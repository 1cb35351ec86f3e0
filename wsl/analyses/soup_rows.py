"""Rows of soups: the test accuracy of one recipe in all groups, and its paired gain over the single model of each."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from jaxtyping import Float
from torch import Tensor

from wsl.analyses.compression import paired

REFERENCES = {"over epochs": ("final epoch", "best epoch by val")}
"""The rows that gains are over, by setting; elsewhere the best single model by val."""

SINGLE = ("best single by val",)


@dataclass(frozen=True)
class Scores:
    """Test accuracy of K models: on clean images, and the mean over corrupted ones (NaN without any)."""

    clean: Float[np.ndarray, " K"]
    corrupted: Float[np.ndarray, " K"]

    @classmethod
    def of(cls, accuracies: Sequence[Float[Tensor, "K"]]) -> Self:
        """Takes the accuracy on clean images, then on each kind of corrupted ones."""
        clean, *others = (one.numpy() for one in accuracies)
        return cls(clean, np.mean(others, axis=0) if others else np.full(len(clean), np.nan))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Joins the scores of several sets of models."""
        return cls(*(np.concatenate([getattr(part, key) for part in parts]) for key in ("clean", "corrupted")))


@dataclass(frozen=True)
class Row:
    """One recipe in one setting.

    Attributes:
        setting, recipe: their names.
        scores: of each group.
        families: of each group, which bootstraps draw.
        used: ingredients of each group; none over epochs.
        barrier: mean loss barrier between the ingredients of each group; none over epochs.
        gain: reference -> `clean` and `corrupted` -> mean difference and the ends of its interval.
    """

    setting: str
    recipe: str
    scores: Scores
    families: Sequence[str]
    used: Sequence[float] = ()
    barrier: Sequence[float] = ()
    gain: dict[str, dict[str, list[float] | None]] | None = None


def row_of(
    setting: str, recipe: str, scores: Scores, families: Sequence[str], *, used: Sequence[float] = (), barrier: Sequence[float] = ()
) -> Row:
    """Returns a row without gains."""
    return Row(setting, recipe, scores, families, used, barrier)


def gains(rows: Sequence[Row]) -> list[Row]:
    """Joins rows of one recipe (of several shapes of models) and compares each with the references of its setting."""
    joined: dict[tuple[str, str], Row] = {}
    for row in rows:
        key = row.setting, row.recipe
        if (old := joined.get(key)) is None:
            joined[key] = row
        else:
            both = [*old.families, *row.families], [*old.used, *row.used], [*old.barrier, *row.barrier]
            joined[key] = Row(*key, Scores.joined([old.scores, row.scores]), *both)
    done = []
    for (setting, recipe), row in joined.items():
        gain: dict[str, dict[str, list[float] | None]] = {}
        for name in REFERENCES.get(setting, SINGLE):
            other = joined.get((setting, name))
            if other is not None and name != recipe and list(other.families) == list(row.families):
                gain[name] = {
                    key: paired(getattr(row.scores, key), getattr(other.scores, key), row.families)
                    for key in ("clean", "corrupted")
                }
        done.append(replace(row, gain=gain))
    order = {setting: place for place, setting in enumerate(dict.fromkeys(row.setting for row in done))}
    return sorted(done, key=lambda row: order[row.setting])
