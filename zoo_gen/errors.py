"""The one exception of the project that is meant for users."""


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
