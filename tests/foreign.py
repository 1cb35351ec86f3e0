"""Foreign files, small and valid, and what mutates them."""

import contextlib
import copy
import io
import json
import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from tests.zoos import compose
from wsl.data.standardizer import Standardizer
from wsl.models.hyperrep import HyperRep
from wsl.probes.predictor import Predictor
from wsl.run_files import FORMAT, write_config
from zoo_gen.architecture import architecture, with_head
from zoo_gen.blueprint import Blueprint
from zoo_gen.config import CONFIGS, instantiate
from zoo_gen.index import RESULTS
from zoo_gen.writer import ModelWriter, create_zoo, write_index
from zoo_gen.zoo import Zoo

CANARY = "canary"
"""Name of the file that a pickle planted in the corpus would make if anything ran it."""


SIZES = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 8, "depth": 1, "num_heads": 2}
_BACKBONE = architecture(timm_name="vit_tiny_patch16_224", model_args=SIZES, in_chans=1, img_size=8, mean=[0.5], std=[0.5])
ARCHITECTURE: dict[str, Any] = with_head(_BACKBONE, "linear", 3)


def vit(seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    """Weights of a ViT that takes milliseconds."""
    torch.manual_seed(seed)
    chosen: dict[str, Any] = SIZES | {"num_classes": 3} | sizes
    model = VisionTransformer(**chosen)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}  # type: ignore[arg-type]


def write_sharded(folder: Path, weights: Mapping[str, Tensor], *, suffix: str) -> Path:
    """Writes two shards and their index as `transformers` does; returns the index."""
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    names, places = list(weights), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        shard = f"{stem}-{number:05d}-of-00002.{suffix}"
        tensors = {name: weights[name].clone() for name in part}
        save_file(tensors, folder / shard) if suffix == "safetensors" else torch.save(tensors, folder / shard)
        places |= dict.fromkeys(part, shard)
    index = folder / f"{stem}.{suffix}.index.json"
    size = sum(tensor.nbytes for tensor in weights.values())
    index.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": places}))
    return index


def write_adapter(folder: Path, base: Mapping[str, Tensor], **config: object) -> None:
    """Writes a LoRA adapter of the attention, by hand, in the format of `peft`."""
    torch.manual_seed(1)
    layer = "blocks.0.attn.qkv"
    out, inputs = base[f"{layer}.weight"].shape
    tensors = {
        f"base_model.model.{layer}.lora_A.weight": torch.randn(2, inputs),
        f"base_model.model.{layer}.lora_B.weight": torch.randn(out, 2),
        "base_model.model.head.weight": torch.randn(3, inputs),
        "base_model.model.head.bias": torch.randn(3),
    }
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    plain = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 3,
        "modules_to_save": ["head"],
        "bias": "none",
        "base_model_name_or_path": "x",
    }
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))


def write_zoo(folder: Path, weights: Mapping[str, Tensor]) -> Zoo:
    """Writes a zoo of a root and its only child, one epoch each, with the real writer; nothing is trained."""
    card = {"timm_name": "vit_tiny_patch16_224", "model_args": SIZES, "in_chans": 1, "img_size": 8, "mean": [0.5], "std": [0.5]}
    config = compose("zoo_gen", ["zoo=digits_mini"])["zoo"]
    config["architecture"] |= card
    config["pretrain"] |= {"members": [], "recipe": {**config["pretrain"]["recipe"], "objective": "supervised", "head": "linear"}}
    config["finetune"]["axes"] = {"learning_rate": [1e-3]}
    for stage, classes in (("pretrain", [0, 1, 2]), ("finetune", [3, 4, 5])):
        config[f"{stage}_images"]["classes"] = classes
    blueprint: Blueprint = instantiate(config)
    chosen = blueprint.plan(0)
    assert all(spec.architecture == ARCHITECTURE for spec in chosen)
    stacks = {"pretrain_0": {"models": [chosen[0].model], "epochs": 1}}
    stacks["finetune_0"] = {"models": [spec.model for spec in chosen[1:]], "epochs": 1}
    create_zoo(folder, name="small", seed=0, config=config, specs=chosen, stacks=stacks)
    for spec, found in zip(chosen, (vit(seed=7), weights), strict=True):
        ModelWriter(folder, spec, dtype="float32", keep_every=1).save(spec.recipe.epochs, found, dict.fromkeys(RESULTS, 0.5))
    write_index(folder, [spec.model for spec in chosen])
    return Zoo.open(folder)


def write_run(folder: Path) -> None:
    """Writes the folder of a run on the zoo beside it, with fresh weights."""
    folder.mkdir()
    sizes = {"token_width": 5, "width": 4, "heads": 2, "depth": 1, "mlp_ratio": 1.0}
    model = {**sizes, "compression_ratio": 4, "blocks": 4, "roles": 10, "places": 8}
    save_file(HyperRep(**model).state_dict(), folder / "model.safetensors")  # type: ignore[arg-type]
    Standardizer(parts={"head.bias": (0.0, 1.0)}, roles={"head": (0.0, 1.0)}).save(folder / "standardizer.json")
    config = {
        "format": FORMAT,
        "model_name": "hyperrep",
        "zoo": {
            "path": str(folder.parent / "zoo"),
            "relative": "../zoo",
            "content_hash": Zoo.open(folder.parent / "zoo").content_hash,
        },
        "window": 4,
        "rehearsal": {"steps": 1, "batch_size": 2, "sgd": 0.1, "adamw": 0.1},
        "split": "by_model",
        "seed": 0,
        "fold": 0,
        "steps": 1,
        "learning_rate": 1e-3,
        "tokenizer": OmegaConf.to_container(OmegaConf.load(CONFIGS / "tokenizer" / "residual.yaml")),
        "model": {"_target_": "wsl.models.hyperrep.HyperRep", **model},
    }
    write_config(folder, config)


def write_probes(folder: Path) -> None:
    """Writes the probes of a run whose embeddings have three numbers: of a number, of two labels and of three."""
    rng, classes = np.random.default_rng(0), {"test_loss": [], "optimizer": ["adamw", "sgd"], "root": ["a", "b", "c"]}
    tensors = {"population/mean": np.zeros(3), "population/directions": np.eye(3), "population/limit": np.ones(1)}
    tensors["population/floor"] = np.ones(1)
    for target, labels in classes.items():
        columns = len(labels) if len(labels) > 2 else 1
        tensors |= {f"{target}/coefficients": rng.normal(size=(3, columns)), f"{target}/intercepts": rng.normal(size=columns)}
        tensors |= {f"{target}/{kind}nonconformity": rng.random(4) for kind in ("", "root_")}
        tensors |= {f"{target}/{kind}weights": np.full(4, 0.2) for kind in ("", "root_")}
        tensors[f"{target}/usual_error"] = np.array([1.0, 0.0])
    about = {"state": "4 x", "classes": classes, "roots": {"a": "x"}, "shapes": [{"head.bias": [3]}]}
    Predictor(tensors, about).save(folder)


class Bait:
    """An object whose pickle makes the canary when it is unpickled."""

    def __init__(self, folder: Path):
        self.path = folder / CANARY

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


_NUMBERS = (0, 1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
_TEXTS = (
    b"../../etc/passwd",
    b"/etc/passwd",
    b"\x00",
    b"NaN",
    b"1e999",
    b"-1",
    b"null",
    b"[[[[",
    b"{",
    b"}",
    b'"',
    b"\\ud800",
    b"F64",
    b"I8",
)
_PROGRAM = b"cpathlib\nPath.touch\nR."


def mutate(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Returns a file with one to four random changes: bits, cuts, copies, numbers, texts, words, pieces of other files."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        near = rng.randrange(min(len(data), 400) + 1)
        at = rng.choice((rng.randrange(len(data) + 1), near, len(data) - near))
        kind = rng.randrange(10)
        if kind == 0 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[min(at, len(data) - 1)] = rng.randrange(256)
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + rng.choice((1, 2, 8, 64))]
        elif kind == 4:
            data[at:at] = data[at : at + rng.choice((1, 8, 64, 512))]
        elif kind == 5:
            number = rng.choice(_NUMBERS)
            packed = number.to_bytes(8, "little")[: rng.choice((2, 4, 8))]
            data[at : at + len(packed)] = packed
        elif kind == 6:
            data[at:at] = rng.choice((*_TEXTS, _PROGRAM))
        elif kind == 7:
            data = _change_a_number(data, rng)
        elif kind == 8:
            data = _swap_words(data, rng)
        else:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            piece = other[start : start + rng.choice((4, 32, 256))]
            data[at : at + len(piece)] = piece
    return bytes(data)


def _spans(data: bytearray, inside: bytes, rng: random.Random) -> tuple[int, int] | None:
    """A run of bytes out of a set, near a random place."""
    if not data:
        return None
    start = rng.randrange(min(len(data), 4000))
    while start < len(data) and data[start] not in inside:
        start += 1
    stop = start
    while stop < len(data) and data[stop] in inside:
        stop += 1
    return (start, stop) if stop > start else None


def _change_a_number(data: bytearray, rng: random.Random) -> bytearray:
    if span := _spans(data, b"0123456789", rng):
        data[slice(*span)] = str(rng.choice((*_NUMBERS, -1, rng.randrange(100), 10**30))).encode()
    return data


def _swap_words(data: bytearray, rng: random.Random) -> bytearray:
    letters = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_."
    first, second = _spans(data, letters, rng), _spans(data, letters, rng)
    if first and second:
        data[slice(*first)] = bytes(data[slice(*second)])
    return data


_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**53, 2**63, 2**70, -(2**63), 0.5, 1e308, float("nan"), float("inf"), 10**4000),
    *("", "x", "..", "../../../etc/passwd", "/etc/passwd", "/dev/zero", "\0", "\ud800", "a" * 5000, "F64", "U8", "BOOL", "\x1b[2J"),
    *([], {}, [[]], [1, 2, 3], [-1], {"a": 1}, [None], {"_target_": "os.system", "command": "true"}),
    *(
        "pathlib.Path.touch",
        "zoo_gen.files.write_json",
        "zoo_gen.sources.parquet.parquet",
        "wsl.run_files.run_folder",
        "${oc.env:HOME}",
        "${x",
    ),
    {"_target_": "zoo_gen.images.digits"},
)


def mutate_tree(name: str, content: bytes, rng: random.Random) -> bytes:
    """Returns JSON or YAML with one to three values replaced, removed, renamed or nested."""
    is_yaml = name.endswith(".yaml")
    tree = yaml.load(content, yaml.CSafeLoader) if is_yaml else json.loads(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        nodes: list[tuple[Any, Any]] = []
        stack = [tree]
        while stack:
            node = stack.pop()
            if isinstance(node, dict | list):
                keys = list(node) if isinstance(node, dict) else range(len(node))
                nodes += [(node, key) for key in keys]
                stack += [node[key] for key in keys]
        if not nodes:
            break
        shallow = [pair for pair in nodes if pair[0] is tree]
        node, key = rng.choice(shallow if shallow and rng.random() < 0.3 else nodes)
        kind = rng.randrange(6)
        if kind < 3:
            node[key] = copy.deepcopy(rng.choice(_VALUES))  # or later mutations would grow inside it
        elif kind == 3:
            del node[key]
        elif kind == 4 and isinstance(node, dict):
            node[str(rng.choice(_VALUES))[:6000] if rng.random() < 0.9 else "x"] = node.pop(key)
        else:
            node[key] = json.loads(json.dumps(rng.choice(nodes)[0])) if rng.random() < 0.5 else [node[key]]
    try:
        return (yaml.dump(tree, Dumper=yaml.CSafeDumper, sort_keys=False) if is_yaml else json.dumps(tree)).encode()
    except (ValueError, RecursionError):  # YAML has no lone surrogates
        return mutate(content, rng, [content])


def mutate_frame(content: bytes, rng: random.Random) -> bytes:
    """Returns an index with columns of other types or values, other rows, or another compression."""
    frame = pd.read_parquet(io.BytesIO(content))
    codec: Any = "snappy"
    for _ in range(rng.choice((1, 1, 2))):
        column = rng.choice(list(frame.columns))
        values = [rng.choice((None, "x", "../../etc/passwd", "/etc/passwd", "\0", "a" * 300)) for _ in range(len(frame))]
        kind = rng.randrange(9)
        if kind == 0:
            frame = frame.drop(columns=column)
        elif kind == 1:
            frame[column] = values
        elif kind == 2:
            frame[column] = rng.choice((0, -1, 2**62, 0.5, float("nan"), float("inf"), True, b"x", None, pd.Timestamp(0)))
        elif kind == 3:
            frame[column] = [[1]] * len(frame)
        elif kind == 4:
            with contextlib.suppress(TypeError):  # another change made lists of it
                frame[column] = frame[column].astype("category")
        elif kind == 5:
            frame = pd.concat([frame] * rng.choice((1, 2, 20)), ignore_index=True) if rng.random() < 0.9 else frame.iloc[:0]
        elif kind == 6:
            frame = frame.rename(columns={column: rng.choice(("x", "model", "path", ""))})
        elif kind == 7:
            codec = rng.choice(("gzip", "zstd", "brotli", None))
        else:
            frame[column] = ["a" * 10**4] * len(frame)
    made = io.BytesIO()
    try:
        frame.to_parquet(made, index=False, compression=codec)
    except Exception:  # pyarrow raises errors of many kinds for what cannot be written; the change is then another one
        return content[: rng.randrange(len(content))]
    return made.getvalue()


def huge_header(size: int) -> bytes:
    """A safetensors file that says its header is of `size` bytes."""
    return struct.pack("<Q", size) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}    ' + b"\0" * 4


WEIGHTS = vit()
"""Those that foreign files hold."""


def same(found: Mapping[str, Tensor], weights: Mapping[str, Tensor] = WEIGHTS) -> bool:
    """Whether tensors are of the same names, types and values."""
    return found.keys() == weights.keys() and all(
        found[name].dtype == tensor.dtype and torch.equal(found[name], tensor) for name, tensor in weights.items()
    )
