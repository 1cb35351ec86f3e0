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
