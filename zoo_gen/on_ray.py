"""Runs commands on a Ray cluster, one a line of the standard input: trainings, sweeps, anything that resumes.

    QUEUE=echo runs/property_prediction.sh | grep wsl.train | python -m zoo_gen.on_ray --gpus 1

Each line is a task, which is started again elsewhere if its node dies. Commands see the folder that this one was given in.
"""

import argparse
import ctypes
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from zoo_gen.config import instantiate, stored
from zoo_gen.errors import InputError, one_clear_error, printable
from zoo_gen.wording import counted

SHOWN = 5
"""Failed commands in a message."""

_DEATH = 1  # PR_SET_PDEATHSIG of Linux


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line (`zoo_gen.startup` calls it before the imports)."""
    parser = argparse.ArgumentParser(prog="python -m zoo_gen.on_ray", description="Run commands, one a line, on a Ray cluster.")
    parser.add_argument("--address", default="auto", help="of the cluster: auto, <head>:6379, ray://<head>:10001 or local")
    parser.add_argument("--cpus", type=float, default=1, help="cores that a command takes")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs, or the share of one, that a command takes")
    parser.add_argument("--retries", type=int, default=10, help="of a command whose node dies; -1: always")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Runs the commands of the standard input."""
    options = parser().parse_args(arguments)
    with one_clear_error():
        lines = [line.strip() for line in sys.stdin if line.strip() and line.lstrip()[0] != "#"]
        run(lines, address=options.address, cpus=options.cpus, gpus=options.gpus, retries=options.retries)


def run(lines: Sequence[str], *, address: str, cpus: float, gpus: float, retries: int) -> None:
    """Runs commands as tasks of a cluster, equal ones once.

    Raises `InputError` that names those that failed, after all have ended.
    """
    needs = {"address": address, "cpus": cpus, "retries": retries} | ({"gpus": gpus, "device": "cuda"} if gpus else {})
    executor, failed = instantiate({**stored("executor/ray.yaml"), **needs}), []
    lines = list(dict.fromkeys(lines))
    with Progress("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()) as progress:
        bar = progress.add_task(counted(len(lines), "command"), total=len(lines))
        for line, (code, said) in executor.each(run_line, lines, os.getcwd(), meanwhile=progress.refresh):
            progress.advance(bar)
            if code:
                failed.append(f"{line} ({said or f'code {code}'})")
    if failed:
        some = "; ".join(printable(one, limit=500) for one in failed[:SHOWN])
        raise InputError(f"{len(failed)} of {counted(len(lines), 'command')} failed: {some}")


def run_line(line: str, folder: str) -> tuple[int, str]:
    """Runs a command in a folder, without a shell; returns its code and the last line that it said of errors.

    It ends with the process that it runs in. Raises `InputError` if there is no such folder or program.
    """
    end_with_parent = ctypes.CDLL(None).prctl  # a lambda after the fork must not import anything
    try:
        done = subprocess.run(
            shlex.split(line),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            preexec_fn=lambda: end_with_parent(_DEATH, signal.SIGTERM),
        )
    except (OSError, ValueError) as error:
        raise InputError(f"node {os.uname().nodename} cannot run {printable(line, limit=300)} in {folder} ({error})") from error
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1][:500]


if __name__ == "__main__":
    main()
