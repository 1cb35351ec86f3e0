"""Figures and tables of the benchmarks are drawn from rows alone, the same ones every time; those of the docs are up to date."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from wsl.reporting import label_curves
from wsl.reporting.benchmark_tables import tables, write_figures
from wsl.reporting.static_figures import COLOURS, curve_figure, score_figure

RESULTS = Path(__file__).parent.parent.parent / "docs" / "results"
TABLES = sorted(path.stem for path in RESULTS.glob("*.md") if not path.stem.startswith("compression"))
KINDS = {"statistics": "baseline", "spectra": "baseline", "noise_outputs": "reference", "embedding": "embedding"}


def row(features: str, value: float, seed: Any = None, labelled: int | None = None, **changes: Any) -> dict[str, Any]:
    about = {"target": "test_accuracy", "subset": "all", "metric": "r2", "control": None, "given": False, "trivial": False}
    interval = {"value": value, "low": value - 0.1, "high": value + 0.1, "chance": 0.0, "noise_ceiling": 0.9, "split": "by_model"}
    return {**about, **interval, "features": features, "kind": KINDS[features], "seed": seed, "labelled": labelled} | changes


ROWS = [
    row(features, value - (labelled == 8) / 4, seed, labelled)
    for features, seed, value in [
        ("statistics", None, 0.5),
        ("spectra", None, 0.6),
        ("noise_outputs", None, 0.8),
        ("embedding", 0, 0.6),
        ("embedding", 1, 0.8),
        ("embedding", "mean", 0.7),
    ]
    for labelled in (8, None)
]
FIGURES = {"scores": score_figure, "curves": curve_figure}


def words_of(svg: str) -> list[str]:
    return [text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("}text") and (text := element.text)]


def strokes(svg: str, colour: str) -> int:
    return svg.lower().count(f"stroke: {colour.lower()}")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_names_its_features_targets_and_marks_as_text(name: str) -> None:
    words = words_of(FIGURES[name](ROWS))
    for word in ("test accuracy", "all checkpoints", "R²", "noise ceiling", "embedding"):
        assert word in words
    assert any("95 % intervals" in word for word in words)


def test_single_seeds_are_left_out_where_there_is_a_mean() -> None:
    assert not [word for word in words_of(score_figure(ROWS)) if "seed 0" in word]
    single = [one for one in ROWS if one["seed"] != "mean"]
    assert "embedding, seed 0" in words_of(score_figure(single))


def test_features_that_contain_the_target_are_left_out() -> None:
    given = [{**one, "given": one["features"] == "spectra"} for one in ROWS]
    assert "spectra" in words_of(score_figure(ROWS))
    assert "spectra" not in words_of(score_figure(given))


def test_a_panel_has_its_noise_ceiling_where_it_is_known() -> None:
    unknown = [{**one, "noise_ceiling": None} for one in ROWS]
    assert score_figure(ROWS).count("stroke-dasharray") == score_figure(unknown).count("stroke-dasharray") + 1


def test_a_reference_is_no_baseline_of_curves() -> None:
    alone = [one for one in ROWS if one["features"] != "noise_outputs"]
    assert curve_figure(ROWS) == curve_figure(alone)
    assert score_figure(ROWS) != score_figure(alone)
    assert strokes(score_figure(ROWS), COLOURS["reference"]) > strokes(score_figure(alone), COLOURS["reference"])


def test_a_score_below_the_axis_is_drawn_at_its_edge() -> None:
    low = [{**one, "value": -40.0, "low": -50.0, "high": -30.0} if one["features"] == "statistics" else one for one in ROWS]
    places = [float(x) for x in re.findall(r'<use [^>]*x="([-\d.]+)"', score_figure(low))]
    assert min(places) > 0
    assert score_figure(low) != score_figure(ROWS)


def test_another_process_draws_the_same_bytes() -> None:
    code = (
        "import json, sys; from wsl.reporting.static_figures import score_figure; print(score_figure(json.load(sys.stdin)), end='')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(RESULTS.parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(ROWS), capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout == score_figure(ROWS)
    assert done.stdout != score_figure([{**one, "value": one["value"] + 0.01} for one in ROWS])


def test_there_is_one_figure_per_split(tmp_path: Path) -> None:
    write_figures([*ROWS, *({**one, "split": "leave_root_out"} for one in ROWS)], tmp_path / "found.json")
    assert {path.name for path in tmp_path.iterdir()} == {"found_by_model.svg", "found_leave_root_out.svg"}


def test_figures_of_the_docs_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in RESULTS.glob("*.svg")}
    assert len(sizes) >= 5
    assert {name: size for name, size in sizes.items() if size >= 150_000} == {}


def made_from(stem: str, rows: list[dict[str, Any]]) -> str:
    """The tables of some rows under the heading of those in the docs."""
    lines = (RESULTS / f"{stem}.md").read_text(encoding="utf-8").splitlines()
    title, (command,) = lines[0].removeprefix("# "), re.findall(r"`python -m ([\w.]+)`", lines[2])
    if command == "wsl.property_prediction":
        return tables(rows, zoo=title.removeprefix("Property prediction on "))
    return label_curves.tables(rows, title=title, command=command)


@pytest.mark.parametrize("stem", TABLES)
def test_tables_of_the_docs_are_those_of_the_rows_beside_them(stem: str) -> None:
    rows = json.loads((RESULTS / f"{stem}.json").read_text(encoding="utf-8"))
    written = (RESULTS / f"{stem}.md").read_text(encoding="utf-8")
    assert made_from(stem, rows) == written
    first = next(i for i, one in enumerate(rows) if one["value"] is not None and not one["control"] and one["metric"] == "r2")
    rows[first] |= {"value": rows[first]["value"] + 0.1}
    assert made_from(stem, rows) != written
