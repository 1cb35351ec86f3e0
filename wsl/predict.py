"""Predicts properties of any checkpoint of the family: `python -m wsl.predict run=demo path=<checkpoint, folder or zoo>`.

The probes saved with the run (`wsl.probes.predictor`) predict every target, with intervals or sets of labels. The column
`out_of_distribution` says why no interval is calibrated for a checkpoint: another shape, more coverage for a new root than few
roots promise, an embedding far from those of train models. Such a checkpoint is given no prediction without `outside=show`; with
`fail_outside=true` the command then exits with 3. Of several checkpoints, one that cannot be read is a row that says why; the
command then exits with 1. An interval that lies wholly beyond the values that a target can have is left out.
"""

import json
import sys
from pathlib import Path

from rich.console import Console

from wsl.probes.places import checkpoints_in, passed_over
from wsl.probes.prediction import PredictConfig, predict, test_set
from wsl.reporting.terminal_tables import prediction_table
from wsl.run import Run
from zoo_gen import InputError
from zoo_gen.config import command
from zoo_gen.errors import printable
from zoo_gen.files import write_text
from zoo_gen.remote import place_of
from zoo_gen.wording import counted
from zoo_gen.zoo import zoo_folder

NAMED = 10  # files that are not predicted, in a message
OUTSIDE = 3
"""The exit code of `fail_outside` where a checkpoint is out of distribution; 1 is of errors."""


@command("predict", PredictConfig)
def main(config: PredictConfig) -> None:
    """Predicts, prints the table, and writes it if `out` names a file."""
    if config.out is not None and Path(config.out).suffix not in (".csv", ".json"):
        raise InputError(f"out must end in .csv or .json, not {config.out}")
    console, path = Console(), place_of(config.path)
    path = zoo_folder(path) if not path.exists() and (zoo_folder(path) / "zoo.json").is_file() else path
    places = checkpoints_in(path)
    run = Run.open(config.run, zoo=config.zoo)
    table = predict(run, places, config, console)
    console.print(prediction_table(table, test_set=test_set(run)), crop=False)
    if others := passed_over(path):
        console.print(f"passed over, of no kind that is read: {_some(others)}", soft_wrap=True, markup=False)
    if config.out is not None:
        text = table.to_csv(index=False) if config.out.endswith(".csv") else json.dumps(json.loads(table.to_json(orient="records")))
        write_text(Path(config.out), text)
        console.print(f"wrote {config.out}", soft_wrap=True)
    unread = [f"{row['checkpoint']} ({row['error']})" for _, row in table[table["error"] != ""].iterrows()]
    if unread:
        raise InputError(f"{len(unread)} of {counted(len(table), 'checkpoint')} could not be read: {_some(unread)}")
    outside = table.loc[table["out_of_distribution"] != "", "checkpoint"].astype(str).tolist()
    if config.fail_outside and outside:
        print(
            printable(f"out of distribution: {len(outside)} of {counted(len(table), 'checkpoint')}: {_some(outside)}"),
            file=sys.stderr,
        )
        raise SystemExit(OUTSIDE)


def _some(items: list[str]) -> str:
    return "; ".join(items[:NAMED]) + (f" and {len(items) - NAMED} more" if len(items) > NAMED else "")


if __name__ == "__main__":
    main()
