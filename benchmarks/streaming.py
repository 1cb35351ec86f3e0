"""Memory and speed of streaming windows from zoos: python -m benchmarks.streaming. Last line: JSON.

Zoos of copies of one random model (hard links to one file) and one random root; tokens hold task vectors. Each measurement is a
process of its own that scans the zoo (one pass over all weights), fits the statistics and draws windows, nothing cached. Memory is
the largest resident set beyond that when imports were done. Pages of mapped files count, though the system drops them when another
process needs the room.

Bars: 1,000 copies take at most 1.1 times the memory of 100 (what grows is the list of checkpoints and the sums of their parts), a
model of 304M weights at most twice its bytes; a training step of the default hyper-representation waits at most 5 % of its time.
"""

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import wsl.train  # noqa: F401 (its settings, for `compose`)
from benchmarks.measure import alone, fine_tuned, last_line, peak, random_weights
from wsl.data.sources import scan
from wsl.data.standardizer import Standardizer
from wsl.data.windows import Windows
from wsl.tokenizers.residual import Residual
from wsl.training.trainer import parameter_groups
from zoo_gen import Checkpoint
from zoo_gen.architecture import build
from zoo_gen.config import compose, instantiate

DIGITS = {"img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 32, "depth": 3, "num_heads": 4, "mlp_ratio": 2}
ARCHITECTURES = {
    "digits": {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "model_args": DIGITS},
    "vit_small": {"architecture": "vit_small_patch16_224", "num_classes": 100, "model_args": {}},
    "vit_large": {"architecture": "vit_large_patch16_224", "num_classes": 1000, "model_args": {}},
}
TOKENIZER = Residual(width=64, reference="root")
BATCHES, STEPS, FIRST = 50, 60, 10
"""Batches that are drawn, steps that are trained, and those of them that do not count."""


def make_zoo(folder: Path, name: str, copies: int) -> None:
    """Writes a random model, `copies` times by hard links, and a root."""
    (folder / "epochs").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(ARCHITECTURES[name]))
    root = random_weights(ARCHITECTURES[name])
    save_file(root, folder / "epochs" / "root.safetensors")
    save_file(fine_tuned(root), folder / "epochs" / "0.safetensors")
    for copy in range(1, copies):
        os.link(folder / "epochs" / "0.safetensors", folder / "epochs" / f"{copy}.safetensors")


def stream(folder: Path, copies: int, config: dict[str, Any]) -> Windows:
    """Windows of the default training from the scanned copies of a zoo, nothing cached."""
    columns: dict[str, Any] = {"parent": None, "stage": "finetune", "epoch": 1, "final": True, "status": "ok", "fold": 0}

    def checkpoint(name: str) -> Checkpoint:
        path = folder / "epochs" / f"{name}.safetensors"
        return Checkpoint(model=name, root="root", factors={}, results={}, path=path, **columns)

    sources = scan(((checkpoint(str(n)), checkpoint("root")) for n in range(copies)), TOKENIZER)
    standardizer = Standardizer.fit((source.plan, source.sums) for source in sources)
    return Windows(sources, standardizer, length=config["window"], seed=0, cache=0)


def measure_memory(folder: Path, copies: int) -> dict[str, float]:
    """Peak memory of a scan, a fit and some batches; windows per second."""
    config = compose("train", ["window=448"])
    build(ARCHITECTURES["digits"])  # what is imported late
    _ = stream(folder, 1, config)[0]
    before = peak(reset=True)
    windows = stream(folder, copies, config)
    start = time.perf_counter()
    for _ in windows.batches(range(BATCHES), config["batch_size"], rank=0, world_size=1, workers=1):
        pass
    speed = BATCHES * config["batch_size"] / (time.perf_counter() - start)
    return {"bytes": peak() - before, "windows_per_second": speed}


def measure_wait(folder: Path, copies: int) -> dict[str, float]:
    """Share of the default training's time that it waits for data, over all steps but the first."""
    config = compose("train", ["window=448"])
    model, objective = instantiate({**config["model"], "token_width": TOKENIZER.width + 1}), instantiate(config["objective"])
    optimizer = torch.optim.AdamW(parameter_groups(model, config["weight_decay"]), lr=1e-4)
    windows = stream(folder, copies, config)
    batches = windows.batches(range(STEPS), config["batch_size"], rank=0, world_size=1, workers=1)
    waited = total = 0.0
    for step in range(STEPS):
        start = time.perf_counter()
        batch = next(batches)
        ready = time.perf_counter()
        optimizer.zero_grad()
        objective(model, batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config["gradient_clip_val"])
        optimizer.step()
        if step >= FIRST:
            waited += ready - start
            total += time.perf_counter() - start
    return {"wait_share": waited / total}


def main() -> None:
    """Measures all and prints what was found."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as place:
        folders = {name: Path(place, name) for name in ARCHITECTURES}
        for (name, folder), copies in zip(folders.items(), (100, 1000, 1), strict=True):
            make_zoo(folder, name, copies)
        few, many = (alone(measure_memory, folders["vit_small"], copies)["bytes"] for copies in (100, 1000))
        figures["memory_1000_over_100"] = many / few
        size = (folders["vit_large"] / "epochs" / "0.safetensors").stat().st_size
        figures["memory_vit_large_over_bytes"] = alone(measure_memory, folders["vit_large"], 1)["bytes"] / size
        for name in ("digits", "vit_small"):
            figures[f"{name}_windows_per_second"] = alone(measure_memory, folders[name], 10)["windows_per_second"]
            figures[f"{name}_wait_share"] = alone(measure_wait, folders[name], 20)["wait_share"]
    print(last_line(figures))


if __name__ == "__main__":
    main()
