"""Images that adopted models are measured on: a card as it is, or a folder, Parquet file or hub data set, as the models take them.

Size and channels are those of most models. So are mean and standard deviation where a config.json tells them; else they are
those of the train images.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from zoo_gen.adoption.description import image_card
from zoo_gen.architecture import outline
from zoo_gen.errors import InputError
from zoo_gen.own_images import Look, look_at


def named_images(name: str, classes: Sequence[str]) -> Look | dict[str, Any]:
    """Returns the images that a user names: a card or YAML file of one as it says, anything else as it was found.

    Args:
        name: a card, a YAML file, or a place as `zoo_gen.own_images.look_at` takes it.
        classes: label i is `classes[i]`; all of them in order, where none are named.

    Raises:
        InputError: there are no such images, or they cannot be used.
    """
    if classes and name.endswith((".yaml", ".yml")):
        raise InputError(f"classes= goes with a folder, a Parquet file, a hub data set or a card; write it into {name}")
    card = None if classes else image_card(name)
    return look_at(name, classes, 0) if card is None else card


def card_for(images: Look | Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns the card of images as most of some models take them (`models` are what their config.json say)."""
    if not isinstance(images, Look):
        return dict(images)
    if images.pixels is None:
        return dict(images.card)
    inputs = Counter(_input(one) for one in models if one["architecture"] is not None)
    side, channels, mean, std = inputs.most_common(1)[0][0] if inputs else (None, None, None, None)
    side = side or sorted(images.sides)[len(images.sides) // 2]
    if mean is None or std is None:
        mean, std = images.moments(side)
    return {**images.card, "size": side, "mean": _of(channels, mean), "std": _of(channels, std)}


def _input(described: Mapping[str, Any]) -> tuple[int | None, int, tuple[float, ...] | None, tuple[float, ...] | None]:
    """Returns the side and channels that a model takes, and the mean and standard deviation that its config.json tells."""
    told, arguments = described["pretrained_cfg"], described["model_args"]
    usual = told.get("input_size") or getattr(outline(described), "default_cfg", {}).get("input_size") or (3, None, None)
    side, channels = arguments.get("img_size", usual[-1]), arguments.get("in_chans", usual[0])
    side = side[0] if isinstance(side, list | tuple) and side else side
    moments = [told.get(name) for name in ("mean", "std")]
    found = [tuple(map(float, moment)) if isinstance(moment, list | tuple) and moment else None for moment in moments]
    return side if isinstance(side, int) else None, channels if isinstance(channels, int) else 3, found[0], found[1]


def _of(channels: int | None, values: Sequence[float]) -> list[float]:
    """Returns one number for each channel: grey ones repeated, or the mean of colours."""
    if channels is None or len(values) == channels:
        return list(values)
    return [sum(values) / len(values)] * channels
