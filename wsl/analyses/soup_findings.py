"""Tables and charts of soups, means over epochs and paths between models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from wsl.analyses.analysis import Chart, Findings, Table
from wsl.analyses.connectivity import barriers
from wsl.analyses.soup_rows import Row
from zoo_gen.wording import counted

LEAD = (
    "A soup is one model: a mean of weights, whose coefficients are chosen on val images. Gains are differences of test accuracy "
    "to the best single model by val; over epochs, to the final epoch and to the best one by val. They are paired, with 95 % "
    "intervals by a bootstrap over families (root and head type). Corrupted: the mean over all corruptions of the test images. "
    "Ingredients: the mean number of models with a coefficient above .01. Barrier: the mean excess of the val loss on the line "
    "from the best ingredient to each other one. An ensemble runs all of its models."
)


def findings(
    rows: Sequence[Row],
    paths: Mapping[str, Float[np.ndarray, "pairs points"]],
    families: int,
    corruptions: Mapping[str, Sequence[float]],
    notes: Sequence[str],
) -> Findings:
    """Returns the findings of `wsl.analyses.soups.Soups`."""
    settings = list(dict.fromkeys(row.setting for row in rows))
    tables = [_table(setting, [row for row in rows if row.setting == setting]) for setting in settings]
    charts = [_chart(rows, key) for key in ("clean", "corrupted") if np.isfinite(rows[0].scores.corrupted).any() or key == "clean"]
    heights = {name: barriers(losses) for name, losses in paths.items()}
    if paths:
        about = [[name, len(losses), float(losses.mean()), *_mean(heights[name])] for name, losses in paths.items()]
        head = ["models, path", "pairs", "mean test loss", "mean barrier", "largest barrier"]
        tables.append(Table("Mode connectivity: test loss on paths between two models", head, about))
        steps = {name: np.linspace(0, 1, losses.shape[1]).round(4) for name, losses in paths.items()}
        series = {
            name: [[float(t), float(y)] for t, y in zip(steps[name], losses.mean(0), strict=True)] for name, losses in paths.items()
        }
        charts.append(Chart("paths", "Test loss on paths between two models", "lines", "t", "mean test loss", {"series": series}))
    numbers = {
        "families": families,
        "corruptions": corruptions,
        "rows": [_numbers(row) for row in rows],
        "paths": {name: {"losses": losses.mean(0), "barriers": heights[name]} for name, losses in paths.items()},
    }
    return Findings("Soups and averaging", LEAD, numbers, tables, charts, notes)


def _mean(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.max())


def _numbers(row: Row) -> dict[str, Any]:
    return {
        "setting": row.setting,
        "recipe": row.recipe,
        "groups": len(row.families),
        "accuracy": {key: float(getattr(row.scores, key).mean()) for key in ("clean", "corrupted")},
        "ingredients": float(np.mean(row.used)) if row.used else None,
        "barrier": float(np.mean(row.barrier)) if row.barrier else None,
        "gain": row.gain,
    }


def _table(setting: str, rows: Sequence[Row]) -> Table:
    references = list(dict.fromkeys(name for row in rows for name in row.gain or {}))
    of = [f"gain over {name}, {key}" for name in references for key in ("clean", "corrupted")]
    has_ingredients = any(row.used for row in rows)
    body = []
    for row in rows:
        found = _numbers(row)
        cells = [found["recipe"], *([found["ingredients"], found["barrier"]] if has_ingredients else [])]
        cells += [found["accuracy"]["clean"], found["accuracy"]["corrupted"]]
        body.append([*cells, *(_gain(row, name, key) for name in references for key in ("clean", "corrupted"))])
    head = ["recipe", *(["ingredients", "barrier"] if has_ingredients else []), "clean", "corrupted", *of]
    return Table(
        f"{'Means' if setting == 'over epochs' else 'Soups'} {setting} ({counted(len(rows[0].families), 'group')})", head, body
    )


def _gain(row: Row, name: str, key: str) -> str:
    found = (row.gain or {}).get(name, {}).get(key)
    if found is None or not np.isfinite(found).all():
        return "–"
    mean, low, high = found
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def _chart(rows: Sequence[Row], key: str) -> Chart:
    shown = []
    for row in rows:
        for name, found in (row.gain or {}).items():
            if name in ("best single by val", "final epoch") and (gain := found[key]) is not None:
                shown.append([f"{row.recipe} ({row.setting})", *gain])
    title = f"Gain in test accuracy over one model, {key} images"
    return Chart(f"gains-{key}", title, "intervals", "gain", "", {"rows": shown})
