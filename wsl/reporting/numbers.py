"""The one format of numbers in tables and figures for people: fixed digits, a minus sign, and a dash where there is no number."""

import math


def number(value: float | None, digits: int = 2) -> str:
    """Returns a value with so many digits after the point.

    >>> number(0.123456), number(-1.5), number(-0.001), number(0.98765, 3), number(None), number(float("nan"))
    ('0.12', '−1.50', '0.00', '0.988', '–', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{value:z.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 2) -> str:
    """Returns a difference with its sign.

    >>> signed(0.5), signed(-0.5), signed(0.001), signed(None)
    ('+0.50', '−0.50', '+0.00', '–')
    """
    return "–" if value is None or math.isnan(value) else f"{value:+z.{digits}f}".replace("-", "−")


def compact(value: float | None) -> str:
    """Returns a value in at most five characters: two digits after the point, fewer where the number is large.

    >>> compact(0.123), compact(-2.471), compact(-40.02), compact(-1234.0), compact(-123456.0), compact(None)
    ('0.12', '−2.47', '−40', '−1234', '−1e5', '–')
    """
    if value is None or math.isnan(value) or abs(value) < 9.995:
        return number(value)
    written = number(value, 0) if abs(value) < 9999.5 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")
    return written.replace("-", "−")
