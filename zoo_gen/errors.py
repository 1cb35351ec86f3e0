"""The one exception of the project that is meant for users."""


class InputError(Exception):
    """Bad input: a missing file, a corrupt checkpoint, an unknown key.

    The message says what is wrong, where, and what to do. Commands print it without a traceback and exit with code 1.
    """
