"""Peak memory of a measurement in a process of its own, and random weights to measure with."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_gen.architecture import skeleton


def child(module: str, *arguments: object) -> dict[str, float]:
    """Runs a module in a process of its own; returns the JSON object that is the last line of its stdout."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def reset_peak() -> int:
    """Forgets the largest resident set of this process; returns the bytes that are resident."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The largest resident set of this process in bytes: its own pages and those of mapped files."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def random_weights(architecture: Mapping[str, Any]) -> dict[str, Tensor]:
    """Random weights of a timm model."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: tensor.shape for name, tensor in skeleton(architecture).state_dict().items()}
    return {name: torch.empty(shape).normal_(std=0.02, generator=generator) for name, shape in shapes.items()}


def fine_tuned(root: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each weight moved by about a twentieth of its size, in two roundings, as in many steps."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.empty_like(weight).normal_(std=1e-3, generator=generator).add_(weight).mul_(0.999)
        for name, weight in root.items()
    }
