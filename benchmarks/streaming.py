"""Memory and speed of streaming windows from zoos: python -m benchmarks.streaming [--copies 100 1000]. Last line: JSON.

Zoos of copies of one random model (hard links to one file) and one random root; tokens hold differences. Each measurement
is a process of its own that surveys the zoo (one pass over all weights), fits the statistics and draws windows, nothing cached.

Memory is what the process holds beyond what it held when its imports were done, sampled every 5 ms:
- `anonymous`: pages of its own, which nothing but the process can give back (RssAnon);
- `resident`: those and pages of mapped files (RssAnon + RssFile). MemoryMapped pages are the system's file cache: it drops them
  when another process needs the room, and they count here for as long as the mapping lasts.

Bars: the process with 1,000 copies takes at most 1.1 times the memory of that with 100 (what grows is the list of checkpoints and
the sums of their parts, some 5 kB each); a model of 304M weights at most twice its bytes; a training step of the
default hyper-representation waits at most 5 % of its time for data.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import wsl.train
from wsl.data.sources import FileSource, scan
from wsl.data.standardizer import Standardizer
from wsl.data.windows import Windows
from wsl.tokenizers.residual import Residual
from wsl.training.loggers.logger import Nothing
from wsl.training.metrics_log import Journal
from wsl.training.trainer import Trainer
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


def make_zoo(folder: Path, name: str, copies: int) -> None:
    """Writes a random model, `copies` times by hard links, and a root."""
    (folder / "epochs").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(ARCHITECTURES[name]))
    with torch.device("meta"):
        shapes = build(ARCHITECTURES[name]).state_dict()
    generator = torch.Generator().manual_seed(0)
    root = {key: torch.randn(tensor.shape, generator=generator) * 0.02 for key, tensor in shapes.items()}
    save_file(root, folder / "epochs" / "root.safetensors")
    for tensor in root.values():
        tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=1e-3)
    first = folder / "epochs" / "0.safetensors"
    save_file(root, first)
    for copy in range(1, copies):
        os.link(first, folder / "epochs" / f"{copy}.safetensors")


def checkpoint(path: Path) -> Checkpoint:
    """A file as a checkpoint."""
    columns: dict[str, Any] = {"parent": None, "stage": "finetune", "epoch": 1, "final": True, "status": "ok", "fold": 0}
    return Checkpoint(model=path.stem, root="root", factors={}, results={}, path=path, **columns)


def sources_of(folder: Path, copies: int) -> list[FileSource]:
    """The surveyed copies of a zoo."""
    root = checkpoint(folder / "epochs" / "root.safetensors")
    return scan(((checkpoint(folder / "epochs" / f"{n}.safetensors"), root) for n in range(copies)), TOKENIZER)


class Memory:
    """The largest memory of this process, in bytes beyond what it was at first."""

    def __init__(self) -> None:
        self.first = self.now()
        self.peak = self.first
        threading.Thread(target=self._watch, daemon=True).start()

    @staticmethod
    def now() -> tuple[int, int]:
        """Anonymous and resident bytes."""
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        anonymous, mapped = (1024 * int(lines[name].split()[0]) for name in ("RssAnon", "RssFile"))
        return anonymous, anonymous + mapped

    def _watch(self) -> None:
        while True:
            self.peak = tuple(map(max, self.peak, self.now()))
            time.sleep(0.005)

    def figures(self) -> dict[str, float]:
        """Megabytes."""
        anonymous, resident = ((peak - first) / 1e6 for peak, first in zip(self.peak, self.first, strict=True))
        return {"anonymous_mb": anonymous, "resident_mb": resident, "imports_mb": self.first[1] / 1e6}


def stream(sources: list[FileSource], config: dict[str, Any]) -> Windows:
    """Windows of the default training, nothing cached."""
    standardizer = Standardizer.fit((source.plan, source.sums) for source in sources)
    return Windows(sources, standardizer, length=config["window"], seed=0, cache=0)


def measure_memory(folder: Path, name: str, copies: int, batches: int) -> dict[str, float]:
    """Peak memory of a survey, a fit and some batches; seconds per checkpoint surveyed; windows per second."""
    config = compose("train")
    build(ARCHITECTURES["digits"])  # what is imported late
    stream(sources_of(folder, 1), config)[0]
    memory, start = Memory(), time.perf_counter()
    sources = sources_of(folder, copies)
    surveyed = time.perf_counter()
    windows = stream(sources, config)
    drawn = time.perf_counter()
    for _ in windows.batches(range(batches), config["batch_size"], rank=0, world_size=1, workers=1):
        pass
    speed = batches * config["batch_size"] / (time.perf_counter() - drawn)
    return {**memory.figures(), "survey_ms": (surveyed - start) / copies * 1e3, "windows_per_second": speed}


class Timed:
    """Batches, and the seconds that the training waits for them."""

    def __init__(self, windows: Windows):
        self.windows, self.waited, self.begun = windows, [], []

    def batches(self, *arguments: Any, **options: Any) -> Any:
        """Times each batch."""
        batches = self.windows.batches(*arguments, **options)
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            self.begun.append(start)
            self.waited.append(time.perf_counter() - start)
            yield batch


def measure_wait(folder: Path, name: str, copies: int, workers: int, steps: int) -> dict[str, float]:
    """Share of the default training's time that it waits for data, over all steps but the first ten."""
    from lightning_fabric import Fabric
    from rich.console import Console

    config = compose("train", [f"steps={steps}", f"workers={workers}", "warmup=2", f"save_every={steps}"])
    model = instantiate({**config["model"], "token_width": 65})
    timed: Any = Timed(stream(sources_of(folder, copies), config))
    settings: dict[str, Any] = {name: config[name] for name in Trainer.__dataclass_fields__} | {"validate_every": steps}
    trainer = Trainer(**settings)
    objective = instantiate(config["objective"])
    with tempfile.TemporaryDirectory() as run:
        fabric = Fabric(accelerator="cpu", devices=1)
        journal = Journal(Path(run) / "metrics.jsonl", Nothing())
        trainer.fit(fabric, Path(run), model, objective, timed, dict, Console(quiet=True), journal)
    total = timed.begun[-1] - timed.begun[10]
    waited = sum(timed.waited[10:-1])
    return {"wait_share": waited / total, "step_ms": total / (steps - 11) * 1e3}


MEASUREMENTS: dict[str, Callable[..., dict[str, float]]] = {"memory": measure_memory, "wait": measure_wait}


def child(kind: str, *arguments: Any) -> dict[str, float]:
    """Runs a measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.streaming", "--child", json.dumps([kind, *map(str, arguments)])]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def main() -> None:
    """Measures all and prints what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--copies", type=int, nargs=2, default=[100, 1000])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--child")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.child:
        kind, folder, name, copies, *rest = json.loads(options.child)
        arguments = [int(value) if value.isdigit() else value for value in rest]
        print(json.dumps(MEASUREMENTS[kind](Path(folder), name, int(copies), *arguments)))
        return

    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        few, many = options.copies
        for name, copies in (("digits", 100), ("vit_small", many), ("vit_large", 1)):
            make_zoo(Path(place, name), name, copies)
        one, other = (child("memory", Path(place, "vit_small"), "vit_small", n, 50) for n in (few, many))
        for what in ("anonymous", "resident"):
            figures[f"{what}_{many}_over_{few}"] = other[f"{what}_mb"] / one[f"{what}_mb"]
            figures[f"{what}_mb"] = [one[f"{what}_mb"], other[f"{what}_mb"]]
            print(f"{what} memory: {other[f'{what}_mb']:.0f} MB with {many} copies, {one[f'{what}_mb']:.0f} MB with {few}")
        peaks = [figure["imports_mb"] + figure["resident_mb"] for figure in (one, other)]
        figures[f"process_{many}_over_{few}"], figures["process_mb"] = peaks[1] / peaks[0], peaks
        print(f"the whole process, PyTorch and all: {peaks[1]:.0f} MB with {many} copies, {peaks[0]:.0f} MB with {few}")
        large = child("memory", Path(place, "vit_large"), "vit_large", 1, 25)
        size = Path(place, "vit_large", "epochs", "0.safetensors").stat().st_size / 1e6
        for what in ("anonymous", "resident"):
            figures[f"vit_large_{what}_over_bytes"] = large[f"{what}_mb"] / size
        print(f"ViT-L of {size:.0f} MB: {large['anonymous_mb']:.0f} MB anonymous, {large['resident_mb']:.0f} MB resident")
        for name in ("digits", "vit_small"):
            plain = child("memory", Path(place, name), name, 10, 50)
            figures[f"{name}_windows_per_second"] = plain["windows_per_second"]
            print(f"{name}: {plain['windows_per_second']:.0f} windows a second; {plain['survey_ms']:.1f} ms to scan a checkpoint")
            for workers in (0, 1):
                wait = child("wait", Path(place, name), name, min(few, 20), workers, options.steps)
                figures[f"{name}_wait_share_{workers}_workers"] = wait["wait_share"]
                figures[f"{name}_step_ms_{workers}_workers"] = wait["step_ms"]
                print(f"{name}, {workers} workers: {wait['wait_share']:.1%} of a step of {wait['step_ms']:.0f} ms waits for data")
    print(json.dumps({key: value if isinstance(value, list) else round(value, 4) for key, value in figures.items()}))


__all__ = ["main", "wsl"]

if __name__ == "__main__":
    main()
