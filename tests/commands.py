"""Commands of the project, run in this process as a command line would."""

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra._internal.hydra import Hydra

import zoo_gen

ALONE = f"""
import sys, types
package = sys.modules["zoo_gen"] = types.ModuleType("zoo_gen")
package.__path__ = [{str(Path(zoo_gen.__file__).parent)!r}]
"""
"""Code that imports the package without what its `__init__` imports, which takes seconds."""


def call(main: Callable[[], None], *arguments: str) -> None:
    """Runs a command with arguments.

    Hydra would compose the settings twice: once only to find `hydra.mode`, which no test sets.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["command", *arguments])
        patch.setattr(Hydra, "get_mode", lambda *_, **__: None)
        main()


def refused(main: Callable[[], None], *arguments: str) -> str:
    """The one message of a command that prints nothing else and exits with 1."""
    printed, errors = io.StringIO(), io.StringIO()
    with pytest.raises(SystemExit) as exit, contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        call(main, *arguments)
    assert exit.value.code == 1
    assert printed.getvalue() == ""
    message = errors.getvalue()
    assert message.startswith("error: ")
    assert not any(words in message for words in ("Traceback", "HYDRA_FULL_ERROR", "search path"))
    return message
