"""Image cards of zoos that somebody else made: opened without running code and without a download, unless the user says so.

A zoo.json may name any data set of torchvision, some of which unpickle what lies in their folder, and any repository of the hub.
A source that could do either takes `foreign`, and is told so unless `--trust-images` stands on the command line.
"""

import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

from zoo_gen.config import resolve
from zoo_gen.errors import InputError

FLAG = "--trust-images"
_VARIABLE = "ZOO_GEN_TRUST_IMAGES"
"""How processes that a command starts know of the flag."""


@contextmanager
def flag_taken() -> Iterator[None]:
    """Takes the flag out of the command line; as long as the context lasts, image cards of zoos are as good as the user's own."""
    with mock.patch.dict(os.environ):
        os.environ.pop(_VARIABLE, None)
        if FLAG in sys.argv[1:]:
            sys.argv[1:] = [text for text in sys.argv[1:] if text != FLAG]
            os.environ[_VARIABLE] = "1"
        yield


def as_foreign(card: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an image card of a zoo that runs no code and fetches nothing; the card itself if the user trusts it.

    Raises `InputError` for a target that is no source of images, and for cards within the card.
    """
    if os.environ.get(_VARIABLE) == "1":
        return dict(card)
    if any(_holds_a_card(value) for value in card.values()):
        raise InputError(
            f"the zoo's card of images has another card in it, which no source of images takes; do not use it ({FLAG})"
        )
    takes = inspect.signature(resolve(str(card["_target_"]), group="images")).parameters
    return {**card, **({"foreign": True} if "foreign" in takes else {})}


def _holds_a_card(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "_target_" in value or any(map(_holds_a_card, value.values()))
    return isinstance(value, list | tuple) and any(map(_holds_a_card, value))
