"""LoRA adapters in the format of `peft`, merged into the weights that they adapt.

A layer W of the base becomes W + s B A, with A (r, in) and B (out, r) from the adapter and s = alpha / r, or alpha / sqrt(r) for
rank-stabilised ones (LoRA: Hu et al., arXiv 2106.09685; rank-stabilised: Kalajdzievski, arXiv 2312.03732). Tensors trained as a
whole (`modules_to_save`, biases) replace those of the base.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo_gen.errors import InputError
from zoo_gen.formats.names import of_other_releases
from zoo_gen.reader import shortened

PREFIX = "base_model.model."
UNSUPPORTED = (
    "use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "layer_replication", "target_parameters",
    "trainable_token_indices", "megatron_config", "arrow_config", "velora_config", "kasa_config", "monteclora_config", "lora_bias",
)  # fmt: skip
"""Settings of `peft.LoraConfig` with which an adapter is no longer W + s B A."""

CHANGES_THE_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Initialisations that change the base, so that the adapter does not fit the original one."""

_PAIR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.weight)?")
_HARMLESS = re.compile(r"[\w.^$\\-]*")


def merge(adapter: Mapping[str, Tensor], config: Mapping[str, Any], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the base's weights with an adapter merged in; tensors that it leaves alone are the base's own.

    Args:
        adapter: tensors of `adapter_model.safetensors`.
        config: `adapter_config.json`.
        base: the model that the adapter was trained on, with the names of that model.

    Raises:
        InputError: the adapter is of a kind other than LoRA or its variants by rank and scale, or it does not fit the base.
    """
    _check(config)
    merged = dict(base)
    pairs: dict[str, dict[str, Tensor]] = {}
    for name, tensor in adapter.items():
        if not name.startswith(PREFIX):
            raise InputError(f"the adapter has the tensor {shortened(name)}, which is not named as peft does ({PREFIX}...)")
        inner = name.removeprefix(PREFIX).replace(".base_layer.", ".")
        if match := _PAIR.fullmatch(inner):
            pairs.setdefault(match[1], {})[(match[2] or "") + match[3]] = tensor
        elif ".lora_" in inner:
            raise InputError(
                f"the adapter has the tensor {shortened(name)}, which belongs to no plain LoRA; merge it with peft first"
            )
        else:
            _replace(merged, _name_in(base, inner), tensor, config)
    for layer, parts in pairs.items():
        name = _name_in(base, f"{layer}.weight")
        weight = base.get(name)
        if weight is None:
            raise InputError(
                f"the adapter changes {shortened(layer)}, which the base does not have (it has "
                f"{', '.join(map(shortened, [*base][:3]))} ...); pass the checkpoint that the adapter was trained on"
            )
        merged[name] = _merged(layer, weight, parts, config)
    return merged


def _name_in(base: Mapping[str, Tensor], name: str) -> str:
    """Returns the name under which a base has a tensor; it may be of another release of transformers than the adapter."""
    return next((one for one in (name, *of_other_releases(name)) if one in base), name)


def _check(config: Mapping[str, Any]) -> None:
    """Raises `InputError` for an adapter that is no plain LoRA."""
    if config.get("peft_type") != "LORA":
        raise InputError(f"the adapter is of the kind {shortened(config.get('peft_type'))}, not 'LORA'; merge it with peft first")
    if odd := [name for name in UNSUPPORTED if config.get(name)]:
        raise InputError(f"the adapter sets {', '.join(odd)}, which is not supported; merge it with peft first")
    initialization = config.get("init_lora_weights")
    if isinstance(initialization, str) and initialization.lower().startswith(CHANGES_THE_BASE):
        raise InputError(
            f"the adapter was initialised by {shortened(initialization)}, which changes its base; merge it with peft first"
        )
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict) or not all(_HARMLESS.fullmatch(pattern) for pattern in patterns):
            raise InputError(f"the adapter's {name} is more than names of layers, which is not supported; merge it with peft first")


def _replace(merged: dict[str, Tensor], name: str, tensor: Tensor, config: Mapping[str, Any]) -> None:
    """Puts a tensor that was trained as a whole into its place."""
    saved = config.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(module, str) for module in saved):
        raise InputError("the adapter's modules_to_save is no list of names; fetch it again")
    module, _, kind = name.rpartition(".")
    is_saved = any(f".{saved_module}." in f".{module}." for saved_module in saved)
    is_bias = kind == "bias" and config.get("bias", "none") != "none" and name in merged
    if not (is_saved or is_bias):
        raise InputError(
            f"the adapter has the tensor {shortened(name)}, which modules_to_save and bias do not explain; merge it with peft"
        )
    merged[name] = tensor


def _merged(layer: str, weight: Tensor, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> Tensor:
    """Returns the weight of a layer with its pair merged in: a linear layer, an embedding or a convolution."""
    embedding = "embedding_A" in parts
    names = {"embedding_A", "embedding_B"} if embedding else {"A", "B"}
    if set(parts) != names:
        raise InputError(f"the adapter has not just a pair of A and B of {shortened(layer)}; fetch it again")
    down, up = (parts[name] for name in sorted(names))
    if not all(tensor.is_floating_point() for tensor in (weight, down, up)):
        raise InputError(f"{shortened(layer)} of the adapter or its base is of integers, no weight; take one that is not quantised")
    turned = embedding or bool(config.get("fan_in_fan_out", False))
    rank = down.shape[0] if down.dim() else 0
    shape = (up.shape[0], *down.shape[1:]) if up.dim() == down.dim() == weight.dim() and up.dim() > 1 else ()
    fits = rank > 0 and shape and up.shape[1] == rank and all(size == 1 for size in up.shape[2:])
    if not fits or (shape[::-1] if turned and weight.dim() == 2 else shape) != tuple(weight.shape):
        raise InputError(
            f"the adapter's A {tuple(down.shape)} and B {tuple(up.shape)} of {shortened(layer)} do not fit the base's weight "
            f"{tuple(weight.shape)}; pass the base it was trained on"
        )
    precise = torch.promote_types(torch.promote_types(down.dtype, up.dtype), torch.float32)
    change = up.to(precise).flatten(1) @ down.to(precise).flatten(1) * _scale(layer, rank, config)
    change = change.T if turned and weight.dim() == 2 else change.reshape(weight.shape)
    return (weight + change).to(weight.dtype)


def _scale(layer: str, rank: int, config: Mapping[str, Any]) -> float:
    """Returns alpha / r of a layer, or alpha / sqrt(r)."""
    stated = _of_layer(config, "rank_pattern", layer, config.get("r"))
    alpha = _of_layer(config, "alpha_pattern", layer, config.get("lora_alpha"))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or abs(alpha) > 2**53:
        raise InputError(f"the adapter's lora_alpha for {shortened(layer)} is no number; fetch it again")
    if stated != rank:
        raise InputError(f"the adapter says rank {shortened(str(stated))} for {shortened(layer)} and has {rank}; fetch it again")
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _of_layer(config: Mapping[str, Any], patterns: str, layer: str, otherwise: object) -> object:
    """Returns the value of the first pattern that names a layer or the end of its name, as peft matches them."""
    for pattern, value in (config.get(patterns) or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", layer):
                return value
        except re.error as error:
            raise InputError(
                f"the adapter's {patterns} has the pattern {shortened(pattern)}, which is none; fetch it again"
            ) from error
    return otherwise
