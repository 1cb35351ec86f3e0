"""Vision Transformers of transformers as those of timm: the same function under other names.

transformers has the matrices of queries, keys and values apart, timm has them as one; everything else is one tensor of one name.
Both are pre-norm ViTs with learned positions and a class token (Dosovitskiy et al., arXiv 2010.11929).
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo_gen.errors import InputError
from zoo_gen.formats.names import of_other_releases
from zoo_gen.reader import shortened

LEFT_OUT = ("pooler.*", "*.pooler.*", "embeddings.mask_token", "*.embeddings.mask_token")
"""Tensors that a timm ViT has not: no output of the model depends on them but `pooler_output`."""

_NAMES = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
    "classifier": "head",
}
_IN_BLOCK = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_PARTS = ("query", "key", "value")
_BLOCK = re.compile(r"encoder\.layer\.(\d+)\.(.+?)(\.weight|\.bias)")


def to_timm(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the weights of a ViT of transformers by the names of timm, whatever the release that wrote them.

    Raises `InputError` for a tensor that a timm ViT has not, and for one that is missing.
    """
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for given, tensor in weights.items():
        name = next(of_other_releases(given.removeprefix("vit.")))
        if match := _BLOCK.fullmatch(name):
            block, inner, kind = f"blocks.{match[1]}.", match[2], match[3]
            if inner.startswith("attention.attention."):
                parts.setdefault(f"{block}attn.qkv{kind}", {})[inner.rpartition(".")[2]] = tensor
                continue
            renamed = f"{block}{_IN_BLOCK[inner]}{kind}" if inner in _IN_BLOCK else None
        else:
            stem, kind = (name.removesuffix(end), end) if (end := name[name.rfind(".") :]) in (".weight", ".bias") else (name, "")
            renamed = f"{_NAMES[stem]}{kind}" if stem in _NAMES else None
        if renamed is None:
            raise InputError(f"the tensor {shortened(given)} is of no ViT that timm has; it is adopted by its own names")
        found[renamed] = tensor
    for name, three in parts.items():
        if set(three) != set(_PARTS):
            raise InputError(f"{name} needs query, key and value, and there is only {', '.join(sorted(three))}")
        found[name] = torch.cat([three[part] for part in _PARTS])
    return found


def to_transformers(weights: Mapping[str, Tensor], *, prefix: str = "vit.", release: int = 4) -> dict[str, Tensor]:
    """Returns the weights of a timm ViT by the names of transformers, to the bit: the inverse of `to_timm`.

    Args:
        weights: of a timm VisionTransformer with a class token.
        prefix: of the backbone: `vit.` in `ViTForImageClassification`, none in `ViTModel`.
        release: of transformers: 4 for the names in files, which all releases read and write; 5 for those of modules since then.

    Raises:
        InputError: a tensor is none that a ViT of transformers has.
    """
    outside, inside = ({new: old for old, new in names.items()} for names in (_NAMES, _IN_BLOCK))
    found: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        stem, kind = (name.removesuffix(end), end) if (end := name[name.rfind(".") :]) in (".weight", ".bias") else (name, "")
        block = re.fullmatch(r"blocks\.(\d+)\.(.+)", stem)
        if block and block[2] == "attn.qkv":
            three = tensor.chunk(3)
            names = {
                f"encoder.layer.{block[1]}.attention.attention.{part}{kind}": row for part, row in zip(_PARTS, three, strict=True)
            }
        elif block and block[2] in inside:
            names = {f"encoder.layer.{block[1]}.{inside[block[2]]}{kind}": tensor}
        elif stem in outside:
            names = {f"{outside[stem]}{kind}": tensor}
        else:
            raise InputError(f"transformers' ViT has no tensor for {shortened(name)} of timm")
        for renamed, part in names.items():
            today = renamed if release == 4 else list(of_other_releases(renamed))[1]
            found[today if stem == "head" else f"{prefix}{today}"] = part
    return found


def timm_description(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Describes the timm model that computes what a ViT of transformers does; None where timm has none.

    Args:
        config: the `config.json` of transformers.
        weights: by the names of timm.
    """
    heads, eps = config.get("num_attention_heads"), config.get("layer_norm_eps", 1e-12)
    if config.get("model_type") != "vit" or config.get("hidden_act", "gelu") != "gelu" or not isinstance(heads, int) or heads < 1:
        return None
    try:
        patch = weights["patch_embed.proj.weight"]
        depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
        hidden = len(weights["blocks.0.mlp.fc1.bias"])
        classes = len(weights["head.weight"]) if "head.weight" in weights else 0
    except KeyError:
        return None
    size = config.get("image_size", 224)
    sides = list(size) if isinstance(size, list | tuple) else [size, size]
    arguments = {
        "img_size": size if isinstance(size, int) else sides,
        "in_chans": patch.shape[1],
        "patch_size": patch.shape[2],
        "embed_dim": patch.shape[0],
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": hidden / patch.shape[0],
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        "norm_eps": eps,
    }
    return {
        "architecture": "vit_norm_eps",
        "num_classes": classes,
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [patch.shape[1], *sides],
            "num_classes": classes,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
