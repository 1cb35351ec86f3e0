"""A folder of checkpoints with copies in disguise planted among unrelated models, siblings and epochs of one training."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from wsl.layout import layout_of
from wsl.layout.slots import Layout
from wsl.symmetry.group import MOVES, random_view
from wsl.symmetry.stacks import stack, unstack

CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 2},
    "num_classes": 5,
}

Weights = dict[str, Tensor]


class Plant(NamedTuple):
    """Where a model and its copy lie, how the copy is disguised, and what the two are equal up to."""

    model: Path
    copy: Path
    disguise: str
    kind: str


def root(seed: int) -> tuple[Weights, Layout]:
    """A network with weights of trained size in every tensor, with layer scales."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        args = CONFIG["model_args"] | {"init_values": 0.1}  # type: ignore[operator]
        model = timm.create_model("vit_tiny_patch16_224", num_classes=5, **args)
        weights = {name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in model.state_dict().items()}
    return weights, layout_of(model)


def trained(weights: Weights, seed: int, far: float) -> Weights:
    """A model as far from another, relative to each tensor, as a training goes."""
    rng = torch.Generator().manual_seed(seed)
    return {
        name: tensor + far * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=rng)
        for name, tensor in weights.items()
    }


def moved(*moves: str, rule: Callable[[str], bool] = lambda source: True) -> Callable[[Weights, Layout, int], Weights]:
    """A disguise by symmetries, in float32; `rule` says by the tensor which null directions count."""

    def act(weights: Weights, layout: Layout, seed: int) -> Weights:
        some = replace(layout, rules=tuple(one for one in layout.rules if rule(f"{one.source}[{one.part}]")))
        rng = torch.Generator().manual_seed(seed)
        double = {name: tensor.double() for name, tensor in stack([weights]).items()}
        view = random_view(double, some, rng, moves=moves, maps="general", strength=0.3)
        return {name: tensor.float() for name, tensor in unstack(view)[0].items()}

    return act


def in_type(dtype: torch.dtype, then: Callable[[Weights, Layout, int], Weights] | None = None) -> Callable[..., Weights]:
    """A disguise by a format of fewer bits, maybe after another."""

    def act(weights: Weights, layout: Layout, seed: int) -> Weights:
        found = then(weights, layout, seed) if then else weights
        return {name: tensor.to(dtype) for name, tensor in found.items()}

    return act


def same(weights: Weights, layout: Layout, seed: int) -> Weights:
    return weights


DISGUISES: dict[str, tuple[Callable[[Weights, Layout, int], Weights], str, str]] = {
    "float16": (in_type(torch.float16), "precision", ".safetensors"),
    "bfloat16": (in_type(torch.bfloat16), "precision", ".safetensors"),
    "prefix": (lambda w, *_: {f"module._orig_mod.{name}": tensor for name, tensor in w.items()}, "bits", ".safetensors"),
    "torch.save": (same, "bits", ".pt"),
    "Lightning": (same, "bits", ".ckpt"),
    "shards": (same, "bits", "sharded"),
    "LoRA": (same, "precision", "adapter"),
    "neurons": (moved("mlp"), "symmetry", ".pt"),
    "heads": (moved("head"), "symmetry", ".safetensors"),
    "residual features": (moved("resid"), "symmetry", ".safetensors"),
    "maps of queries and keys": (moved("qk"), "symmetry", ".safetensors"),
    "maps of values and outputs": (moved("vo"), "symmetry", ".safetensors"),
    "norms": (moved("norm"), "symmetry", ".safetensors"),
    "value biases": (moved("bias", rule=lambda source: source.endswith("[2]")), "symmetry", ".safetensors"),
    "key biases": (moved("bias", rule=lambda source: source.endswith("[1]")), "symmetry", ".safetensors"),
    "residual means": (moved("mean"), "symmetry", ".safetensors"),
    "layer scales": (moved("scale"), "symmetry", ".safetensors"),
    "everything": (moved(*MOVES), "symmetry", ".ckpt"),
    "everything in float16": (in_type(torch.float16, moved(*MOVES)), "symmetry", ".pt"),
    "permutations in bfloat16": (in_type(torch.bfloat16, moved("mlp", "head", "resid")), "symmetry", ".safetensors"),
}
"""What is done to the weights, what the copy is equal up to, and the container it is put in."""


def plant(folder: Path, *, models: int, copies: int) -> tuple[list[Plant], Path]:
    """Writes models and copies of some of them, in nested folders.

    A root has siblings at 0.2 to 0.001 of its norm, and of each sibling a later epoch, at 0.001.

    Returns:
        What was planted, and the checkpoint that adapters are merged into.
    """
    folder.mkdir()
    written: list[tuple[Path, Weights, Layout]] = []
    for number in range(models):
        family, place = divmod(number, 12)
        origin, layout = root(family)
        weights = origin if place == 0 else trained(origin, 1000 + number // 2, 10 ** -(0.7 + 0.23 * (place // 2)))
        weights = trained(weights, 5000 + number, 0.001) if place % 2 else weights
        where = folder / f"family_{family}" / f"model_{number:03d}.safetensors"
        where.parent.mkdir(exist_ok=True)
        (where.parent / "config.json").write_text(json.dumps(CONFIG))
        save_file(weights, where)
        written.append((where, weights, layout))
    base = written[0]
    plants = []
    for number in range(copies):
        disguise = list(DISGUISES)[number % len(DISGUISES)]
        act, kind, container = DISGUISES[disguise]
        where, weights, layout = written[(1 + number * models // copies) % models]
        name = f"copy_{number:03d}"
        if container == "adapter":
            weights, copy = adapter(base[1], folder / "adapters" / name, number)
            where = folder / "merged" / f"{name}.safetensors"
            where.parent.mkdir(exist_ok=True)
            save_file(weights, where)
        else:
            copy = put(act(weights, layout, number), folder / "copies", name, container)
        plants.append(Plant(where, copy, disguise, kind))
    return plants, base[0]


def put(weights: Weights, folder: Path, name: str, container: str) -> Path:
    """Writes a checkpoint in one of the containers that people have."""
    folder.mkdir(exist_ok=True, parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    path = folder / f"{name}{container}"
    if container == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in weights.items()}, path)
    elif container == ".pt":
        torch.save({"model": weights, "epoch": 3}, path)
    elif container == ".ckpt":
        state = {f"model.{key}": tensor for key, tensor in weights.items()}
        torch.save({"state_dict": state, "pytorch-lightning_version": "2.5.0", "epoch": 3, "global_step": 9}, path)
    else:
        path = folder / name / "model.safetensors.index.json"
        path.parent.mkdir()
        (path.parent / "config.json").write_text(json.dumps(CONFIG))
        shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        places = {key: shards[i % 2] for i, key in enumerate(weights)}
        for shard in shards:
            save_file({key: weights[key].contiguous() for key in places if places[key] == shard}, path.parent / shard)
        path.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return path


def adapter(base: Weights, folder: Path, seed: int) -> tuple[Weights, Path]:
    """Writes a LoRA adapter as peft does; returns the base with it merged in by other hands, and the adapter's folder."""
    rng = torch.Generator().manual_seed(seed)
    layers = [name.removesuffix(".weight") for name in base if name.endswith("attn.qkv.weight")]
    merged, pairs = dict(base), dict[str, Tensor]()
    for layer in layers:
        weight = base[f"{layer}.weight"]
        a, b = (torch.randn(shape, generator=rng) * 0.1 for shape in ((4, weight.shape[1]), (weight.shape[0], 4)))
        pairs |= {f"base_model.model.{layer}.lora_A.weight": a, f"base_model.model.{layer}.lora_B.weight": b}
        merged[f"{layer}.weight"] = (weight.double() + 2 * b.double() @ a.double()).float()
    folder.mkdir(parents=True)
    save_file(pairs, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["qkv"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return merged, folder
