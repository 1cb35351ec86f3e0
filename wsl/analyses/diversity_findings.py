"""Tables and charts of the diversity of a population."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wsl.analyses.analysis import Chart, Findings, Table

LEAD = (
    "All pairs of fine-tuned models at their final epochs. Disagreement is the share of test images on which two models predict "
    "different classes. Error overlap is the share of errors that two models have in common. The Jensen-Shannon divergence is in "
    "bits. Debiased CKA is 0 for unrelated features, and 1 for features that are equal up to rotation. Explained variance is of "
    "type II: the share of a factor beside all others, with 95 % intervals from bootstraps over models."
)

SHOWN = ("L2", "L2 modulo symmetry", "disagreement", "Jensen-Shannon")
"""Matrices that are drawn."""


def findings(numbers: Mapping[str, Any], factors: Sequence[str], notes: Sequence[str]) -> Findings:
    """Returns the findings of `wsl.analyses.diversity.Diversity`."""
    tables = [_pairs(numbers["pairs"]), _layers(numbers["weights"])]
    charts = [_heatmap(name, numbers) for name in SHOWN if name in numbers["matrices"]]
    if "behaviour" in numbers:
        tables.append(_robustness(numbers["behaviour"]))
        charts.append(_robustness_chart(numbers["behaviour"]))
    if variance := numbers["explained_variance"]:
        tables.append(_variance(variance))
        charts += [_variance_chart(name, variance[name]) for name in ("L2", "accuracy") if name in variance]
    return Findings("Diversity", LEAD, numbers, tables, charts, notes)


def _pairs(pairs: Mapping[str, Mapping[str, float | None]]) -> Table:
    rows = [[name, found["all"], found["same_root"], found["other_roots"]] for name, found in pairs.items()]
    return Table("Medians over pairs of models", ["between models", "all pairs", "of one root", "of two roots"], rows)


def _layers(weights: Mapping[str, Any]) -> Table:
    rows = []
    for name, found in {**weights["by_layer"], "all weights": weights["all"]}.items():
        to_root = found.get("distance_to_root")
        median = None if to_root is None else float(np.median(to_root))
        rank = float(found["effective_rank"])
        rows.append([name, float(np.median(found["norm"])), median, float(found["median_distance"]), rank])
    head = ["layer", "norm", "distance to the root", "distance of two models", "effective rank"]
    return Table("Weights by layer, medians over models", head, rows)


def _robustness(behaviour: Mapping[str, Any]) -> Table:
    def row(name: str, values: Any) -> list:
        quartiles = np.quantile(np.asarray(values, dtype=float), [0.25, 0.5, 0.75])
        return [name, *map(float, quartiles[[1, 0, 2]])]

    rows = [row("test accuracy", behaviour["accuracy"]), row("expected calibration error", behaviour["calibration_error"])]
    for kind, by_strength in behaviour["robustness"].items():
        rows += [row(f"accuracy, {kind} {strength}", values) for strength, values in by_strength.items()]
    return Table("Behaviour on test images", ["", "median", "lower quartile", "upper quartile"], rows)


def _robustness_chart(behaviour: Mapping[str, Any]) -> Chart:
    clean = np.quantile(behaviour["accuracy"], [0.5, 0.25, 0.75])
    series = {
        kind: [[0, *map(float, clean)]]
        + [[n, *map(float, np.quantile(values, [0.5, 0.25, 0.75]))] for n, values in enumerate(by_strength.values(), 1)]
        for kind, by_strength in behaviour["robustness"].items()
    }
    return Chart(
        "robustness", "Accuracy under corruptions", "lines", "strength (place in the list)", "test accuracy", {"series": series}
    )


def _variance(variance: Mapping[str, Mapping[str, Any]]) -> Table:
    responses = list(variance)
    rows = []
    for term, about in variance[responses[0]].items():
        shares = [_share(variance[name][term]) for name in responses]
        rows.append([term, str(about["df"]), *shares])
    return Table("Explained variance, type II", ["factor", "df", *responses], rows)


def _share(found: Mapping[str, Any]) -> str:
    low, high = found["interval"]
    return "–" if not np.isfinite(found["share"]) else f"{found['share']:.3f} [{low:.3f}, {high:.3f}]"


def _variance_chart(name: str, found: Mapping[str, Mapping[str, Any]]) -> Chart:
    rows = [[term, one["share"], *one["interval"]] for term, one in found.items() if np.isfinite(one["share"])]
    title = f"Variance of {'weights' if name == 'L2' else name} explained by factors"
    slug = "weights" if name == "L2" else name
    return Chart(f"explained-variance-{slug}", title, "intervals", "share of the variance", "", {"rows": rows})


def _heatmap(name: str, numbers: Mapping[str, Any]) -> Chart:
    """The pairs of a matrix, ordered by root and, within it, by accuracy."""
    roots = [str(root) for root in numbers["roots"]]
    accuracy = numbers.get("behaviour", {}).get("accuracy", np.zeros(len(roots)))
    order = sorted(range(len(roots)), key=lambda place: (roots[place], accuracy[place]))
    values = np.asarray(numbers["matrices"][name])[np.ix_(order, order)]
    slug = name.lower().replace(" ", "-")
    data = {"values": np.round(values, 3), "groups": [roots[place] for place in order]}
    return Chart(slug, f"{name} of all pairs, by root", "heatmap", "model", "model", data)
