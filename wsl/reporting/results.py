"""Results in the folder of a run: events of its training, rows of its probes and of its generated models."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsl.run import Run
from zoo_gen.errors import InputError

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Results:
    """Rows of a run: events of metrics.jsonl, rows of probe.json and of generate.json; a missing file has none."""

    metrics: Rows
    probes: Rows
    samples: Rows

    @classmethod
    def of(cls, run: Run) -> "Results":
        """Reads the results of a run. Raises `InputError` if a file is damaged."""
        metrics = read_rows(run.path / "metrics.jsonl", again=f"delete {run.path} and train the run again")
        return cls(metrics, *(_rows_of(run, command) for command in ("probe", "generate")))


def command_for(run: Run, command: str) -> str:
    """Returns the command line that makes a result of a run."""
    return f"python -m wsl.{command} run={run.path}"


def _rows_of(run: Run, command: str) -> Rows:
    path = run.path / f"{command}.json"
    return read_rows(path, again=command_for(run, command)) if path.exists() else []


def read_rows(path: Path, *, again: str) -> Rows:
    """Returns the objects of a `.json` list or of a `.jsonl` file.

    Raises:
        InputError: the file is damaged; the message says how to make it `again`.
    """
    try:
        content = path.read_text(encoding="utf-8")
        return [json.loads(line) for line in content.splitlines()] if path.suffix == ".jsonl" else json.loads(content)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); make it again: {again}") from error
