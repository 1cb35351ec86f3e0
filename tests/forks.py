"""Processes forked from one that has imported torch, timm and the packages: real ones, without seconds of imports each.

`command` runs a command as `python -m` would: with its own arguments, environment, folder, streams, signals and exit code. Two
things are not those of a new interpreter, and tests of them start one: what happens during the imports, and what Python reads of
the locale as it starts. `forked` turns the processes that a training starts into such ones.
"""

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from zoo_gen import startup

ROOT = Path(__file__).parent.parent
METHOD: Any = "forkserver" if sys.platform == "linux" else "spawn"
"""How processes are started: elsewhere libraries do not outlive a fork."""

_new = multiprocessing.get_context
_context = _new(METHOD)
_context.set_forkserver_preload(["tests.forks_preload"])


def start(
    module: str,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    streams: tuple[Path, Path] | None = None,
    session: bool = False,
    forking: bool = False,
) -> BaseProcess:
    """Starts `python -m module arguments`.

    Args:
        module: a command of this project.
        arguments: of the command line.
        env: the environment; default: that of this process.
        cwd: the folder to run in; default: that of this process.
        streams: files for standard output and errors; default: nowhere.
        session: whether the process leads a session of its own.
        forking: whether processes that it would spawn are forked from it.
    """
    _ready()
    given = (dict(os.environ if env is None else env), cwd or Path.cwd(), streams or (os.devnull, os.devnull), session, forking)
    process = _context.Process(target=_command, args=(module, arguments, *given))
    process.start()
    return process


def command(module: str, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs `python -m module arguments` (options of `start`) and returns what it printed, and its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        streams = (Path(folder, "printed"), Path(folder, "errors"))
        process = start(module, *arguments, streams=streams, **options)
        process.join()
        assert process.exitcode is not None
        printed, errors = (path.read_text(encoding="utf-8") for path in streams)
    return subprocess.CompletedProcess([module, *arguments], process.exitcode, printed, errors)


def run(function: Callable[..., object], *arguments: object) -> int:
    """Calls a function of a module in a process of its own; returns the exit code."""
    _ready()
    process = _context.Process(target=function, args=arguments)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@contextlib.contextmanager
def forked() -> Iterator[None]:
    """A context in which processes that would be spawned are forked from the one that has imported everything."""
    _ready()
    multiprocessing.get_context = lambda method=None: _new(METHOD if method == "spawn" else method)
    try:
        yield
    finally:
        multiprocessing.get_context = _new


def _ready() -> None:
    """Starts the process that imports everything, once; it finds the packages that this one was started with."""
    if METHOD == "forkserver":
        with contextlib.chdir(ROOT):
            multiprocessing.forkserver.ensure_running()


def _command(
    module: str,
    arguments: tuple[str, ...],
    env: dict[str, str],
    cwd: Path,
    streams: tuple[Path | str, Path | str],
    session: bool,
    forking: bool,
) -> None:
    """What the new process does."""
    if session:
        os.setsid()
    if forking and METHOD == "forkserver":  # which this process could not ask for another
        multiprocessing.get_context = lambda method=None: _new("fork" if method == "spawn" else method)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (open(number, "w", encoding="utf-8", closefd=False) for number in (1, 2))  # noqa: SIM115
    sys.argv, sys.orig_argv = ["-m", *arguments], [sys.executable, "-m", module, *arguments]
    startup.begin()
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        raise SystemExit(1) from None
