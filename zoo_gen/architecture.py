"""Architectures: timm models described by the `config.json` of their folder.

They are plain dicts in timm's own format, so that every model folder of a zoo opens with `timm.create_model("local-dir:<folder>",
pretrained=True)`. timm has no ViT with an MLP head, and none with another epsilon of its layer norms: this module registers both.
"""

import copy
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import timm
import torch
from timm.layers.mlp import Mlp
from timm.layers.norm import LayerNorm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from zoo_gen.errors import InputError, printable
from zoo_gen.reader import shortened

FETCHING = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable", "exportable")
"""Arguments of `timm.create_model` that are no sizes of a model: they read files, or the network."""

SIZE, DEPTH = 2**20, 2**10
"""Largest number, and largest number of blocks, that the `config.json` of a model may name."""

HEADS = ("linear", "mlp", "none")
INITS = ("timm", "xavier", "kaiming", "orthogonal")

_CONFIG = {"input_size": (3, 224, 224), "first_conv": "patch_embed.proj"}

default_cfgs = generate_default_cfgs(
    {"vit_mlp_head": {**_CONFIG, "classifier": "head.fc2"}, "vit_norm_eps": {**_CONFIG, "classifier": "head"}}
)


class MlpHeadVisionTransformer(VisionTransformer):
    """A timm VisionTransformer whose classifier is a two-layer perceptron, `head.fc1` and `head.fc2`, as wide as the model."""

    def __init__(self, *args: Any, num_classes: int = 1000, **kwargs: Any):
        super().__init__(*args, num_classes=num_classes, **kwargs)
        self.head = Mlp(self.num_features, self.num_features, num_classes)


@register_model
def vit_mlp_head(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """The timm entry point of `MlpHeadVisionTransformer`; every size is an argument."""
    return build_model_with_cfg(MlpHeadVisionTransformer, "vit_mlp_head", pretrained, **kwargs)


@register_model
def vit_norm_eps(pretrained: bool = False, *, norm_eps: float = 1e-6, **kwargs: Any) -> VisionTransformer:
    """The timm VisionTransformer whose layer norms add `norm_eps` to variances, which timm's own names do not say."""
    norm = partial(LayerNorm, eps=norm_eps)
    return build_model_with_cfg(VisionTransformer, "vit_norm_eps", pretrained, norm_layer=norm, **kwargs)


def architecture(
    *, timm_name: str, model_args: Mapping[str, Any], in_chans: int, img_size: int, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """Describes a backbone in timm's `config.json` format, without a head: a VisionTransformer of timm with other sizes.

    Mean and standard deviation are per channel, of the pixels in [0, 1].
    """
    return {
        "architecture": timm_name,
        "num_classes": 0,
        "model_args": {"img_size": img_size, "in_chans": in_chans, **model_args},
        "pretrained_cfg": {
            "input_size": [in_chans, img_size, img_size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": list(mean),
            "std": list(std),
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def with_head(backbone: Mapping[str, Any], head: str, num_classes: int) -> dict[str, Any]:
    """Returns the architecture of `backbone` with a `linear` or `mlp` classifier, or with `none`."""
    classes = 0 if head == "none" else num_classes
    described = {**backbone, "num_classes": classes, "pretrained_cfg": {**backbone["pretrained_cfg"], "num_classes": classes}}
    if head == "mlp":
        described |= {"architecture": "vit_mlp_head", "model_args": timm_sizes(backbone)}
        described["pretrained_cfg"]["classifier"] = "head.fc2"
    return described


def resized(backbone: Mapping[str, Any], width: int | None, depth: int | None) -> dict[str, Any]:
    """Returns `backbone` with another width or depth, as many heads. Raises `InputError` where these do not divide the width."""
    changes = {name: value for name, value in (("embed_dim", width), ("depth", depth)) if value is not None}
    described = {**backbone, "model_args": {**backbone["model_args"], **changes}}
    heads = described["model_args"].get("num_heads")
    if width is not None and heads and width % heads:
        raise InputError(f"width {width} is not a multiple of the {heads} attention heads; choose another width")
    return described


def timm_sizes(backbone: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the `model_args` that give `vit_mlp_head` the sizes of a named timm VisionTransformer."""
    model: Any = outline(backbone)
    block = model.blocks[0]
    sizes = {
        "patch_size": model.patch_embed.patch_size[0],
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": block.mlp.fc1.out_features / model.embed_dim,
    }
    return {**sizes, **backbone["model_args"]}


def build(described: Mapping[str, Any]) -> nn.Module:
    """Builds the model of a `config.json`, randomly initialised from torch's global generator.

    Raises `InputError` for an architecture that timm does not have or cannot build, and for arguments that would fetch weights,
    read other files, or make a model of absurd size.
    """
    if described.get("architecture", "") is None:
        raise InputError(
            "the models of this zoo were adopted without an architecture, so they cannot be run; adopt them again with "
            "architecture=<card or timm name>"
        )
    name, classes, arguments = (described.get(key) for key in ("architecture", "num_classes", "model_args"))
    if not isinstance(name, str) or not timm.is_model(name):
        raise InputError(f"timm has no architecture {shortened(name)}; see timm.list_models()")
    if not isinstance(classes, int) or not isinstance(arguments, Mapping):
        raise InputError(f"the config.json of {name} has no number 'num_classes' or no object 'model_args'; restore it")
    for key, value in (*arguments.items(), ("num_classes", classes)):
        numbers = [item for item in (value if isinstance(value, list | tuple) else [value]) if isinstance(item, int | float)]
        limit = DEPTH if "depth" in key else SIZE
        if key in FETCHING or isinstance(value, Mapping) or any(not abs(number) <= limit for number in numbers):
            raise InputError(
                f"the config.json of {name} says '{printable(key, limit=40)}', which no model of a zoo has; do not use it"
            )
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Initializing zero-element tensors")  # a size of 0
            return timm.create_model(name, num_classes=classes, **arguments)
    except Exception as error:
        summary = str(error).partition("\n")[0]
        raise InputError(f"timm cannot build {name} with the model_args of its config.json ({summary}); restore it") from error


def skeleton(described: Mapping[str, Any]) -> nn.Module:
    """Returns the model of a `config.json` without content (on the meta device); it is built once and copied, which is fast.

    Raises `InputError` as `build` does.
    """
    model = outline(described)
    values = (value for module in model.modules() for value in vars(module).values())
    empty: dict[int, Any] = {id(value): OrderedDict() for value in values if isinstance(value, OrderedDict) and not value}
    return copy.deepcopy(model, empty)  # most of what there is to copy are dictionaries of hooks, which are empty


def outline(described: Mapping[str, Any]) -> nn.Module:
    """Returns the one `skeleton` of a `config.json` that all callers share: to be looked at, never changed."""
    return _skeleton(json.dumps(dict(described), sort_keys=True))


@lru_cache(maxsize=64)
def _skeleton(described: str) -> nn.Module:
    """The model of an architecture given as JSON."""
    with torch.device("meta"):
        return build(json.loads(described))


def initialize(
    described: Mapping[str, Any], seed: int, *, scheme: str = "timm", within: Callable[[nn.Module], nn.Module] = lambda model: model
) -> dict[str, torch.Tensor]:
    """Returns the weights of a freshly initialised model, and of what it is `within`; the same seed gives the same bits.

    All schemes of `INITS` but `timm` draw the weights of every linear layer and patch filter anew.
    """
    fill = {"xavier": nn.init.xavier_uniform_, "kaiming": nn.init.kaiming_normal_, "orthogonal": nn.init.orthogonal_}.get(scheme)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = within(build(described))
        for module in model.modules():
            if fill is not None and isinstance(module, nn.Linear | nn.Conv2d):
                fill(module.weight)
        return {name: value.detach() for name, value in model.state_dict().items()}
