"""Rows of the benchmarks, as tables and figures read them: names of features, their order, and the targets that are counted."""

from collections.abc import Mapping, Sequence
from typing import Any

from zoo_gen.config import card_names

Row = Mapping[str, Any]
Rows = Sequence[Row]

KINDS = ("baseline", "reference", "embedding", "joined")
"""Kinds of features in the order of tables and figures."""

COUNTED = ("test_accuracy", "test_loss", "accuracy_gap", "loss_gap", "epoch")
"""Targets by which an embedding is judged, in the order of tables and figures."""

OTHERS = card_names("probe")
"""Targets that have cards. Columns that a zoo has of its own have none, and are counted after `COUNTED`."""

LOW_CEILING = 0.5
"""Targets with a lower noise ceiling are shown and not counted (docs/protocol.md)."""


ONE_EACH = "Each model has one checkpoint: all checkpoints are final ones."
"""What tables say once instead of showing the scores of final checkpoints, which are those of all."""


def has_one_each(rows: Rows) -> bool:
    """Returns whether rows are of all checkpoints alone, as they are where each model has one."""
    return {row["subset"] for row in rows} == {"all"}


def is_judged(row: Row) -> bool:
    """Returns whether embeddings are judged by the target of a row: by those of `COUNTED`, and by columns of the zoo's own."""
    return not row["trivial"] and (row["target"] in COUNTED or row["target"] not in OTHERS)


def rank(row: Row) -> tuple[int, int]:
    """Returns the place of a row's target among targets: those of `COUNTED`, the zoo's own, then others with a card."""
    target = row["target"]
    return (COUNTED.index(target) if target in COUNTED else len(COUNTED), int(target in OTHERS))


def values(rows: Rows, key: str) -> list[Any]:
    """Returns the distinct values of a key, in order."""
    return list(dict.fromkeys(row[key] for row in rows))


def words(name: str) -> str:
    """Returns the name of a column or a card as a reader sees it."""
    return name.replace("_", " ")


def name_of(row: Row) -> str:
    """Returns the name of features, with the seed where there is one."""
    seed, name = row["seed"], words(row["features"])
    return name if seed is None else f"{name}, mean of seeds" if seed == "mean" else f"{name}, seed {seed}"


def names(rows: Rows) -> list[str]:
    """Returns the names of features: baselines, references, embeddings, then those that are joined to embeddings."""
    kinds = {name_of(row): KINDS.index(row["kind"]) for row in rows}
    return sorted(kinds, key=kinds.__getitem__)


def scores(rows: Rows, metric: str = "r2") -> list[Row]:
    """Returns the rows of one metric that are no controls and have a value."""
    return [row for row in rows if row["metric"] == metric and not row["control"] and row["value"] is not None]


def means(rows: Rows) -> list[Row]:
    """Returns the rows without single seeds of features that have a mean over seeds."""
    several = {row["features"] for row in rows if row["seed"] == "mean"}
    return [row for row in rows if row["features"] not in several or row["seed"] in ("mean", None) or row["control"]]


def questions(rows: Rows) -> list[tuple[str, str]]:
    """Returns targets and subsets: all checkpoints first, targets that are counted before others."""
    found = dict.fromkeys((row["target"], row["subset"]) for row in sorted(rows, key=rank))
    return sorted(found, key=lambda question: question[1])


def is_given(row: Row) -> bool:
    """Returns whether features declare that they read the target; rows of older files do not say."""
    return bool(row.get("given"))


def mark(row: Row, *, permuted: str = "†") -> str:
    """Returns the mark before a score: `permuted` where permuted targets score as much, ! where its features know the result.

    They know the measured result if the score is higher, interval and all, than a perfect probe's: the noise ceiling.
    """
    if row["above_permuted"] is False:
        return permuted
    known = row["noise_ceiling"] is not None and row["low"] is not None and row["low"] > row["noise_ceiling"]
    return "!" if known else ""


def is_counted(row: Row) -> bool:
    """Returns whether the target of a row is neither given away by the shapes nor too noisy."""
    return not row["trivial"] and (row["noise_ceiling"] is None or row["noise_ceiling"] >= LOW_CEILING)
