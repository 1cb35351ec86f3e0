"""A folder of models as people have them: small ViTs in many forms, some files broken, and a table of odd columns."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.foreign import write_sharded
from tests.zoos import SMALL, tuned
from zoo_gen.architecture import build, initialize
from zoo_gen.files import write_weights
from zoo_gen.formats.transformers_vit import to_transformers

HF_CONFIG = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "hidden_act": "gelu",
    "hidden_size": 16,
    "image_size": 8,
    "intermediate_size": 32,
    "layer_norm_eps": 1e-12,
    "num_attention_heads": 2,
    "num_channels": 1,
    "num_hidden_layers": 2,
    "patch_size": 4,
    "qkv_bias": True,
}


def write_transformers(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """A folder as `save_pretrained` of transformers writes it."""
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in to_transformers(weights).items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(HF_CONFIG))


def write_timm(folder: Path, weights: Mapping[str, Tensor], **more: Any) -> None:
    """A folder as timm's `save_for_hf` writes it, with both of its files."""
    model = build(SMALL)
    model.load_state_dict(dict(weights))
    timm.models.save_for_hf(model, str(folder), safe_serialization="both", model_args=SMALL["model_args"], **more)


def write_lora(folder: Path, base: str, weights: Mapping[str, Tensor], seed: int) -> None:
    """A LoRA adapter of the attention and the head, in the format of `peft`."""
    rng, layer = torch.Generator().manual_seed(seed), "blocks.0.attn.qkv"
    out, inputs = weights[f"{layer}.weight"].shape
    tensors = {
        f"base_model.model.{layer}.lora_A.weight": torch.randn(2, inputs, generator=rng),
        f"base_model.model.{layer}.lora_B.weight": 0.1 * torch.randn(out, 2, generator=rng),
        "base_model.model.head.weight": torch.randn(3, inputs, generator=rng),
        "base_model.model.head.bias": torch.zeros(3),
    }
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    told = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "modules_to_save": ["head"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**told, "base_model_name_or_path": base}))


def write_forms(folder: Path) -> Path:
    """Sixty files and folders in eight forms, three of them broken and two of another family; returns the table of metrics."""
    roots = [initialize(SMALL, number) for number in range(3)]
    rows: list[dict[str, Any]] = []

    def of(number: int) -> dict[str, Tensor]:
        return tuned(roots[number % 3], number)

    def row(file: str, number: int, **more: Any) -> None:
        rate = 0.001 * (1 + number % 4)
        odd = {"größe (MB)": 0.1 * number, "Team / lead": ("red", "green")[number % 2], "note": "fine" if number % 3 else None}
        tuned_from = {"root": None if number % 5 == 4 else f"roots/r{number % 3}"}
        rows.append({"file": file, **tuned_from, "test_accuracy": 0.4 + 0.01 * (number % 50), "learning_rate": rate, **odd, **more})

    for number, root in enumerate(roots):  # 3 roots
        write_timm(folder / "roots" / f"r{number}", root)
    for number in range(8):  # 8 plain safetensors, 8 files of torch.save
        write_weights(folder / "plain" / f"a{number}.safetensors", of(number))
        row(f"plain/a{number}.safetensors", number)
    for number in range(8, 16):
        torch.save(
            {"state_dict": {f"module.{name}": tensor for name, tensor in of(number).items()}},
            folder / "plain" / f"b{number}.pth.tar",
        )
        row(f"b{number}", number)
    for number in range(16, 24):  # 8 folders of timm, named by its model card where the table says nothing
        write_timm(folder / "timm" / f"c{number}", of(number))
        (folder / "timm" / f"c{number}" / "README.md").write_text(
            f"---\nbase_model: somebody/r{number % 3}\ntags: [x]\n---\n# A model\n"
        )
    for number in range(24, 32):  # 8 folders of transformers
        write_transformers(folder / "hf" / f"d{number}", of(number))
        row(f"hf/d{number}", number)
    for number in range(32, 36):  # 4 runs of Lightning with two epochs each
        for epoch in (0, 4):
            place = folder / "runs" / f"e{number}" / "checkpoints" / f"epoch={epoch}-step={100 * epoch + 100}.ckpt"
            place.parent.mkdir(parents=True, exist_ok=True)
            state = {f"model.{name}": tensor for name, tensor in tuned(roots[number % 3], number, by=0.01 * (epoch + 1)).items()}
            torch.save({"state_dict": state, "pytorch-lightning_version": "2.4.0", "epoch": epoch}, place)
        row(f"runs--e{number}", number)
    for number in range(36, 42):  # 6 adapters
        write_lora(folder / "lora" / f"f{number}", f"me/r{number % 3}", roots[number % 3], number)
    for number in range(42, 46):  # 4 snapshots in the cache of the hub
        cache = folder / "hub" / f"models--me--g{number}"
        (cache / "blobs").mkdir(parents=True)
        write_weights(cache / "blobs" / "0a", of(number))
        snapshot = cache / "snapshots" / "1b"
        snapshot.mkdir(parents=True)
        (snapshot / "model.safetensors").symlink_to("../../blobs/0a")
        (cache / "refs").mkdir()
        (cache / "refs" / "main").write_text("1b")
        row(f"me/g{number}", number)
    for number in range(47, 49):  # 2 sharded
        (folder / "sharded" / f"h{number}").mkdir(parents=True)
        write_sharded(folder / "sharded" / f"h{number}", of(number), suffix="safetensors")
        row(f"sharded/h{number}", number)
    (folder / "plain" / "broken1.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{ no header")
    torch.save(of(0), folder / "plain" / "broken2.pt")
    (folder / "plain" / "broken2.pt").write_bytes((folder / "plain" / "broken2.pt").read_bytes()[:2000])
    (folder / "plain" / "broken3.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    for number in range(2):
        torch.manual_seed(number)
        torch.save(torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(4, 3)).state_dict(), folder / f"cnn{number}.pt")
    rows.append({"file": "nobody.pt", "test_accuracy": 0.5})
    rows[0]["test_accuracy"] = 91.0  # percents
    table = folder / "metrics.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    return table
