"""Hardware: where and how a stack is computed. Nothing else in the package knows whether there is a GPU."""

import re
from dataclasses import dataclass

import torch

from zoo_gen.errors import InputError

PRECISIONS = ("float32", "bfloat16", "float64")
COMPILE = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """A device and the way to use it.

    Attributes:
        device: `cpu`, `cuda`, `cuda:1`, ...
        precision: `float32`; `bfloat16` for the products of training (weights, moments, scores and checkpoints stay float32); or
            `float64` throughout, to compare with.
        compile: None, or a mode of `torch.compile`: `default`, or `reduce-overhead` (CUDA graphs, where launches dominate).
    """

    device: str
    precision: str
    compile: str | None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"unknown precision '{self.precision}'; choose one of {', '.join(PRECISIONS)}")
        if self.compile is not None and self.compile not in COMPILE:
            raise InputError(f"unknown compile '{self.compile}'; choose null or one of {', '.join(COMPILE)}")
        if not re.fullmatch(r"cpu|cuda(:\d+)?", str(self.device)):
            raise InputError(f"unknown device '{self.device}'; choose cpu, cuda, or one GPU as cuda:1")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"device {self.device} is not there: this machine has no CUDA GPU; choose executor.device=cpu")
        if ":" in self.device and int(self.device[5:]) >= torch.cuda.device_count():
            raise InputError(f"device {self.device} is not there: the last one is cuda:{torch.cuda.device_count() - 1}")

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, moments and images."""
        return torch.float64 if self.precision == "float64" else torch.float32


CPU = Hardware(device="cpu", precision="float32", compile=None)
"""One process on the CPU: what the tests compare with."""
