"""The rows of `generate.json`: calls with different generators add theirs, and each generator's rows are of the samples beside it.

A row says by which state of the run it was made: model, zoo, split and seed. Rows of another state are not comparable, so they go.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsl.generators.names import NEAREST, REAL
from wsl.run import Run
from zoo_gen.files import json_sha256, sha256_of

Row = Mapping[str, Any]


def state_of(run: Run, *, seed: int) -> str:
    """Returns a hash of all that rows of one table have in common: the run's model, its zoo and split, and the seed."""
    split = {name: sorted(part.frame["model"].unique()) for name, part in run.split._asdict().items()}
    return json_sha256([sha256_of(run.path / "model.safetensors"), run.zoo.content_hash, split, seed])


def stored_rows(path: Path) -> list[Row]:
    """Returns the rows of a file, none of a missing one, and none that no table could show."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    needed = ("generator", "settings", "n", "accuracy", "novelty", "diversity", "flags", "good_and_new", "samples", "state")
    rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
    return [row for row in rows if all(key in row for key in needed) and isinstance(row["settings"], dict)]


def sampled(rows: Sequence[Row]) -> list[str]:
    """Returns the generators whose models lie in folders of their own: each has a row of its nearest train models."""
    return [row["settings"]["of"] for row in rows if row["generator"] == NEAREST]


def kept(rows: Sequence[Row], *, state: str, replaced: Sequence[str]) -> list[Row]:
    """Returns the rows of this state, without those of generators that are replaced and of their nearest train models."""
    alike = [row for row in rows if row["state"] == state]
    return [row for row in alike if row["generator"] not in replaced and row["settings"].get("of") not in replaced]


def joined(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """Returns rows of both, real models once and first, then generators with samples of their own, then baselines."""
    rows = [row for row in old if row["generator"] not in REAL] + list(new)
    own = sampled(rows)

    def place(row: Row) -> tuple[int, int, bool]:
        name = row["settings"].get("of", row["generator"])
        first = REAL.index(name) if name in REAL else len(REAL)
        return first, own.index(name) if name in own else len(own), row["generator"] == NEAREST

    return sorted(rows, key=place)
