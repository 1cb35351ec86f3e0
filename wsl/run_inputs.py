"""The model of a run as its card says: what it reads of checkpoints, and how it is built."""

from collections.abc import Mapping
from typing import Any

import torch

from wsl.data.invariant_inputs import InvariantInputs
from wsl.data.token_inputs import TokenInputs
from zoo_gen import InputError
from zoo_gen.config import instantiate, resolve

Inputs = TokenInputs | InvariantInputs
INPUTS: dict[str, type[TokenInputs] | type[InvariantInputs]] = {"tokens": TokenInputs, "invariants": InvariantInputs}
"""What a model may read, by the attribute `reads` of its class."""


def inputs_of(card: Mapping[str, Any]) -> type[TokenInputs] | type[InvariantInputs]:
    """Returns the kind of inputs that the model of a card reads. Raises `InputError` for a target without a card."""
    reads = getattr(resolve(str(card["_target_"]), group="model"), "reads", None)
    if reads not in INPUTS:
        raise InputError(
            f"model {card['_target_']} does not say what it reads; its class needs an attribute reads, of {', '.join(INPUTS)}"
        )
    return INPUTS[reads]


def build_model(config: Mapping[str, Any], inputs: Inputs) -> Any:
    """Returns the model of a configuration with fresh weights, drawn by its seed. Raises `InputError` for a card that does not
    fit."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        return fresh_model(config, inputs)


def fresh_model(config: Mapping[str, Any], inputs: Inputs) -> Any:
    """Returns the model of a configuration with fresh weights, drawn by the random state of torch."""
    return instantiate({**config["model"], **inputs.model_values}, group="model")
