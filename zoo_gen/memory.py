"""Memory: how many models of one shape fit into what is free."""

import math
import os

import torch

from zoo_gen.architecture import build
from zoo_gen.blueprint import ModelSpec
from zoo_gen.hardware import Hardware
from zoo_gen.simclr import SimCLR

SHARE = 0.8
"""Of the free memory that stacks may fill; the rest is for images, scoring and fragmentation."""
COPIES = 6
"""Of each weight: itself, two moments, the gradient twice, and one temporary of the optimizer."""
AT_MOST = 256
"""Models in a stack: beyond, launches are long amortised and a kill costs more."""


def models_that_fit(spec: ModelSpec, hardware: Hardware, *, processes: int) -> int:
    """Returns how many models like this one train at once in the free memory of each of several processes; at least 1."""
    free = SHARE * free_bytes(hardware.device) / processes
    return max(1, min(AT_MOST, int(free / bytes_of_training(spec, hardware))))


def bytes_of_training(spec: ModelSpec, hardware: Hardware) -> int:
    """Returns the bytes that training one model takes: weights, moments, and what a batch saves for its backward pass.

    Counted on a model without content: every tensor that autograd saves in one forward pass of one image.
    """
    with torch.device("meta"):
        model = build(spec.architecture)
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
    views = 2 if spec.recipe.objective == "simclr" else 1
    images = spec.recipe.batch_size * views * (activations + 3 * math.prod(image.shape))
    size = 2 if hardware.precision == "bfloat16" else hardware.dtype.itemsize
    return COPIES * weights * hardware.dtype.itemsize + images * size


def free_bytes(device: str) -> int:
    """Returns the bytes that are free on a device."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(torch.device(device))[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
