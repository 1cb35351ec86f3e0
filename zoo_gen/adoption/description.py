"""What a model is, from what lies beside its weights: the config.json of timm or transformers, or an architecture that is named."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import yaml
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from zoo_gen.adoption.write import UNKNOWN
from zoo_gen.architecture import outline, with_head
from zoo_gen.config import CONFIGS, instantiate
from zoo_gen.errors import InputError
from zoo_gen.formats.transformers_vit import timm_description
from zoo_gen.reader import read_json, read_text, shortened

CARD = 2**20
"""Bytes of a model card or of a YAML file, at most."""

EXAMPLES = {
    "architecture": ("zoo_gen.architecture.architecture", "docs/how_to/own_models.md"),
    "images": ("zoo_gen.sources.folder.folder", "docs/how_to/own_images.md"),
}
"""A target of the cards of a group, and the page that shows one."""


def named_architecture(name: str) -> dict[str, Any]:
    """Returns the architecture that a user names: a card of configs/architecture, a YAML file of such a card, or a timm name.

    Raises `InputError` if there is none of that name.
    """
    card = CONFIGS / "architecture" / f"{name}.yaml"
    if card.is_file() or name.endswith((".yaml", ".yml")):
        return instantiate(_card(card if card.is_file() else Path(name), "architecture"), group="architecture")
    if not timm.is_model(name.partition(".")[0]):
        cards = ", ".join(sorted(path.stem for path in card.parent.glob("*.yaml")))
        raise InputError(
            f"architecture={shortened(name)} is no card ({cards}), no YAML file and no model of timm; see timm.list_models()"
        )
    return described_by_timm(name.partition(".")[0], {})


def image_card(name: str) -> dict[str, Any] | None:
    """Returns a card of images by its name in configs/images, or from a YAML file; None for any other name."""
    card = CONFIGS / "images" / f"{name}.yaml"
    if not card.is_file() and not name.endswith((".yaml", ".yml")):
        return None
    return _card(card if card.is_file() else Path(name), "images")


def _card(path: Path, group: str) -> dict[str, Any]:
    """Reads a card of a group; the seed that it may ask for is 0, as that of an adopted zoo is."""
    try:
        text = read_text(path, advice="name a YAML file of a card", limit=CARD)
        found = yaml.safe_load(text.replace("${seed}", "0"))
        if not isinstance(found, dict) or "_target_" not in found:
            target, page = EXAMPLES[group]
            raise InputError(
                f"{path} is no card of {group}: it has no key _target_, which says what is called with the other keys; "
                f"'_target_: {target}', for one ({page} shows a whole card)"
            )
        return found
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path} is no card of YAML ({str(error).partition(chr(10))[0]}); mend it") from error


def described_by_timm(name: str, arguments: Mapping[str, Any], *, num_classes: int = 0) -> dict[str, Any]:
    """Describes a model of timm as a config.json does."""
    return {"architecture": name, "num_classes": num_classes, "model_args": dict(arguments), "pretrained_cfg": {}}


def config_of(folder: Path) -> dict[str, Any] | None:
    """Reads the config.json of a folder; None where there is none. Raises `InputError` if it is damaged."""
    path = folder / "config.json"
    return read_json(path, advice="fetch it again, or remove it") if path.is_file() else None


def is_transformers_vit(config: Mapping[str, Any] | None) -> bool:
    """Whether a config.json is that of a plain ViT of transformers, whose weights have names of timm as well."""
    return config is not None and config.get("model_type") == "vit" and "architecture" not in config


def base_of_card(folder: Path) -> str | None:
    """Returns the `base_model` in the YAML head of a model card (README.md); None where there is none that can be read."""
    path = folder / "README.md"
    try:
        text = read_text(path, limit=CARD)
        if not text.startswith("---"):
            return None
        head = yaml.safe_load(text[3:].partition("\n---")[0])
    except (InputError, yaml.YAMLError, RecursionError, ValueError):
        return None
    base = head.get("base_model") if isinstance(head, dict) else None
    base = base[0] if isinstance(base, list) and len(base) == 1 else base
    return base if isinstance(base, str) and base else None


def architecture_of(
    config: Mapping[str, Any] | None, given: Mapping[str, Any] | None, weights: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Returns the config.json of a model in a zoo.

    Args:
        config: the config.json beside its weights, None where there is none.
        given: the architecture that the user names, for models without a config.json; None for none.
        weights: by the names under which the zoo has them.

    Raises:
        InputError: the weights do not fit the architecture that the user names.
    """
    if config is not None and isinstance(config.get("architecture"), str):
        given_args, kept = config.get("model_args"), config.get("pretrained_cfg")
        arguments = (
            {key: value for key, value in given_args.items() if key != "num_classes"} if isinstance(given_args, dict) else {}
        )
        described = described_by_timm(config["architecture"], arguments)
        described["pretrained_cfg"] = kept if isinstance(kept, dict) else {}
        classes = config.get("num_classes", described["pretrained_cfg"].get("num_classes", 1000))
        fitted = fitted_to(described | {"num_classes": classes if isinstance(classes, int) else 1000}, weights)
        return UNKNOWN if fitted is None else fitted
    if config is not None and is_transformers_vit(config) and (described := timm_description(config, weights)) is not None:
        fitted = fitted_to(described, weights)
        return {"architecture": None, "num_heads": described["model_args"]["num_heads"]} if fitted is None else fitted
    if config is not None and isinstance(heads := config.get("num_attention_heads", config.get("n_head")), int):
        return {"architecture": None, "num_heads": heads}
    if given is None:
        return UNKNOWN
    if (fitted := fitted_to(given, weights)) is None:
        raise InputError(f"its tensors are not those of architecture={given['architecture']}: {difference(given, weights)}")
    return fitted


def fitted_to(described: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Returns an architecture whose sizes are those of the weights; None if there is none, or none that is sure of its heads.

    Number of classes, images, channels, patches, blocks and neurons are read from the shapes. The number of heads is not in them:
    it is that of the architecture, which must have the width of the weights.
    """
    for change in (lambda described, _: dict(described), _resized):
        try:
            one = change(described, weights)
            if one is not None and shapes(outline(one).state_dict()) == shapes(weights):
                return one
        except InputError:  # timm has no such model, or cannot build it with these sizes
            continue
    return None


def difference(described: Mapping[str, Any], weights: Mapping[str, Tensor]) -> str:
    """Says how weights differ from an architecture: in width and depth, in names, or in a shape; and that a card may say it."""
    model = outline(described)
    sizes, told = [], []
    patch, width = weights.get("patch_embed.proj.weight"), getattr(model, "embed_dim", None)
    if patch is not None and isinstance(width, int) and len(patch) != width:
        sizes.append(f"embed_dim: {len(patch)}")
        told.append(f"width is {len(patch)}, not {width}")
    try:
        wanted = shapes(outline(_resized(described, weights) or described).state_dict())
    except InputError:
        wanted = shapes(model.state_dict())
    there = shapes(weights)
    ours, theirs = (len({name.split(".")[1] for name in names if name.startswith("blocks.")}) for names in (there, wanted))
    if ours != theirs:
        sizes += [f"depth: {ours}"] if ours else []
        told.append(f"depth is {ours}, not {theirs}")
    for names, what in ((wanted.keys() - there.keys(), "missing"), (there.keys() - wanted.keys(), "not in it")):
        if names:
            told.append(f"{len(names)} are {what}, {shortened(min(names))} among them")
    if not told:
        name = next(name for name in wanted if wanted[name] != there[name])
        told.append(f"{name} is of shape {there[name]}, not {wanted[name]}")
    card = f"a card says other sizes ({', '.join([*sizes, 'num_heads: ...'])})" if sizes else "a card says other sizes"
    return f"{'; '.join(told)}; {card}: docs/how_to/own_models.md shows one"


def shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of tensors, but for counters of batches, which are no weights."""
    return {name: tuple(tensor.shape) for name, tensor in weights.items() if not name.endswith("num_batches_tracked")}


def _resized(described: Mapping[str, Any], weights: Mapping[str, Tensor]) -> dict[str, Any] | None:
    """Returns a VisionTransformer with the sizes of the weights."""
    model, patch = outline(described), weights.get("patch_embed.proj.weight")
    if not isinstance(model, VisionTransformer) or patch is None or patch.dim() != 4 or patch.shape[0] != model.embed_dim:
        return None
    width, channels, height, _ = patch.shape
    hidden, places = weights.get("blocks.0.mlp.fc1.bias"), weights.get("pos_embed")
    sizes: dict[str, Any] = {"in_chans": channels, "patch_size": height}
    sizes["depth"] = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    sizes |= {} if hidden is None else {"mlp_ratio": len(hidden) / width}
    if places is not None and places.dim() == 3:
        side = math.isqrt(places.shape[1])
        sizes["img_size"] = side * height  # class and register tokens are fewer than what is missing to the next square
        kept = described["model_args"].get("img_size")
        if isinstance(kept, list | tuple):  # which is no square
            sizes["img_size"] = kept
    mlp, linear = weights.get("head.fc2.weight"), weights.get("head.weight")
    classes = len(mlp) if mlp is not None else len(linear) if linear is not None else 0
    resized = {**described, "model_args": {**described["model_args"], **sizes}, "num_classes": classes}
    return with_head({"pretrained_cfg": {}, **resized}, "mlp" if mlp is not None else "linear", classes) if classes else resized
