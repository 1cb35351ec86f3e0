"""Command lines: texts arrive as they were typed, whatever the grammar of Hydra treats as its own.

Hydra reads `run=1.10` as a number, `path=a,b.pt` as two values, and `path=epoch=9.ckpt` not at all. So each text is put into quotes
before Hydra sees it: everything after the first `=`, where the setting is a text.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from typing import Any

from zoo_gen.errors import InputError

REPLACED = ("axes", "draws", "scan")
"""Settings whose keys the user chooses: `zoo.finetune.axes={...}` is all of them, and no change to those of the card."""

_SWEEPS = re.compile(r"(choice|range|interval|glob|shuffle|sort|tag)\(|.*['\"]")
_NAMES = re.compile(r"(?<=[{,])\s*[\"']?([A-Za-z_]\w*(?:\s*,\s*[A-Za-z_]\w*)*)[\"']?\s*:")


def as_typed(
    config_name: str, schema: type, configs: Path, overrides: Sequence[str], *, sweeps: bool
) -> tuple[list[str], dict[str, Any]]:
    """Rewrites overrides such that Hydra reads texts as they were typed.

    Settings whose key is also the name of a group of cards are taken out: `zoo=digits_mini` chooses a card in `python -m zoo_gen`,
    and is the name or path of a zoo everywhere else; Hydra would look for a card there, too.

    Args:
        config_name: of the command.
        schema: the dataclass of its settings.
        configs: the folder of the cards.
        overrides: the command line.
        sweeps: whether commas part the values of a sweep (`-m`).

    Returns:
        What Hydra is to read, and the values of the settings that were taken out.

    Raises:
        InputError: a list is none.
    """
    overrides = from_words(schema, overrides)
    types = {field.name: "str" if field.type is str else str(field.type) for field in dataclasses.fields(schema)}
    pairs = [text.partition("=") for text in overrides]
    nested = [key for key, equals, _ in pairs if equals and "." in key and re.match(r"[A-Za-z_]", key)]
    defaults = _defaults(config_name, configs, overrides) if nested else None
    lines: list[str] = []
    values: dict[str, Any] = {}
    for text, (key, equals, value) in zip(overrides, pairs, strict=True):
        kind = types.get(key) or _kind(defaults, key)
        if not equals or text.startswith("-"):
            lines.append(text)
        elif key in types and not kind.startswith("dict") and (configs / key).is_dir():
            values[key] = _texts(key, value) if kind.startswith("list") else value
        elif kind == "list[str]" and not (sweeps and re.search(r"\]\s*,\s*\[", value)):
            lines.append(f"{key}=[{','.join(map(quoted, _texts(key, value)))}]")
        elif kind in ("str", "str | None") and not (value == "null" and kind != "str"):
            lines.append(f"{key}={_swept(value) if sweeps else quoted(value)}")
        else:
            lines += _mapping(key, value)
    return lines, values


WORD = {"word": True}
"""Metadata of a field of settings that takes a bare word of the command line: `python -m wsl.compare a.pt b.pt`."""


def from_words(schema: type, arguments: Sequence[str]) -> list[str]:
    """Rewrites bare words, `--key value` and `--key=value` as `key=value`, for settings that have fields of `WORD`.

    A word may have `=` in it, as `epoch=9.ckpt` has, where what stands before is no setting. Raises `InputError` for a word too
    many, or an option without a value.

    >>> @dataclasses.dataclass
    ... class Settings:
    ...     a: str = dataclasses.field(metadata=WORD)
    ...     heads: int | None = None
    >>> from_words(Settings, ["epoch=9.ckpt", "--heads", "4"])
    ['a=epoch=9.ckpt', 'heads=4']
    """
    fields = {field.name: field for field in dataclasses.fields(schema)}
    keys = {key for key, equals, _ in (text.partition("=") for text in arguments) if equals}
    words = [name for name, field in fields.items() if field.metadata.get("word")]
    free = [name for name in words if name not in keys]
    if not words:
        return list(arguments)
    found, left = [], list(arguments)
    while left:
        text = left.pop(0)
        key, equals, value = text.partition("=")
        option = key.removeprefix("--").replace("-", "_")
        if text.startswith("--") and option in fields:
            if not equals and fields[option].type is not bool and not left:
                raise InputError(f"--{option} has no value; write {option}=<value>")
            found.append(f"{option}={value if equals else 'true' if fields[option].type is bool else left.pop(0)}")
        elif text.startswith("-") or (equals and key in fields) or re.match(r"hydra\.|[+~]\w", text):
            found.append(text)
        elif free:
            found.append(f"{free.pop(0)}={text}")
        elif equals:
            found.append(text)
        else:
            raise InputError(f"{text} is one word too many; the command takes {' '.join(words)}, and settings as key=value")
    return found


def quoted(text: str) -> str:
    r"""Returns a text such that Hydra reads exactly that.

    >>> quoted("vit's (1).pt")
    "'vit\\'s (1).pt'"
    """
    plain = re.sub(r"(\\*)\$\{", lambda found: 2 * found[1] + r"\${", text)  # no interpolation
    return "'" + re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + (r"\'" if found[2] else ""), plain) + "'"


def _defaults(config_name: str, configs: Path, overrides: Sequence[str]) -> Any:
    """The settings before they are changed, with the cards that were chosen; None if Hydra will complain of the choice."""
    chosen = (text for text in overrides if "." not in text.partition("=")[0].partition("@")[0] and _is_group(text, configs))
    return _composed(config_name, configs, tuple(chosen))


@functools.cache
def _composed(config_name: str, configs: Path, chosen: tuple[str, ...]) -> Any:
    import hydra
    from hydra.errors import HydraException

    with hydra.initialize_config_dir(str(configs), version_base=None):
        try:
            return hydra.compose(config_name, list(chosen))
        except HydraException:
            return None


def near(key: str, config_name: str, configs: Path, overrides: Sequence[str]) -> str:
    """Returns the message about a setting that does not exist, with settings of almost this name at whatever depth.

    Of `zoo.pretrain.epochs` it is `zoo.pretrain.recipe.epochs`: those that share most of the path, and of these the least deep.
    """
    from omegaconf import OmegaConf

    place, _, last = key.rpartition(".")
    defaults = _defaults(config_name, configs, overrides)
    every = [] if defaults is None else list(_keys(OmegaConf.to_container(defaults), ""))
    names = get_close_matches(last, {name.rpartition(".")[2] for name in every}, n=3, cutoff=0.75)
    found = {name: (_shared(name, key), -name.count(".")) for name in every if name.rpartition(".")[2] in names}
    if nearest := [name for name, place in found.items() if place == max(found.values())]:
        return f"there is no setting '{key}'; did you mean {' or '.join(nearest[:3])}? --help lists the settings"
    if inside := [name.removeprefix(f"{place}.") for name in every if place and name.startswith(f"{place}.")]:
        return f"there is no setting '{key}'; {place} has {', '.join(inside[:20])}{' ...' if len(inside) > 20 else ''}"
    return f"there is no setting '{key}'; --help lists the settings"


def _keys(config: Any, prefix: str) -> Iterator[str]:
    """The settings of a configuration, and those inside them."""
    for key, value in config.items() if isinstance(config, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")


def _shared(one: str, other: str) -> int:
    """How many parts two paths begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one.split("."), other.split("."), strict=False)))


def _is_group(text: str, configs: Path) -> bool:
    key = text.lstrip("+~").partition("=")[0].partition("@")[0]
    return (configs / key).is_dir() and "=" in text


def _kind(defaults: Any, key: str) -> str:
    """What a setting of a card is, as its value says."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        found = OmegaConf.select(defaults, key) if defaults is not None and re.fullmatch(r"[\w.]+", key) else None
    except OmegaConfBaseException:
        return ""
    return "str | None" if isinstance(found, str) else ""


def _texts(key: str, value: str) -> list[str]:
    """The entries of a list of texts; one with commas is in quotes."""
    inside = value.strip()[1:-1].strip()
    if not re.fullmatch(r"\[.*\]", value.strip(), re.DOTALL) or re.search(r"\]\s*,\s*\[", value):
        raise InputError(f"{key} is a list: {key}=[{value}]")
    entries = [entry.strip() for entry in re.findall(r"""(\s*"[^"]*"\s*|\s*'[^']*'\s*|[^,]*)(?:,|$)""", inside)]
    entries = entries[:-1] if inside and not inside.endswith(",") else entries  # the pattern fits once more at the end
    return [entry[1:-1] if re.fullmatch(r"(['\"]).*\1", entry, re.DOTALL) else entry for entry in entries if entry]


def _swept(value: str) -> str:
    """One text, or those of a sweep, which are parted by commas."""
    return value if _SWEEPS.match(value) else ",".join(map(quoted, value.split(",")))


def _mapping(key: str, value: str) -> list[str]:
    """Lets a mapping of `REPLACED` replace that of the card; names of axes may be several with commas between."""
    place, _, name = key.rpartition(".")
    if name in REPLACED and value.startswith("{"):
        escaped = _NAMES.sub(lambda found: re.sub(r"\s*,\s*", r"\,", found[1]) + ":", value)
        return [f"~{key}", f"+{key}={escaped}"]
    if "," in name and place.rpartition(".")[2] in REPLACED:
        return [f"{place}={{{name.replace(',', chr(92) + ',')}:{value}}}"]
    return [f"{key}={value}"]
