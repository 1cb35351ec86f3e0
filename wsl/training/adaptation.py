"""What the settings of a training give up on zoos whose roots or images are not known, and the lines that say so.

- Some models have no known root: tokens are of the weights themselves, of all models, as differences would be of some alone.
- No model has one: an invariant encoder reads no changes since the root, and forecasts none.
- Models cannot be run on images, or are longer than a window: an objective leaves out its terms of predictions where it has others.
  Terms that the command line names are refused instead.
- No window is given: it holds the longest model, up to `WHOLE` tokens.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from wsl.data.logits import lack_to_run
from wsl.data.pairs import rootless, roots_of
from wsl.data.token_inputs import plans_of
from wsl.run import inputs_of
from wsl.training.settings import TrainConfig
from zoo_gen import InputError, Zoo
from zoo_gen.config import instantiate, resolve
from zoo_gen.wording import counted

WHOLE = 4096
"""Tokens of a window at most, where none is given: windows hold whole models where these are no longer."""

Card = Mapping[str, Any]


def adapted(config: TrainConfig, zoos: Sequence[Zoo]) -> tuple[TrainConfig, list[str]]:
    """Returns the settings that zoos can be trained with, and a line for each that gave way.

    Raises:
        InputError: an objective runs models on images, and the zoos do not say on which, or what the models are.
    """
    notes: list[str] = []
    unknown, every = sum(map(rootless, zoos)), sum(zoo.select(stage="finetune").frame["model"].nunique() for zoo in zoos)
    if unknown:
        config = _without_roots(
            config, notes, f"{unknown} of {counted(every, 'model')} without a known root", any(map(roots_of, zoos))
        )
    if lack := next(filter(None, map(lack_to_run, zoos)), ""):
        config = _without_images(config, notes, lack, "it needs a zoo with images and models that timm builds; leave objective out")
    if config.tokenizer is not None and inputs_of(config.model).reads == "tokens":
        tokenizer = instantiate(config.tokenizer)
        longest = max((plan.n_tokens for zoo in zoos for plan in plans_of(tokenizer, zoo)), default=1)
        config = replace(config, window=min(longest, WHOLE) if config.window is None else config.window)
        if longest > cast(int, config.window):
            lack = f"models have up to {longest} tokens, where a window holds {config.window}"
            config = _without_images(config, notes, lack, f"set window={longest}, or leave objective out")
    return config, notes


def _without_roots(config: TrainConfig, notes: list[str], why: str, some_are_known: bool) -> TrainConfig:
    if config.tokenizer is not None and inputs_of(config.model).reads == "tokens":
        if instantiate(config.tokenizer).reference == "none":
            return config
        card = _class(config.tokenizer).rootless(config.tokenizer)
        notes.append(f"{why}: tokens are of the weights themselves ({_name(card)}, reference=none)")
        return replace(config, tokenizer=dict(card))
    if some_are_known:
        notes.append(f"{why}: the encoder reads no changes of these")
        return config
    model = _kept(config.model, _class(config.model).rootless(config.model), _given(config, "model"))
    objective = _class(config.objective).rootless(config.objective)
    notes.append(f"{why}: the encoder reads no changes, and forecasts none")
    return replace(config, model=model, objective=_kept(config.objective, objective, _given(config, "objective")))


def _without_images(config: TrainConfig, notes: list[str], lack: str, advice: str) -> TrainConfig:
    if not instantiate(config.objective).runs_models:
        return config
    card = _class(config.objective).imageless(config.objective)
    given = _given(config, "objective")
    chosen = any(text.startswith("objective=") for text in config.given)
    if card is None or chosen or any(_value(card, key) != _value(config.objective, key) for key in given):
        raise InputError(f"objective {_name(config.objective)} runs models on images, and {lack}; {advice}")
    notes.append(f"{lack}: the objective is without predictions")
    return replace(config, objective=dict(card))


def _value(card: Card, key: str) -> Any:
    """Returns a value of a card by its key, with dots; None where there is none."""
    found: Any = card
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _given(config: TrainConfig, group: str) -> set[str]:
    """Returns the keys of a card that were given on the command line."""
    keys = [text.partition("=")[0].lstrip("+~") for text in config.given]
    return {key.removeprefix(f"{group}.") for key in keys if key.startswith(f"{group}.")}


def _kept(card: Card, changed: Card, given: set[str]) -> dict[str, Any]:
    """Returns a changed card with the values that were given."""
    return {**changed, **{key: card[key] for key in given if key in card}}


def _class(card: Card) -> Any:
    return resolve(str(card["_target_"]))


def _name(card: Card) -> str:
    return str(card["_target_"]).rpartition(".")[2]
