"""Features side by side: means over seeds, and paired differences to the best baseline."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wsl.probes.cross_validation import Finding
from wsl.probes.metrics import interval
from wsl.probes.probe import Probe

Key = tuple[str, int | None, str]
"""Features, seed of the representation (None for what has none), subset."""


def compare(found: Mapping[Key, Sequence[Finding]], kinds: Mapping[str, str]) -> list[dict[str, Any]]:
    """Returns all rows, with `kind`, `seed` and the paired difference to the best baseline.

    Several seeds get a further row, `seed: "mean"`: the mean of their scores, resample by resample. The best baseline of a
    target is the one with the highest score among those that do not read the target; differences are of scores on the same
    resamples. Only the embedding, and what is joined to it, is compared.
    """
    everything = {**found, **_means(found)}
    best = _best_baselines(found, kinds)
    rows = []
    for (features, seed, subset), findings in everything.items():
        others = {
            key[0]: alike
            for key, alike in everything.items()
            if kinds[key[0]] == "embedding" and key[0] != features and key[1:] == (seed, subset)
        }
        for finding in findings:
            row, about = finding.row, {"subset": subset, "features": features, "kind": kinds[features], "seed": seed}
            if kinds[features] in ("embedding", "joined") and finding.resampled is not None:
                if bar := best.get((subset, row["target"], row["metric"])):
                    told = difference(finding, bar[1])
                    about |= {"best_baseline": bar[0], "difference": told["difference"]}
                    about |= {"difference_low": told["low"], "difference_high": told["high"]}
                about["difference_to"] = {
                    other: difference(finding, beside)
                    for other, alike in others.items()
                    for beside in alike
                    if all(beside.row[key] == row[key] for key in ("target", "metric", "control")) and beside.resampled is not None
                }
            rows.append({**about, **row})
    return rows


def difference(finding: Finding, beside: Finding) -> dict[str, float]:
    """Returns the paired difference of two scores with its interval."""
    assert finding.resampled is not None
    assert beside.resampled is not None
    low, high = interval(finding.resampled - beside.resampled)
    return {"difference": finding.row["value"] - beside.row["value"], "low": low, "high": high}


def marked(findings: Sequence[Finding], reads: Sequence[str], probes: Mapping[str, Probe]) -> list[Finding]:
    """Marks targets as given for features that read them."""
    return [Finding({**one.row, "given": probes[one.row["target"]].column in reads}, one.resampled) for one in findings]


def _best_baselines(found: Mapping[Key, Sequence[Finding]], kinds: Mapping[str, str]) -> dict[tuple, tuple[str, Finding]]:
    """Returns the name and the finding of the best baseline by (subset, target, metric)."""
    best: dict[tuple, tuple[str, Finding]] = {}
    for (features, _, subset), findings in found.items():
        for finding in findings:
            row = finding.row
            if kinds[features] != "baseline" or row["control"] or row["given"] or row["value"] is None:
                continue
            key = (subset, row["target"], row["metric"])
            if key not in best or row["value"] > best[key][1].row["value"]:
                best[key] = (features, finding)
    return best


def _means(found: Mapping[Key, Sequence[Finding]]) -> dict[tuple[str, str, str], list[Finding]]:
    """Returns the mean over seeds of each finding of features that have several."""
    together: dict[tuple[str, str, str], list[Sequence[Finding]]] = {}
    for (features, seed, subset), findings in found.items():
        if seed is not None:
            together.setdefault((features, "mean", subset), []).append([f for f in findings if f.row["control"] is None])
    return {key: [_mean(alike) for alike in zip(*seeds, strict=True)] for key, seeds in together.items() if len(seeds) > 1}


def _mean(findings: Sequence[Finding]) -> Finding:
    """Returns the mean score of several seeds, and its interval."""
    rows = [finding.row for finding in findings]
    if any(row["value"] is None for row in rows):
        return findings[0]
    resampled = np.mean([finding.resampled for finding in findings if finding.resampled is not None], axis=0)
    low, high = interval(resampled)
    above = None if rows[0]["above_permuted"] is None else all(row["above_permuted"] for row in rows)
    value = float(np.mean([row["value"] for row in rows]))
    return Finding({**rows[0], "value": value, "low": low, "high": high, "above_permuted": above}, resampled)
