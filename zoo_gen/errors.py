"""The one exception of the project that is meant for users, and how a command ends with an error."""

import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from zoo_gen.startup import TRACEBACK, hush


class InputError(Exception):
    """Bad input: a missing file, a corrupt checkpoint, an unknown key.

    The message says what is wrong, where, and what to do. Commands print it without a traceback and exit with code 1.
    """


def printable(text: str, *, limit: int = 4000) -> str:
    r"""Returns a message in which foreign names can do no harm to a terminal: control characters escaped, endless ones cut.

    >>> printable("tensor \x1b[2J")
    'tensor \\x1b[2J'
    """
    cut = text if len(text) <= limit else f"{text[:limit]} ... ({len(text):,} characters)"
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in cut)


def refuse_bytes(*names: object) -> None:
    r"""Raises `InputError` for a path, or another text of a command line, that is not UTF-8: libraries cannot open such files.

    >>> refuse_bytes(b"vit\xff.pt".decode("utf-8", "surrogateescape"))
    Traceback (most recent call last):
    zoo_gen.errors.InputError: vit\udcff.pt has bytes that are not UTF-8, and libraries cannot open such a path; rename it
    """
    for name in map(str, names):
        if any("\ud800" <= c <= "\udfff" for c in name):
            raise InputError(
                f"{printable(name, limit=300)} has bytes that are not UTF-8, and libraries cannot open such a path; rename it"
            )


@contextmanager
def one_clear_error() -> Iterator[None]:
    """A context in which every error, and Ctrl-C, ends the process with one message and code 1; `--traceback` shows where it was.

    Nobody who listens any more (`| head`) is no error: the process ends without a word.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError as error:
        hush()
        raise SystemExit(128 + signal.SIGPIPE) from error
    except (Exception, KeyboardInterrupt) as error:
        if TRACEBACK in os.environ:
            traceback.print_exception(error)
        print(f"error: {printable(_message(error))}", file=sys.stderr)
        raise SystemExit(1) from error


def _message(error: BaseException) -> str:
    """What an error means to whoever gave the command."""
    first_line = str(error).strip().partition("\n")[0]
    match error:
        case InputError():
            return str(error)
        case KeyboardInterrupt():
            return "interrupted; the same command resumes"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            where = f"the disk of {error.filename}" if error.filename else "a disk that is written to"
            return f"no space left on {where}; free some and run the same command again: it resumes"
        case PermissionError() if error.filename is not None:
            return f"no permission for {error.filename}; make it accessible or choose another folder"
        case OSError() if error.filename is not None:  # no folder, read-only, a file where a folder is wanted ...
            return f"cannot use {error.filename} ({error.strerror}); choose another folder"
    if isinstance(error, MemoryError) or re.search(r"can't allocate memory|out of memory", first_line, re.IGNORECASE):
        return f"out of memory ({first_line or type(error).__name__}); use smaller batches or fewer processes, or a larger machine"
    return f"unexpected {type(error).__name__} ({first_line}); run the command with --traceback to see where, and report it"
