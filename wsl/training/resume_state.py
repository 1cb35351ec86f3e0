"""The state of a training: one safetensors file that a killed run resumes from, to the same bits.

It holds whole tensors, whoever keeps which part of them: weights and moments of the optimizer by parameter name, averaged weights
where there are any, and the scalars that are not yet logged. So it does not depend on the number of processes.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from wsl.training.ema import Average
from zoo_gen.errors import InputError
from zoo_gen.files import write_atomically

STATE = "state.safetensors"
"""What a run that was killed resumes from; removed at its end."""

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of each parameter."""


def whole(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, put together if processes have parts of it: then all of them have to ask. It may be a view."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu().contiguous()


def tensors_of(model: nn.Module, optimizer: Optimizer, average: Average) -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors of a state by name, whole, one after the other."""
    for name, tensor in model.state_dict().items():
        yield f"model.{name}", whole(tensor)
    for name, tensor in average.weights.items():
        yield f"average.{name}", whole(tensor)
    for name, parameter in model.named_parameters():
        for key in MOMENTS:
            yield f"optimizer.{key}.{name}", whole(optimizer.state[parameter][key])


def save_state(path: Path, tensors: Mapping[str, Tensor], step: int, since_log: list[dict[str, Tensor]]) -> None:
    """Writes the tensors of a state, its step, and the scalars since the last log."""
    names = since_log[0] if since_log else ()
    scalars = {f"scalar.{name}": torch.stack([one[name] for one in since_log]).cpu() for name in names}
    write_atomically(path, lambda beside: save_file({**tensors, **scalars}, beside, {"step": str(step)}))


@torch.no_grad()
def load_state(path: Path, model: nn.Module, optimizer: Optimizer, average: Average) -> tuple[int, list[dict[str, Tensor]]]:
    """Restores what was saved, one tensor after the other; returns its step and the scalars since the last log.

    Raises `InputError` for a file that is damaged, or of another model.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names, step = file.keys(), int(file.metadata()["step"])
            own = cast(dict[str, Tensor], model.state_dict())
            if {name for name in names if name.startswith("model.")} != {f"model.{name}" for name in own}:
                raise ValueError("its weights are those of another model")
            for name, tensor in own.items():
                tensor.copy_(_as(file.get_tensor(f"model.{name}"), tensor))
            for name, tensor in average.weights.items():
                tensor.copy_(_as(file.get_tensor(f"average.{name}"), tensor))
            for name, parameter in model.named_parameters():
                for key in MOMENTS:
                    tensor = file.get_tensor(f"optimizer.{key}.{name}")
                    optimizer.state[parameter][key] = tensor if key == "step" else _as(tensor, parameter.detach())
            device = next(model.parameters()).device
            logged = [name for name in names if name.startswith("scalar.")]
            scalars = {name.removeprefix("scalar."): file.get_tensor(name).to(device).unbind() for name in logged}
        since_log = [dict(zip(scalars, values, strict=True)) for values in zip(*scalars.values(), strict=True)]
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the training state {path} is damaged ({error}); delete the run folder {path.parent} to start over"
        ) from error
    return step, since_log


def _as(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor on the device of another, or this process's part of it."""
    if tensor.shape != other.shape:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)}, where the model has {tuple(other.shape)}")
    on_device = tensor.to(other.device)
    if isinstance(other, DTensor):
        return distribute_tensor(on_device, other.device_mesh, other.placements, src_data_rank=None)
    return on_device
