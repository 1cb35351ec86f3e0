"""Hardware: where and how a stack is computed, and how many models of one shape fit into what memory is free."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch

from zoo_gen.architecture import skeleton
from zoo_gen.blueprint import ModelSpec
from zoo_gen.errors import InputError
from zoo_gen.objectives import SimCLR

PRECISIONS = ("float32", "bfloat16", "float64")
COMPILE = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")

SHARE = 0.8
"""Of the free memory that stacks may fill; the rest is for images, scoring and fragmentation."""
COPIES = 6
"""Of each weight: itself, two moments, the gradient twice, and one temporary of the optimizer."""
AT_MOST = 256
"""Models in a stack: beyond, launches are long amortised and a kill costs more."""


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


def models_that_fit(spec: ModelSpec, hardware: Hardware, *, processes: int) -> int:
    """Returns how many models like this one train at once in the free memory of each of several processes; at least 1."""
    free = SHARE * free_bytes(hardware.device) / processes
    return max(1, min(AT_MOST, int(free / bytes_of_training(spec, hardware))))


def bytes_of_training(spec: ModelSpec, hardware: Hardware) -> int:
    """Returns the bytes that training one model takes: weights, moments, and what a batch saves for its backward pass.

    Counted on a model without content: every tensor that autograd saves in one forward pass of one image.
    """
    model = skeleton(spec.architecture)
    with torch.device("meta"):
        model = SimCLR(model) if spec.recipe.objective == "simclr" else model
        image = torch.empty(1, *spec.architecture["pretrained_cfg"]["input_size"])
    parameters = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in parameters:
            saved[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(image)
    weights = sum(parameter.numel() for parameter in model.parameters())
    activations = sum(storage.nbytes() for storage in saved.values()) // image.itemsize
    images = spec.recipe.batch_size * spec.recipe.views * (activations + 3 * math.prod(image.shape))
    size = 2 if hardware.precision == "bfloat16" else hardware.dtype.itemsize
    return COPIES * weights * hardware.dtype.itemsize + images * size


def free_bytes(device: str) -> int:
    """Returns the bytes that are free on a device; in main memory, for this process: a container may have less than the machine."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    groups = Path("/proc/self/cgroup")
    lines = groups.read_text().splitlines() if groups.exists() else []
    return min([free, *left_of_limits(Path("/sys/fs/cgroup"), ((line.split(":")[1], line.split(":", 2)[2]) for line in lines))])


def left_of_limits(mount: Path, groups: Iterable[tuple[str, str]]) -> list[int]:
    """Returns the bytes that limits on memory leave to a process, of its control groups and all groups that these are in.

    Groups are (controllers, path), as in /proc/self/cgroup: no controllers for version 2. What the kernel keeps of files it drops
    when there is need; of that, what has not been used of late counts as free.
    """
    left = []
    for controllers, path in groups:
        if controllers and "memory" not in controllers.split(","):
            continue
        top = mount / "memory" if controllers else mount
        limit, used = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        key = "total_inactive_file" if controllers else "inactive_file"
        inside = PurePosixPath(path.lstrip("/"))
        for folder in (top / inside, *(top / parent for parent in inside.parents)):
            try:
                most, now = int((folder / limit).read_text()), int((folder / used).read_text())
                counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            except (OSError, ValueError):  # "max" is no limit; a container sees its own group at the top, not by its path
                continue
            left.append(max(0, most - now + int(counts.get(key, 0))))
    return left
