"""Foreign files, small and valid, and what mutates them."""

import json
import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

CANARY = "canary"
"""Name of the file that a pickle planted in the corpus would make if anything ran it."""


def vit(seed: int = 0, **sizes: int) -> dict[str, Tensor]:
    """Weights of a ViT that takes milliseconds."""
    torch.manual_seed(seed)
    smallest = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 3}
    return {name: tensor.detach() for name, tensor in VisionTransformer(**(smallest | sizes)).state_dict().items()}  # type: ignore[arg-type]


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
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 3, "modules_to_save": ["head"], "bias": "none", "base_model_name_or_path": "x"}
    (folder / "adapter_config.json").write_text(json.dumps(plain | config))


class Bait:
    """An object whose pickle makes the canary when it is unpickled."""

    def __init__(self, folder: Path):
        self.path = folder / CANARY

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (self.path,)


_NUMBERS = (0, 1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
_TEXTS = (b"../../etc/passwd", b"/etc/passwd", b"\x00", b"NaN", b"1e999", b"-1", b"null", b"[[[[", b"{", b"}", b'"', b"\\ud800", b"F64", b"I8")
_PROGRAM = b"cpathlib\nPath.touch\nR."


def mutate(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """Returns a file with one to four random changes: bits, cuts, copies, numbers, texts, words, pieces of other files."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        at = rng.randrange(len(data) + 1) if rng.random() < 0.5 else rng.randrange(min(len(data), 400) + 1)
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


def huge_header(size: int) -> bytes:
    """A safetensors file that says its header is of `size` bytes."""
    return struct.pack("<Q", size) + b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}    ' + b"\0" * 4
