"""The first moment of a command: help is printed at once, and Ctrl-C is one line while everything else is being imported.

Packages call `begin` before their imports, which take seconds. It does something only in `python -m zoo_gen...` and
`python -m wsl...`.
"""

import argparse
import ast
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

TRACEBACK = "ZOO_GEN_TRACEBACK"
"""Environment variable that `--traceback` sets: errors are printed with where they happened."""


def begin() -> None:
    """Prepares this process for the command that it was started for, if it is one of this project."""
    if sys.argv[:1] != ["-m"]:  # Python has replaced it by a path once the packages of the command are imported
        return
    module = (*sys.orig_argv[sys.orig_argv.index("-m") + 1 :], "")[0] if "-m" in sys.orig_argv else ""
    if module.partition(".")[0] not in ("zoo_gen", "wsl"):
        return
    sys.excepthook = _one_line
    for stream in (sys.stdout, sys.stderr):  # whatever the locale can print
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]
    take_traceback()
    if {"-h", "--help"} & set(sys.argv[1:]):
        _help(module)


def take_traceback() -> None:
    """Takes `--traceback` from the command line, for this process and those that it starts."""
    if "--traceback" in sys.argv[1:]:
        sys.argv.remove("--traceback")
        os.environ[TRACEBACK] = "1"


def hush() -> None:
    """Sends further output nowhere once its reader has gone (`| head`); else Python would complain again at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _help(module: str) -> None:
    """Prints the help of a command, from its configuration or by its function `parser` alone, and ends the process."""
    from zoo_gen.config import CONFIGS, help_of

    name = module.rpartition(".")[2]
    place = Path(__file__).parent.parent.joinpath(*module.split("."))
    file = place / "__main__.py" if place.is_dir() else place.with_suffix(".py")
    if not file.is_file():  # Python says so
        return
    tree = ast.parse(file.read_text(encoding="utf-8"))
    parsers: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "parser"]
    if (CONFIGS / f"{name}.yaml").is_file():
        print(help_of(name, str(ast.get_docstring(tree))))
    elif parsers:
        names = {"argparse": argparse, "Path": Path, "CONFIGS": CONFIGS}
        exec(compile(ast.Module(parsers, []), str(file), "exec"), names)  # our own code, without the imports above it
        names["parser"]().print_help()
    else:
        return
    sys.stdout.flush()
    raise SystemExit(0)


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Prints that a command was interrupted before it could begin, nothing if nobody reads, any other error as always."""
    if issubclass(kind, BrokenPipeError):
        hush()
    elif issubclass(kind, KeyboardInterrupt) and TRACEBACK not in os.environ:
        print("error: interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
