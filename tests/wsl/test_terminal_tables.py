"""Tables on the terminal: every cell whole, no line over 80 columns, every word explained."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
from rich.console import Console, RenderableType
from rich.table import Table

from wsl.reporting.generator_table import generator_table
from wsl.reporting.probe_table import probe_table
from wsl.reporting.terminal_tables import prediction_table, summary
from wsl.run import Run

WIDEST = {"value": -0.333, "low": -2.468, "high": -0.181}
FEATURES = ["embedding", "statistics", "statistics_task_vector", "weight_pca_task_vector", "embedding_and_hand_made"]


def printed(table: RenderableType) -> list[str]:
    out = io.StringIO()
    Console(width=80, file=out).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def score(features: str, target: str = "test_accuracy", metric: str = "r2", subset: str = "all", **changes: Any) -> dict[str, Any]:
    about = {"split": "leave_root_out", "fold": 10, "n_models": 240, "smoke_test": True, "trivial": False, "control": None}
    limits = {"chance": 0.0, "noise_ceiling": 0.987, "above_permuted": False}
    measured = {"features": features, "target": target, "metric": metric, "subset": subset}
    return {**about, **limits, **measured, **WIDEST, **changes}


def probe_rows(features: list[str] = FEATURES) -> list[dict[str, Any]]:
    targets = [
        ("test_accuracy", "r2"),
        ("test_accuracy", "kendall_tau"),
        ("learning_rate", "r2"),
        ("optimizer", "balanced_accuracy"),
    ]
    rows = [
        score(*(name, target, metric, subset)) for subset in ("all", "final") for target, metric in targets for name in features
    ]
    return [*rows, score(features[0], control="permuted targets")]


def generated(name: str, flags: list[str], **settings: Any) -> dict[str, Any]:
    accuracy = {"median": 0.671, "q25": 0.502, "q75": 0.757}
    return {
        "generator": name,
        "settings": settings,
        "n": 200,
        "accuracy": accuracy,
        "novelty": 10.27,
        "diversity": None,
        "flags": flags,
        "flagged": {"copied": 0.955},
        "good_and_new": {bar: {"share": 0.045, "low": 0.021, "high": 0.107} for bar in ("median", "top_quartile", "best")},
        "uses": None if name == "train models" else "weights" if name == "weight_gaussian" else "labels",
        "cost": None if name == "train models" else {"gradient_evaluations": 1234.0, "cpu_seconds": 12.345},
    }


GENERATED = [
    generated("train models", [])
    | {
        "bars": {"median": 0.676, "top_quartile": 0.827, "best": None},
        "scale": "held-out models",
        "frontier": [
            {"generator": "weight_gaussian", "at_least": level, "accuracy": best, "low": best, "high": best}
            for level, best in zip((0.25, 0.5, 0.75, 1.0), (0.71, 0.7, 0.58, None), strict=True)
        ],
    },
    generated("weight_gaussian", ["copied", "collapsed"], spread=2.5, anchors=None),
    generated("weight_gaussian", ["collapsed"], spread=2.5, anchors=4),
    generated("generator_with_long_name", ["copied"], temperature=0.125, steps=1000, guidance=7.5),
]


def run() -> Run:
    frame = pd.DataFrame({"model": ["a", "b"], "test_accuracy": [0.5, 0.7]})

    class SmallZoo:
        frame = pd.DataFrame({"model": ["a", "b"], "test_accuracy": [0.5, 0.7]})

        def select(self, **_: Any) -> "SmallZoo":
            return self

        def __len__(self) -> int:
            return len(frame)

    return cast(Run, SimpleNamespace(path=Path("runs/demo"), zoo=SmallZoo()))


def summed_up(metrics: list[dict[str, Any]]) -> list[str]:
    return printed(summary(run(), metrics=metrics, probes=probe_rows(), samples=GENERATED))


VALIDATED = [{"event": "validation", "step": 1, "accuracy_original": 0.54, "accuracy_decoded": 0.38}]
TABLES = {
    "probes": lambda: printed(probe_table(probe_rows())),
    "generators": lambda: printed(generator_table(GENERATED)),
    "summary": lambda: summed_up(VALIDATED),
}


@pytest.mark.parametrize("name", TABLES)
def test_no_line_is_longer_than_eighty_columns_and_no_cell_is_cut(name: str) -> None:
    lines = TABLES[name]()
    assert max(map(len, lines)) <= 80
    cut = [line for line in lines if (line + " ").replace("chance… ", "").count("… ")]
    assert cut == []


def test_scores_of_final_checkpoints_are_left_out_by_one_sentence_where_they_are_those_of_all() -> None:
    alone = [row for row in probe_rows() if row["subset"] == "all"]
    for rows, once in ((probe_rows(), 0), (alone, 1)):
        for said in (printed(probe_table(rows)), printed(summary(run(), metrics=[], probes=rows, samples=[]))):
            text = " ".join(" ".join(said).split())
            assert text.count("Each model has one checkpoint: all checkpoints are final ones.") == once
            assert max(map(len, said)) <= 80


@pytest.mark.parametrize(
    "names", [["a.safetensors", "long/" * 12 + "name_of_a_model.safetensors"], ["long_" * 15 + "name.safetensors"]]
)
def test_a_name_of_a_file_is_whole_in_the_table_of_predictions_however_long(names: list[str]) -> None:
    numbers = {f"test_accuracy{end}": [0.5] * len(names) for end in ("", "_low", "_high")}
    about = {"taken_root": "root", "out_of_distribution": "beyond the limit of distances from the train models " * 3, "error": ""}
    table = pd.DataFrame({"checkpoint": names, **about, **numbers})
    out = io.StringIO()
    Console(width=80, file=out).print(prediction_table(table, test_set="test images of zoo demo"), crop=False)
    lines = out.getvalue().splitlines()
    assert all(sum(name in line for line in lines) == 1 for name in names)
    assert "…" not in "".join(lines).replace("0.5…0.5", "")
    assert max(map(len, lines)) < len(max(names, key=len)) + 130


def test_a_table_that_is_too_wide_would_be_seen() -> None:
    table = Table("target", *FEATURES)
    table.add_row("test_accuracy", *["*−0.33 −2.47…−0.18"] * len(FEATURES))
    whole = "*−0.33 −2.47…−0.18"
    assert not [line for line in printed(table) if whole in line]
    assert [line for line in printed(probe_table(probe_rows())) if whole in line]


def test_features_that_do_not_fit_follow_in_a_further_table() -> None:
    few, many = (printed(probe_table(probe_rows(FEATURES[:n]))) for n in (2, 5))
    assert few.count("All checkpoints") == 1
    assert many.count("All checkpoints") == 3
    assert sum(line.count("*−0.33 −2.47…−0.18") for line in many) == 2 * 4 * 5


def test_targets_that_nothing_is_defined_for_are_left_out() -> None:
    nothing: dict[str, Any] = {"value": None, "low": None, "high": None, "noise_ceiling": None, "chance": None}
    rows = [*probe_rows(), *(score(name, "epoch", **nothing) for name in FEATURES)]
    assert not [line for line in printed(probe_table(rows)) if line.startswith("epoch")]
    assert [line for line in printed(probe_table([*rows, score("embedding", "epoch")])) if line.startswith("epoch")]


def test_a_score_above_its_noise_ceiling_is_marked_interval_and_all() -> None:
    scores = {"value": 0.995, "low": 0.991, "high": 0.998, "above_permuted": True}
    said = " ".join(printed(probe_table([score("leak", **scores), score("fair", **{**scores, "low": 0.98})])))
    assert said.count("!0.9") + said.count("!1.0") == 1


def test_features_that_contain_the_target_have_no_score() -> None:
    scores = {"value": 0.995, "low": 0.991, "high": 0.998, "above_permuted": True}
    said = " ".join(printed(probe_table([score("told", **scores, given=True), score("fair", **scores, given=False)])))
    assert said.count("(given) ") == 1
    assert said.count("!1.00") + said.count("!0.99") == 1


def test_the_summary_marks_and_explains_a_score_above_its_noise_ceiling() -> None:
    leaking = {"value": 0.997, "low": 0.99, "high": 1.0, "above_permuted": True}
    for probes, marked in [([score("leak", **leaking)], True), (probe_rows(), False)]:
        said = " ".join(printed(summary(run(), metrics=[], probes=probes, samples=[])))
        assert ("!1.00" in said) == marked
        assert ("!: above the noise ceiling" in said) == marked


def test_words_and_marks_of_the_tables_are_explained_under_them() -> None:
    probes, samples = (" ".join(TABLES[name]()) for name in ("probes", "generators"))
    for word in (
        "low…high: 95 % interval",
        "noise ceiling:",
        "*: not above",
        "!: above the noise ceiling",
        "–: nothing",
        "control: median R² of permuted targets",
    ):
        assert word in probes
    for word in ("Novelty:", "Diversity:", "copied: novelty below 0.25", "collapsed: diversity below 0.25", "Good and new:"):
        assert word in samples
    assert "1: as a freshly trained model that is as good" in samples
    assert "median of train models (0.68)" in samples


def test_settings_stand_under_their_generator_and_break_between_settings_only() -> None:
    lines = printed(generator_table(GENERATED))
    lines = lines[lines.index("Generated models") :]
    assert lines.index("weight_gaussian") + 1 == next(i for i, line in enumerate(lines) if "spread=2.5" in line)
    for setting in ("temperature=0.125", "steps=1000", "guidance=7.5"):
        assert sum(setting in line for line in lines) == 1, setting


def test_a_flag_stands_beside_the_figure_that_raised_it() -> None:
    *_, line = (line for line in printed(generator_table(GENERATED)) if "spread=2.5" in line)
    assert line.endswith("–  collapsed")
    assert "copied" not in line


def test_generators_stand_under_the_class_of_what_they_use() -> None:
    lines = printed(generator_table(GENERATED))
    lines = lines[lines.index("Generated models") :]
    places = [lines.index(word) for word in ("weights", "weight_gaussian", "labels")]
    assert places == sorted(places)
    assert "labels" not in printed(generator_table([row for row in GENERATED if row["uses"] != "labels"]))


def test_the_frontier_is_the_last_table_and_has_a_dash_where_no_setting_reaches() -> None:
    lines = printed(generator_table(GENERATED))
    (line,) = (line for line in lines[lines.index("Frontier") :] if line.startswith("weight_gaussian"))
    assert line.split() == ["weight_gaussian", "0.71", "0.71…0.71", "0.70", "0.70…0.70", "0.58", "0.58…0.58", "–"]


def test_the_summary_tells_of_decoded_models_only_where_there_are_some() -> None:
    assert any("decoded" in line for line in summed_up(VALIDATED))
    assert not any("decoded" in line for line in summed_up([{"event": "validation", "step": 1, "loss": 0.1}]))
