"""Configuration: cards are constructor calls, commands are Hydra applications over one typed dataclass.

A *card* is a mapping with `_target_` (an importable class or function) and its keyword values. `instantiate` makes the call,
for trusted targets only: a config on disk is foreign data, and a target like `pandas.read_pickle` would execute it.
"""

import dataclasses
import functools
import importlib
import inspect
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from unittest import mock

from zoo_gen.command_line import as_typed, near
from zoo_gen.errors import InputError, one_clear_error, refuse_bytes
from zoo_gen.startup import take_traceback

_BUNDLED = Path(__file__).parent / "configs"
CONFIGS = _BUNDLED if _BUNDLED.is_dir() else Path(__file__).parent.parent / "configs"
"""Folder of the cards: inside the installed package, or `configs/` of a checkout."""

TRUSTED = ("zoo_gen", "wsl")


def resolve(target: str, *, group: str | None = None) -> Callable[..., Any]:
    """Returns the class or function named by a dotted path, if a card in `CONFIGS` (or in one `group` of them) names it.

    Being reachable (`zoo_gen.zoo.pd.read_pickle`) or even defined in a trusted package (`zoo_gen.files.write_json`) is not enough.
    Raises `InputError` for anything else, and imports nothing else.
    """
    refusal = InputError(
        f"config names _target_ '{target}', which is no card's in {CONFIGS / (group or '')}; "
        "nothing was executed. If you wrote it yourself, give it a card"
    )
    if target not in _targets(group):
        raise refusal
    module_name, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"config names _target_ '{target}', which does not exist ({error})") from error
    if getattr(found, "__module__", "").partition(".")[0] not in TRUSTED or not callable(found):
        raise refusal
    return found


@functools.cache
def _targets(group: str | None) -> frozenset[str]:
    """The targets of all cards, or of those of one group."""
    cards = (CONFIGS / (group or "")).rglob("*.yaml")
    return frozenset(found for card in cards for found in re.findall(r"_target_: *([\w.]+)", card.read_text(encoding="utf-8")))


def instantiate(card: Any, *, group: str | None = None) -> Any:
    """Builds what a card describes: calls `_target_` with its keyword values, nested cards first.

    Anything that is not a card is returned as it is (mappings and lists with the cards inside them built). A card that was read
    from a run or a zoo is foreign data: name the `group` it must be of. Raises `InputError` for untrusted targets and for keywords
    that the target does not take or values that it cannot be built of.
    """
    if isinstance(card, Mapping):
        built = {key: instantiate(value, group=group) for key, value in card.items() if key != "_target_"}
        if "_target_" not in card:
            return built
        target = resolve(str(card["_target_"]), group=group)
        try:
            inspect.signature(target).bind(**built)
        except TypeError as error:
            raise InputError(f"card of {card['_target_']} does not fit its constructor: {error}") from error
        try:
            return target(**built)
        except (TypeError, ValueError) as error:
            raise InputError(f"card of {card['_target_']} has values that it cannot be built of: {error}") from error
    if isinstance(card, list | tuple):
        return [instantiate(value, group=group) for value in card]
    return card


@functools.cache
def card_names(group: str) -> tuple[str, ...]:
    """Returns the names of the cards of a group, in order."""
    return tuple(sorted(path.stem for path in (CONFIGS / group).glob("*.yaml")))


def cards(group: str, wanted: Sequence[str]) -> dict[str, Any]:
    """Builds the cards of a group by name or pattern, in the order of their names. Raises `InputError` if one fits no card."""
    files = {path.stem: path for path in sorted((CONFIGS / group).glob("*.yaml"))}
    if not wanted:
        raise InputError(f"no card of {CONFIGS / group} was named; name some, or '*' for all: {', '.join(files)}")
    for pattern in wanted:
        if not any(fnmatch(name, pattern) for name in files):
            raise InputError(f"no card '{pattern}' in {CONFIGS / group}; there is {', '.join(files)}")
    chosen = [name for name in files if any(fnmatch(name, pattern) for pattern in wanted)]
    return {name: instantiate(stored(f"{group}/{name}.yaml")) for name in chosen}


def stored(name: str, **values: Any) -> dict[str, Any]:
    """Returns what a file of `CONFIGS` says, as plain Python; `${seed}` and the like are taken from `values`."""
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.create({**values, "file": OmegaConf.load(CONFIGS / name)}), resolve=True)["file"]  # type: ignore


def compose(config_name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Returns what a command's configuration would be with these overrides, resolved, as plain Python.

    >>> import zoo_gen.__main__
    >>> compose("zoo_gen", ["zoo=digits_mini", "seed=3"])["seed"]
    3
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    for_hydra, values = as_typed(config_name, _SCHEMAS[config_name], CONFIGS, overrides, sweeps=False)
    with hydra.initialize_config_dir(str(CONFIGS), version_base=None):
        config = hydra.compose(config_name, for_hydra, return_hydra_config=True)
    HydraConfig.instance().set_config(config)  # cards may ask which choice they are
    plain = OmegaConf.to_container(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]), resolve=True)
    assert isinstance(plain, dict)
    return {**{str(key): value for key, value in plain.items()}, **values}


def command(config_name: str, schema: type) -> Callable[[Callable[[Any], None]], Callable[[], None]]:
    """Makes a Hydra command of `main(config)`, where `config` is an instance of the dataclass `schema`.

    Unknown keys, unknown cards and values of the wrong type are errors before `main` starts. An `InputError` is printed as one
    line and exits with code 1; so do a full disk and missing permissions. In a sweep (`-m`), a setting named `swept` says what of
    the values that vary this job has: `seed=0,model.latent=8`.
    """
    import hydra
    from hydra.core.config_store import ConfigStore
    from omegaconf import DictConfig, OmegaConf

    ConfigStore.instance().store(name=f"{config_name}_schema", node=schema)
    _SCHEMAS[config_name] = schema

    def decorate(main: Callable[[Any], None]) -> Callable[[], None]:
        values: dict[str, str] = {}

        @functools.wraps(main)
        def run(config: DictConfig) -> None:
            plain = OmegaConf.to_container(config, resolve=True)
            assert isinstance(plain, dict)
            plain |= values
            if "swept" in plain:
                plain["swept"] = _swept()
            with one_clear_error():
                _refuse_missing(config_name, plain)
                main(schema(**{field.name: plain[field.name] for field in dataclasses.fields(schema)}))

        start = hydra.main(version_base=None, config_path=str(CONFIGS), config_name=config_name)(run)

        @functools.wraps(main)
        def command_line() -> None:
            from zoo_gen.foreign import flag_taken

            if {"-h", "--help"} & set(sys.argv[1:]):
                print(help_of(config_name, str(sys.modules[main.__module__].__doc__)))
                return
            take_traceback()
            with one_clear_error(), flag_taken(), _hydra(config_name):
                refuse_bytes(*sys.argv[1:])
                sweeps = bool({"-m", "--multirun"} & set(sys.argv[1:]))
                sys.argv[1:], found = as_typed(config_name, schema, CONFIGS, sys.argv[1:], sweeps=sweeps)
                values.clear()  # of a command that ran before in this process
                values.update(found)
                start()

        return command_line

    return decorate


def help_of(config_name: str, about: str) -> str:
    """What a command prints for `--help`: what it is, its settings with their defaults, and the cards to choose from."""
    import yaml

    text = (CONFIGS / f"{config_name}.yaml").read_text(encoding="utf-8")
    settings = re.sub(r"(?m)^defaults:\n(?:  .*\n)+", "", text).strip()
    chosen = {group: card for entry in yaml.safe_load(text)["defaults"] if isinstance(entry, dict) for group, card in entry.items()}
    for group, card in list(chosen.items()):
        if found := re.fullmatch(r"\$\{(\w+)\}", str(card)):  # chosen by another group, with choices of its own
            chosen[group] = chosen[found[1]]
            inner = yaml.safe_load((CONFIGS / group / f"{chosen[group]}.yaml").read_text(encoding="utf-8"))["defaults"]
            chosen |= {name.strip("/"): choice for entry in inner if isinstance(entry, dict) for name, choice in entry.items()}
    groups = {group: card for group, card in chosen.items() if (CONFIGS / group).is_dir()}
    lines = [f"{group}: {card or 'null'}  # of {', '.join(card_names(group))}" for group, card in groups.items()]
    of_cards = [f"Cards of {CONFIGS}, group=card, or group.key=value for a value of one:", "", *lines, ""] if lines else []
    return "\n".join(
        [
            *(about.strip(), "", "Settings, key=value on the command line:", "", settings, "", *of_cards),
            "-m key=a,b other=1,2 runs every combination; --cfg job prints the settings that would be used;",
            "--traceback shows where an error happened.",
            "--trust-images opens the images that a zoo names whatever they are; without it none run code or are downloaded.",
        ]
    )


def _refuse_missing(config_name: str, config: Mapping[Any, Any]) -> None:
    """Raises `InputError` for settings that have no default and were not given."""
    missing = [key for key, value in config.items() if value in ("???", ["???"])]
    if missing:
        text = (CONFIGS / f"{config_name}.yaml").read_text(encoding="utf-8")
        about = {key: re.search(rf"(?m)^{key}: .*?# *(.*)$", text) for key in missing}
        raise InputError("; ".join(f"{key}= is required" + (f": {found[1]}" if (found := about[key]) else "") for key in missing))


def _swept() -> str:
    """The overrides of this job of a sweep that are not the same in all of its jobs; nothing outside of one."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    config = HydraConfig.get()
    if config.mode is not RunMode.MULTIRUN:
        return ""
    given = [text for text in sys.argv[1:] if not text.startswith("-")]
    varied = {found.key_or_group for found in OverridesParser.create().parse_overrides(given) if found.is_sweep_override()}
    return ",".join(text.replace("'", "") for text in config.overrides.task if text.partition("=")[0] in varied)


@contextmanager
def _hydra(config_name: str) -> Iterator[None]:
    """A context in which Hydra raises its errors, as `InputError`, and what it writes of a sweep (multirun.yaml) vanishes."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    sweeps = {"-m", "--multirun"} & set(sys.argv[1:])
    with mock.patch.dict(os.environ, HYDRA_FULL_ERROR="1"), tempfile.TemporaryDirectory() if sweeps else nullcontext() as folder:
        sys.argv += [f"hydra.sweep.dir='{folder}'"] if folder else []
        try:
            yield
        except (HydraException, OmegaConfBaseException) as error:
            raise InputError(_in_our_words(error, config_name)) from error


def _in_our_words(error: Exception, config_name: str) -> str:
    """What is wrong with a command line, without Hydra's advice and search path."""
    text, cause = str(error), str(error.__cause__ or "").partition("\n")[0]
    if found := re.match(r"Could not override '(.*)'|Could not delete from config. '(.*)' does not exist", text):
        return near(found[1] or found[2], config_name, CONFIGS, sys.argv[1:])
    if found := re.search(r"Could not find '(.*)/(.*)'", text):
        cards = sorted(path.stem for path in (CONFIGS / found[1]).glob("*.yaml"))
        return f"there is no card '{found[2]}' of {found[1]}; choose one of {', '.join(cards)}"
    if found := re.match(r"Error merging override (.*)", text):
        return f"{found[1]} does not fit: {cause or 'no such value'}"
    if "Multiple values for" in text or type(error).__name__ == "OverrideParseException":
        return (
            f"cannot read the command line ({text.partition(chr(10))[0]}); settings are key=value, without + for those that exist"
        )
    return text.partition("\n")[0]


_SCHEMAS: dict[str, type] = {}
"""The dataclass of each command."""
