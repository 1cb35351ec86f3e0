"""The report: drawn in a real browser, safe against foreign names, honest about what is missing."""

import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from tests.commands import call, refused
from tests.fuzz_runs import write_results
from wsl.report import main
from wsl.reporting import figures
from wsl.reporting.page import page
from wsl.reporting.run_report import Results, project, read_rows
from wsl.reporting.sections import (
    embedding_section,
    generation_section,
    missing_section,
    probe_section,
    training_section,
    zoo_section,
)
from wsl.reporting.style import levels
from wsl.run import Run
from zoo_gen import InputError, Zoo
from zoo_gen.splits import Split

HOSTILE = "</script><script>throw Error('name')</script><img src=x onerror=\"throw Error('name')\">"
FACTORS = ["root", "optimizer", "learning_rate"]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr --v=0 --virtual-time-budget=30000 --dump-dom"
)


def population() -> pd.DataFrame:
    """Twelve models with fifteen epochs each; one of their names is hostile, one model has no accuracy at its end."""
    rng = np.random.default_rng(0)
    rows = [
        {"model": f"model {m}", "root": f"root {m % 3}", "optimizer": HOSTILE if m % 2 else "sgd", "epoch": epoch}
        | {"learning_rate": 10.0 ** -(m % 3), "final": epoch == 15, "status": "ok", "path": f"{m}/{epoch}"}
        | {"test_accuracy": None if m == 0 and epoch == 15 else rng.uniform(), "test_loss": rng.uniform(1, 2)}
        | {"x": rng.normal(), "y": rng.normal(), "split": ["train", "val", "test"][m % 3]}
        for m in range(12)
        for epoch in range(1, 16)
    ]
    return pd.DataFrame(rows).astype({"test_accuracy": float})


def metrics() -> list[dict[str, Any]]:
    train = [{"event": "train", "step": s, "loss": 1 / s, "error/q": 1 / s} for s in range(10, 60, 10)]
    accuracy = {"accuracy_original": 0.6, "accuracy_decoded": 0.4}
    errors = {f"error/role {i}": 0.1 * i for i in range(12)} | {"error/absent": None}
    return train + [{"event": "validation", "step": s, "loss": 1 / s, **errors, **accuracy} for s in (20, 40, 60)]


def probe_rows() -> list[dict[str, Any]]:
    same = {"control": None, "chance": 0.0, "noise_ceiling": 0.9, "n_models": 12, "smoke_test": True, "trivial": False}
    same["above_permuted"] = True
    scored = [
        {**same, "subset": subset, "target": target, "features": name, "metric": metric, "value": value}
        for subset in ("all", "final")
        for target, metrics_ in {HOSTILE: ["r2", "kendall_tau"], "optimizer": ["balanced_accuracy"]}.items()
        for name, value in {"embedding": 0.7, "statistics": -40.0}.items()
        for metric in metrics_
    ]
    rows = [{**row, "low": row["value"] - 0.2, "high": row["value"] + 0.2} for row in scored]
    nothing = {"target": "epoch", "metric": "r2", "value": None, "low": None, "high": None, "noise_ceiling": None}
    return [*rows, *({**row, **nothing} for row in rows[0:4:2]), {**rows[0], "control": "permuted targets"}]


def generated_rows() -> list[dict[str, Any]]:
    accuracy = {"median": 0.4, "q25": 0.3, "q75": 0.5}
    row = {"n": 9, "accuracy": accuracy, "diversity": 1.0, "effective_rank_ratio": None, "flags": [], "aligned": False}
    row |= {"good_and_new": {"median": {"share": 0.1, "low": 0.0, "high": 0.2}}, "flagged": {"copied": 0.5}}
    spaces = {"novelty_by_space": {"weights": 2.0, "behaviour": None}}
    return [
        {**row, **spaces, "generator": "kde", "settings": {"bandwidth": 0.5, "anchors": None}, "novelty": 0.8},
        {**row, **spaces, "generator": HOSTILE, "settings": {}, "novelty": 0.0, "flags": ["copied"]},
        {**row, **spaces, "generator": "lonely", "settings": {}, "novelty": None},
    ]


def whole_page() -> str:
    frame = population()
    sections = [
        zoo_section(frame, FACTORS, chance=0.2),
        training_section(metrics(), decodes=True),
        embedding_section(frame, ["test_accuracy", *FACTORS, "split"], explained=[0.5, 0.25], total=360),
        probe_section(probe_rows()),
        generation_section(generated_rows(), chance=0.2),
    ]
    return page(HOSTILE, over=HOSTILE, lead="", sections=sections, footer="")


class Drawing(HTMLParser):
    """Reads from a document which figures plotly has drawn, and the text of each."""

    def __init__(self, document: str):
        super().__init__()
        self.drawn: set[str] = set()
        self.words: dict[str, str] = {}
        self._plot = self._script = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {key: value or "" for key, value in attrs}
        classes = attributes.get("class", "").split()
        self._script = tag if tag == "script" else ""
        if "plot" in classes and tag == "div" and attributes.get("role") == "img":
            self._plot = attributes["id"]
        if "main-svg" in classes:
            self.drawn.add(self._plot)

    def handle_endtag(self, tag: str) -> None:
        self._script = ""
        if tag == "figure":
            self._plot = ""

    def handle_data(self, data: str) -> None:
        if not self._script:
            self.words[self._plot] = self.words.get(self._plot, "") + data + "\n"


Browse = Callable[[str], tuple[Drawing, list[str]]]


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Browse:
    """Opens a page in headless Chromium: returns what it drew and the lines of its console."""
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip(f"no browser to open the report in: install one of {', '.join(names)} (.ci/run does)")

    def open_page(content: str) -> tuple[Drawing, list[str]]:
        folder = tmp_path_factory.mktemp("page")
        (folder / "page.html").write_text(content, encoding="utf-8")
        profile = f"--user-data-dir={folder / 'profile'}"
        command = [browser, *FLAGS.split(), profile, (folder / "page.html").as_uri()]
        done = subprocess.run(command, capture_output=True, timeout=120, check=True)
        console = [line for line in done.stderr.decode(errors="replace").splitlines() if re.search(r":CONSOLE[:(]", line)]
        return Drawing(done.stdout.decode()), console

    return open_page


@pytest.fixture(scope="module")
def opened(browse: Browse) -> tuple[Drawing, list[str]]:
    return browse(whole_page())


def promised(content: str) -> set[str]:
    """Ids of the figures that a page sets out to draw."""
    return set(re.findall(r'<div class="plot" id="([^"]+)"', content))


def test_the_browser_draws_every_figure_without_a_word_in_the_console(opened: tuple[Drawing, list[str]]):
    drawing, console = opened
    assert console == []
    assert drawing.drawn == promised(whole_page())
    assert len(drawing.drawn) == 9


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("function draw(", "function sketch("),
        ("</main>", '</main><script src="https://example.org/plotly.js"></script>'),
        ("</main>", '</main><script>console.error("broken")</script>'),
    ],
    ids=["a function is missing", "a script comes from elsewhere", "an error is logged"],
)
def test_the_browser_catches_a_broken_page(browse: Browse, old: str, new: str):
    content = whole_page()
    assert content.count(old) == 1
    drawing, console = browse(content.replace(old, new))
    assert console
    assert (drawing.drawn == promised(content)) == (old != "function draw(")


def test_a_menu_changes_what_its_figure_shows(browse: Browse, opened: tuple[Drawing, list[str]]):
    choose = (
        '<script>for (const menu of document.querySelectorAll("select")) { menu.selectedIndex = 1; '
        'menu.dispatchEvent(new Event("change")); }</script></body>'
    )
    before, _ = opened
    after, console = browse(whole_page().replace("</body>", choose))
    assert console == []
    assert "root 2" in before.words["learning-curves"]
    assert "sgd" not in before.words["learning-curves"]
    assert "sgd" in after.words["learning-curves"]
    assert "root 2" not in after.words["learning-curves"]


def test_foreign_names_are_text_and_never_markup():
    content = whole_page()
    assert HOSTILE not in content
    assert "<img" not in content.replace(re.findall(r"<script>(?s:.)*?</script>", content)[0], "")
    assert content.count("&lt;/script&gt;") >= 4


def test_the_same_tables_give_the_same_page():
    assert whole_page() == whole_page()


def test_a_model_that_decodes_nothing_has_its_losses_drawn_and_its_measurements_told():
    losses = [{key: row[key] for key in ("event", "step", "loss")} for row in metrics() if row["event"] == "train"]
    section = "".join(training_section([*losses, {"event": "validation", "step": 60, "forecast_error": 0.125}], decodes=False).body)
    assert promised(section) == {"losses"}
    assert "forecast error" in section
    assert "0.125" in section
    assert promised("".join(training_section(metrics(), decodes=True).body)) == {"losses", "decoded-accuracy", "role-errors"}


def test_a_model_that_decodes_is_not_said_to_decode_nothing_where_its_models_were_not_run():
    unknown = [{key: value for key, value in row.items() if not key.startswith("accuracy_")} for row in metrics()]
    section = "".join(training_section(unknown, decodes=True).body)
    assert promised(section) == {"losses", "role-errors"}
    assert "Decoded models were not run" in section
    assert "does not decode" not in section
    assert "does not decode" in "".join(training_section(unknown, decodes=False).body)


def test_scores_of_final_checkpoints_are_left_out_by_one_sentence_where_they_are_those_of_all():
    for rows, once in ((probe_rows(), 0), ([row for row in probe_rows() if row["subset"] == "all"], 1)):
        section = "".join(probe_section(rows).body)
        assert section.count("all checkpoints are final ones") == once
        assert ("Final checkpoints" in section) != bool(once)


def test_a_page_names_the_command_for_a_part_that_is_missing():
    section = missing_section("Probes", f"python -m wsl.probe run={HOSTILE}")
    content = page("run", over="", lead="", sections=[section], footer="")
    assert "python -m wsl.probe run=" in content
    assert HOSTILE not in content
    assert promised(content) == set()


def test_every_view_of_a_menu_shows_all_models_and_shares_no_trace_with_another():
    frame = population()
    figure = figures.learning_curves(frame, FACTORS, score="test_accuracy")
    assert list(figure.views) == ["root", "optimizer", "learning rate"]
    for traces in figure.views.values():
        drawn = [name for trace in traces for name in cast(Any, trace).text if name]
        assert sorted(drawn) == sorted(frame["model"])
    assert [cast(Any, trace).visible for trace in figure.plot().select_traces()] == [view == "root" for view, _ in figure.traces]


def test_numbers_are_ordered_by_size_and_kinds_by_name():
    frame = pd.DataFrame({"rate": [0.1, 10.0, 0.01, 2.0], "kind": ["b", "c", "a", "b"]})
    assert [name for name, _, _ in levels(frame, "rate")] == ["0.01", "0.1", "2", "10"]
    assert [name for name, _, _ in levels(frame, "kind")] == ["a", "b", "c"]


def test_scores_below_the_axis_are_drawn_at_its_edge_and_told_in_full():
    figure = figures.probe_scores([row for row in probe_rows() if row["metric"] != "kendall_tau"])
    statistics = next(trace for _, trace in figure.traces if cast(Any, trace).name == "statistics")
    assert min(cast(Any, statistics).x) == pytest.approx(-0.25)
    assert "−40.00 (−40.20 to −39.80)" in cast(Any, statistics).text


def test_models_without_novelty_are_left_out_and_only_flagged_ones_are_ringed():
    traces = [cast(Any, trace) for _, trace in figures.frontier(generated_rows(), threshold=0.25, chance=0.2).traces]
    *generators, rings = traces
    assert len(generators) == 2
    assert list(rings.x) == [0.0]


def test_controls_and_empty_questions_stay_out_of_the_probe_table():
    body = "".join(probe_section(probe_rows()).body[1:])  # the lead explains the marks
    assert "permuted" not in body
    assert "<td>epoch" not in body
    assert "smoke test" in body
    quotable = "".join(probe_section([{**row, "smoke_test": False} for row in probe_rows()]).body)
    assert "smoke test" not in quotable


def test_scores_above_their_noise_ceiling_and_given_ones_are_marked_in_the_report():
    rows = [row for row in probe_rows() if row["features"] == "embedding" and row["value"] is not None]
    leaking = {"value": 0.997, "low": 0.99, "high": 1.0}
    for change, words in [
        ({}, "0.70"),
        (leaking, "!1.00"),
        ({**leaking, "low": 0.8}, "1.00"),
        ({"above_permuted": False}, "†0.70"),
    ]:
        assert f"<td>{words}<small>" in "".join(probe_section([{**row, **change} for row in rows]).body)
    given = "".join(probe_section([{**row, "given": row["target"] == "optimizer"} for row in rows]).body)
    assert given.count("<td>(given)</td>") == 2  # all checkpoints and final ones


class Planted:
    """A run whose embedding has two strong directions in the train models and another one elsewhere."""

    def __init__(self, zoo: Zoo):
        parts = [sorted({m for m in zoo.frame["model"] if int(m.split()[1]) % 3 == i}) for i in range(3)]
        self.split = Split(*(zoo.select(model=models) for models in parts))

    def embed(self, zoo: Zoo) -> np.ndarray:
        rng = np.random.default_rng(0)
        frame = zoo.frame
        test = np.array([int(model.split()[1]) % 3 == 2 for model in frame["model"]])
        first, second = rng.normal(size=(2, len(frame)))
        noise = 1e-3 * rng.normal(size=(len(frame), 5))
        features = np.stack([first, first, first, second, second], axis=1) + noise
        features[test, 1] += 1e3
        features[frame["model"] == "model 4"] = np.nan
        return features.astype(np.float32)


def test_the_map_is_fitted_on_train_models_and_keeps_every_final_checkpoint():
    frame = population().drop(columns=["x", "y", "split"])
    zoo = Zoo(Path("zoo"), {}, frame)
    run = cast(Run, Planted(zoo))
    points, explained = project(run, zoo, limit=60)
    assert sum(explained) == pytest.approx(1, abs=1e-3)  # the direction of the test models has no share
    assert len(points) == 11 * 5
    assert set(points.loc[points["final"], "model"]) == set(frame["model"]) - {"model 4"}
    assert set(points["split"]) == {"train", "val", "test"}
    everything, _ = project(run, zoo, limit=10_000)
    assert len(everything) == 11 * 15


def test_a_run_without_probes_is_reported_with_the_commands_that_are_missing(tiny_run: Run, tmp_path: Path, browse: Browse):
    folder = Path(shutil.copytree(tiny_run.path, tmp_path / "<b>run"))
    call(main, f"run={folder}", "checkpoints=100")
    content = (folder / "report.html").read_text(encoding="utf-8")
    drawing, console = browse(content)
    assert console == []
    assert (
        drawing.drawn
        == promised(content)
        == {
            *("accuracy-by-factor", "accuracy-histogram", "learning-curves", "losses", "decoded-accuracy", "role-errors"),
            "embedding-map",
        }
    )
    assert "python -m wsl.probe run=" in content
    assert "python -m wsl.generate run=" in content
    assert "<b>run" not in content
    assert tiny_run.zoo.content_hash[:12] in content


def test_a_missing_run_is_one_message():
    assert "run 'nowhere' not found" in refused(main, "run=nowhere")


def test_a_damaged_file_of_results_is_named_with_the_command_that_makes_it_again(tmp_path: Path):
    damaged = tmp_path / "probe.json"
    damaged.write_text('[{"target": ')
    with pytest.raises(InputError, match=r"probe\.json is damaged .* make it again: python -m wsl\.probe"):
        read_rows(damaged, again="python -m wsl.probe run=demo")
    for other in ("3", "[3]", "[" * 100_000):
        damaged.write_text(other)
        with pytest.raises(InputError, match=r"probe\.json is damaged"):
            read_rows(damaged, again="")
    damaged.write_text('[{"target": 1}]')
    assert read_rows(damaged, again="") == [{"target": 1}]


@pytest.mark.parametrize("name", ["metrics.jsonl", "probe.json", "generate.json"])
def test_rows_that_cannot_be_drawn_name_their_file_and_how_to_make_it_again(name: str, tmp_path: Path):
    write_results(tmp_path)
    run = cast(Run, SimpleNamespace(path=tmp_path, inputs=SimpleNamespace(reads="tokens")))
    assert set(Results.of(run).parts(chance=0.2)) == {"training", "probes", "generation"}
    (tmp_path / name).write_text('[{"value": "high"}]' if name.endswith("json") else '{"event": "train", "loss": 1}')
    with pytest.raises(InputError, match=rf"{name} holds rows that cannot be drawn .*; make it again: (python -m wsl|delete)"):
        Results.of(run).parts(chance=0.2)
