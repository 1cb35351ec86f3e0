"""Small files of a run for the fuzzer, and what reads them: models.json, inputs.json, and the results that a report draws."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from wsl.data.invariant_inputs import InvariantInputs
from wsl.reporting.run_report import Results
from wsl.run import Run
from wsl.run_models import FILE, read_models

HASH = "0" * 64


def write_models_file(folder: Path) -> None:
    """Writes which models a run was trained on."""
    parts = {"train": {"a": "1" * 64, "b": "2" * 64}, "val": {"c": "3" * 64}, "test": {"d": "4" * 64}}
    (folder / FILE).write_text(json.dumps({HASH: parts}))


def read_models_file(folder: Path) -> None:
    """Reads the models of a run; each has a hash."""
    parts = read_models(folder, HASH)
    assert all(isinstance(text, str) for part in parts for pair in part.items() for text in pair)


def write_inputs(folder: Path) -> None:
    """Writes the columns of an invariant encoder."""
    InvariantInputs(["head.weight/norm", "blocks.0.mlp.fc1.weight/norm", "change blocks.0.mlp.fc1.weight/norm"]).save(folder)


def read_inputs(folder: Path) -> None:
    """Reads the columns and builds the encoder that reads them."""
    inputs = InvariantInputs.read(folder, {}, advice="train the run again")
    columns = inputs.model_values["columns"]
    assert columns["everything"] == list(range(len(inputs.columns)))


def write_results(folder: Path) -> None:
    """Writes the results of a training, of probes and of generators, a few rows each."""
    scalars = {"loss": 0.5, "accuracy_original": 0.6, "accuracy_decoded": 0.5, "error/q": 0.4}
    events = [{"event": event, "step": step, **scalars, "time": 1.5} for step in (1, 2) for event in ("train", "validation")]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
    about = {"split": "by_model", "fold": 0, "subset": "all", "smoke_test": True, "trivial": False, "control": None, "given": False}
    about |= {"chance": 0.0, "noise_ceiling": 0.9, "n_models": 12, "n_checkpoints": 24, "above_permuted": True}
    scores = {"value": 0.7, "low": 0.6, "high": 0.8}
    rows: list[dict[str, Any]] = [
        {**about, **scores, "target": target, "metric": metric, "features": features}
        for target, metric in (("test_accuracy", "r2"), ("test_accuracy", "kendall_tau"), ("optimizer", "balanced_accuracy"))
        for features in ("hyperrep", "statistics")
    ]
    rows.append({**rows[0], "control": "permuted targets", "features": "hyperrep, permuted targets"})
    (folder / "probe.json").write_text(json.dumps(rows))
    sample = {"n": 9, "accuracy": {"median": 0.4, "q25": 0.3, "q75": 0.5}, "novelty": 0.8, "diversity": 1.0}
    sample |= {"novelty_by_space": {"weights": 2.0, "behaviour": None}, "effective_rank_ratio": None, "aligned": True}
    sample |= {"good_and_new": {"median": {"share": 0.1, "low": 0.0, "high": 0.2}}, "flagged": {"copied": 0.5}}
    generated = [
        {**sample, "generator": "kde", "settings": {"bandwidth": 0.5, "anchors": None}, "flags": []},
        {**sample, "generator": "copy", "settings": {}, "flags": ["copied", "collapsed"]},
    ]
    (folder / "generate.json").write_text(json.dumps(generated))


def read_results(folder: Path) -> None:
    """Draws the results of a run, as the report does."""
    found = Results.of(cast(Run, SimpleNamespace(path=folder, inputs=SimpleNamespace(reads="tokens"))))
    pieces = [piece for section in found.parts(chance=0.2).values() for piece in section.body]
    assert "<script>alert" not in "".join(pieces)
