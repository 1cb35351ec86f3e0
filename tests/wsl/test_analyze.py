"""Analyses of a population: any card, findings as data, in the report, and left out where a zoo lacks something."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rich.progress import Progress

from tests.commands import call, refused
from wsl.analyses.analysis import Chart, Findings, Subject, Table, run_analyses
from wsl.analyses.diversity import Diversity, factors_of
from wsl.analyses.soups import Soups
from wsl.analyze import main
from wsl.reporting.run_report import analyses_of
from zoo_gen import InputError, Zoo, config

CORRUPTIONS = {"noise": [0.5]}
DIVERSITY = Diversity(corruptions=CORRUPTIONS, cka_images=16, n_bootstrap=3, seed=0)
SOUPS = Soups(
    corruptions=CORRUPTIONS,
    others=1,
    last=[2],
    decays=[0.5],
    best=[2],
    learned={"steps": 2, "rate": 0.1},
    loss={"images": 8, "steps": 1, "rate": 0.02},
    curve={"steps": 2, "rate": 0.003, "batch_size": 8, "pairs": 1},
    seed=0,
)
OWN = '''
from wsl.analyses.analysis import Chart, Findings, Table

class Count:
    """Counts models."""
    def __call__(self, subject, progress):
        n = len(subject.finals)
        chart = Chart("count", "Count", "intervals", "models", "", {"rows": [["zoo", n, n, n]]})
        return Findings("Count", "Models.", {"n": n}, [Table("Models", ["what", "n"], [["all", n]])], [chart])
'''


@pytest.fixture
def own_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An analysis in a temporary package, whose card lies in a copy of the folder of cards."""
    import wsl.analyses

    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "own_count.py").write_text(OWN)
    cards = tmp_path / "configs"
    shutil.copytree(config.CONFIGS, cards)
    (cards / "analysis" / "own_count.yaml").write_text("_target_: wsl.analyses.own_count.Count\n")
    monkeypatch.setattr(wsl.analyses, "__path__", [*wsl.analyses.__path__, str(tmp_path / "package")])
    monkeypatch.setattr(config, "CONFIGS", cards)
    caches = [config.resolve.__globals__["_targets"], config.card_names]
    for cache in caches:
        cache.cache_clear()
    yield "own_count"
    for cache in caches:
        cache.cache_clear()
    sys.modules.pop("wsl.analyses.own_count", None)


def test_an_analysis_in_a_package_of_its_own_runs_is_drawn_and_is_in_the_report(
    own_card: str, short_zoo: Path, tmp_path: Path
) -> None:
    place = tmp_path / "zoo"
    shutil.copytree(short_zoo, place)
    call(main, f"zoo={place}", f"analysis={own_card}")
    stored = json.loads((place / "analysis" / "analysis.json").read_text())
    assert stored["analyses"][own_card]["numbers"] == {"n": 6}
    assert (place / "analysis" / "own_count_count.svg").is_file()
    assert (place / "analysis" / "own_count_count.png").is_file()
    sections = analyses_of(Zoo.open(place))
    assert [section.title for section in sections] == ["Count"]


def test_findings_of_analyses_that_ran_before_stay(own_card: str, short_zoo: Path, tmp_path: Path) -> None:
    from wsl.analyses.stored import subject_of, with_findings

    subject = subject_of(Subject(Zoo.open(short_zoo)))
    place = tmp_path / "analysis.json"
    found = {"title": "", "lead": "", "notes": [], "tables": [], "charts": [], "numbers": {}}
    place.write_text(json.dumps(with_findings(place, subject, {"a": found})))
    assert set(with_findings(place, subject, {"b": found})["analyses"]) == {"a", "b"}
    assert set(with_findings(place, {**subject, "content_hash": "other"}, {"b": found})["analyses"]) == {"b"}


def test_damaged_findings_are_refused(tmp_path: Path) -> None:
    from wsl.analyses.stored import read_findings

    (tmp_path / "analysis.json").write_text('{"subject": {}, "analyses": {"a": 1}}')
    with pytest.raises(InputError, match="delete it"):
        read_findings(tmp_path / "analysis.json")


def test_neither_zoo_nor_path_is_refused() -> None:
    assert "zoo=<name or path>" in refused(main, "analysis=diversity")


def test_an_unknown_analysis_is_refused(short_zoo: Path) -> None:
    assert "no card 'nothing'" in refused(main, f"zoo={short_zoo}", "analysis=nothing")


def test_an_analysis_that_a_subject_has_nothing_for_is_left_out_with_a_note(short_zoo: Path) -> None:
    class Counts:
        def __call__(self, subject: Subject, progress: Progress) -> Findings:
            return Findings("", "", {})

    notes: list[str] = []
    folder = Subject(None, Path("models"))
    with Progress(disable=True) as progress:
        assert set(run_analyses({"a": Counts(), "b": SOUPS}, folder, progress, note=notes.append)) == {"a"}
        assert "zoo_gen.adopt" in notes[0]
        with pytest.raises(InputError, match="without an index"):
            run_analyses({"b": SOUPS}, folder, progress, note=notes.append)


def test_diversity_of_a_zoo(tiny_zoo: Path) -> None:
    zoo = Zoo.open(tiny_zoo)
    with Progress(disable=True) as progress:
        found = DIVERSITY(Subject(zoo), progress)
    numbers = found.numbers
    frame = zoo.select(stage="finetune", final=True, status="ok").frame
    assert numbers["behaviour"]["accuracy"] == pytest.approx(frame["test_accuracy"].to_numpy(), abs=1e-6)
    modulo, raw = (numbers["matrices"][name] for name in ("L2 modulo symmetry", "L2"))
    assert modulo.shape == raw.shape == (48, 48)
    assert np.allclose(modulo, modulo.T)
    shares = numbers["explained_variance"]["accuracy"]
    assert {"root", "head", "learning_rate"} <= set(shares)
    json.dumps(found.as_json(), allow_nan=False)


def test_factors_that_roots_tell_are_left_out(tiny_zoo: Path) -> None:
    frame = Zoo.open(tiny_zoo).select(stage="finetune", final=True).frame
    assert factors_of(frame) == ["root", "head", "optimizer", "learning_rate", "weight_decay"]


def test_soups_of_a_zoo(tiny_zoo: Path) -> None:
    with Progress(disable=True) as progress:
        found = SOUPS(Subject(Zoo.open(tiny_zoo)), progress)
    rows = {(row["setting"], row["recipe"]): row for row in found.numbers["rows"]}
    assert {"of one root", "of several roots", "over epochs"} <= {setting for setting, _ in rows}
    assert rows["of several roots", "best single by val"]["accuracy"] == rows["of one root", "best single by val"]["accuracy"]
    aligned = rows["of several roots, aligned by weights", "best single by val"]
    assert aligned["accuracy"] == rows["of several roots", "best single by val"]["accuracy"]
    assert rows["over epochs", "last 2"]["gain"]["final epoch"]["clean"] is not None
    assert len(found.numbers["paths"]["of one root, line"]["losses"]) == 9
    json.dumps(found.as_json(), allow_nan=False)


@pytest.mark.parametrize("wrong", [{"cka_images": 3}, {"corruptions": {"fog": [1.0]}}, {"corruptions": {"blur": [-1.0]}}])
def test_settings_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(InputError):
        Diversity(**{"corruptions": CORRUPTIONS, "cka_images": 16, "n_bootstrap": 3, "seed": 0, **wrong})


def test_findings_are_drawn_whatever_their_names_are() -> None:
    from wsl.reporting.analysis_charts import static
    from wsl.reporting.analysis_section import analysis_sections, markdown

    hostile = "</script>$x|<img>"
    data = {"heatmap": {"values": [[0, None], [1, 2]], "groups": [hostile, "b"]}}
    data |= {"lines": {"series": {hostile: [[0, 1, 0, 2], [1, None, None, None]]}}, "intervals": {"rows": [[hostile, 1, 0, 2]]}}
    charts = [Chart(hostile, hostile, kind, hostile, hostile, one) for kind, one in data.items()]
    table = Table(hostile, [hostile, "n"], [[hostile, None]])
    stored = {"analyses": {"own": Findings(hostile, hostile, {}, [table], charts, [hostile]).as_json()}}
    body = "".join(analysis_sections(stored)[0].body)
    assert "<img>" not in body
    assert "\\|" in markdown(stored)
    for chart in stored["analyses"]["own"]["charts"]:
        svg, png = static(chart)
        assert static(chart) == (svg, png)
