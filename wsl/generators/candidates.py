"""Candidates: the generator that is measured, settings of it that are scanned, and the baselines beside it."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from zoo_gen.config import CONFIGS
from zoo_gen.errors import InputError

Card = dict[str, Any]


def candidates(
    name: str, card: Card, *, baselines: Sequence[str], scan: Mapping[str, Mapping[str, Sequence[Any]]]
) -> Iterator[tuple[str, Card]]:
    """Yields names and cards: the generator as it is, then each combination of scanned values and the baselines.

    Baselines are names of cards in `configs/generator`; `scan` holds values by card and keyword.

    Raises:
        InputError: there is no card of a name, or a card has no such keyword.
    """
    yield name, card
    cards = {other: card_of(other) for other in {*baselines, *scan}} | {name: card}
    for each in dict.fromkeys([name, *baselines]):
        values = scan.get(each, {})
        if unknown := sorted(set(values) - set(cards[each])):
            raise InputError(f"scan.{each} names {unknown}, which configs/generator/{each}.yaml does not have")
        if values or each != name:
            for chosen in itertools.product(*values.values()):
                yield each, {**cards[each], **dict(zip(values, chosen, strict=True))}


def card_of(name: str) -> Card:
    """Returns a card of `configs/generator`. Raises `InputError` if there is none; the message lists the others."""
    files = {path.stem: path for path in sorted((CONFIGS / "generator").glob("*.yaml"))}
    if name not in files:
        raise InputError(f"no generator '{name}'; choose among {', '.join(files)}")
    return yaml.safe_load(files[name].read_text(encoding="utf-8"))
