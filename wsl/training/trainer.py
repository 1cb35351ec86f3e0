"""The training loop: AdamW, warm-up and cosine decay, gradient clipping and accumulation, averaged weights, validation.

Nothing in the loop depends on what came before except the state (weights, their average, moments, scalars that are not yet logged):
the windows of a step follow from (seed, step), and so do its learning rate and torch's random state. The state is replaced
atomically every so many steps (`wsl.training.resume_state`); on resume the lines of metrics.jsonl that are younger are cut, and
training continues to the same bits.

A step's windows are dealt out to the devices, and on each to `accumulate_grad_batches` parts that are run one after the other.
Each part draws from the same random state, and divides by the mean count of a part (`wsl.data.windows.MicroBatch`), so losses,
gradients and logged scalars are those of the undivided batch.
"""

import math
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW

from wsl.data.windows import Batch, MicroBatch, Windows
from wsl.training.ema import Average
from wsl.training.meter import Meter
from wsl.training.metrics_log import Journal
from wsl.training.progress import shown
from wsl.training.resume_state import STATE, load_state, save_state, tensors_of, whole
from wsl.training.settings import TrainConfig
from wsl.training.strategies import METHODS
from zoo_gen.errors import InputError
from zoo_gen.files import write_weights

Loss = Callable[[nn.Module, Batch], dict[str, Tensor]]
"""An objective (`wsl.training.objectives`): the loss of a model on a batch of windows, and other scalars."""


def fit(
    config: TrainConfig,
    fabric: Fabric,
    folder: Path,
    model: nn.Module,
    objective: Loss,
    windows: Windows,
    validate: Callable[[], dict[str, float]],
    console: Console,
    journal: Journal,
) -> None:
    """Trains `model` in place and writes model.safetensors; continues from the state in `folder` if there is one.

    Called by each process with a launched Fabric; the one of rank 0 validates and writes. Where the model is sharded all of
    them validate, since it takes all of them to run it.

    Raises `InputError` if the loss is no longer finite, or if the state in the folder is damaged.
    """
    wrapped: Any = fabric.setup_module(model)
    for name in METHODS:
        if hasattr(model, name):
            wrapped.mark_forward_method(name)
    optimizer = AdamW(parameter_groups(model, config.weight_decay), lr=config.learning_rate)
    wrapped_optimizer = fabric.setup_optimizers(optimizer)
    sharded = any(isinstance(parameter, DTensor) for parameter in model.parameters())
    average, state, writes = Average(model, ema=config.ema), folder / STATE, fabric.is_global_zero
    done, since_log = load_state(state, model, optimizer, average) if state.exists() else (0, [])
    fabric.barrier()
    if writes:
        journal.resume(done)
    ranks = {"rank": fabric.global_rank, "world_size": fabric.world_size}
    batches = windows.batches(range(done, config.steps), config.batch_size, **ranks, workers=config.workers)

    with closing(batches), shown(console, done=done, total=config.steps) as progress:
        meter = Meter(fabric, since_log)
        for step, batch in enumerate(batches, start=done + 1):
            meter.add(*_update(config, fabric, wrapped, wrapped_optimizer, objective, batch, step))
            average.update(step)

            validating = step % config.validate_every == 0 or step == config.steps
            logging = validating or step % config.log_every == 0
            if logging:
                means = meter.means()
                if not math.isfinite(means["loss"]):
                    state.unlink(missing_ok=True)  # a training that came to nothing blocks no other
                    advice = f"use a smaller learning_rate (now {config.learning_rate:g})"
                    raise InputError(f"the loss is not finite at step {step}; {advice}")
                progress.logged(step, means)
                if writes:
                    rate = {"learning_rate": _learning_rate(config, step)}
                    journal.write("train", step, {**means, **rate, **meter.measured()})
            if validating:
                with average.applied():
                    validation = validate() if writes or sharded else {}
                if writes:
                    journal.write("validation", step, validation)
                    progress.validated(step, validation)
                fabric.barrier()
            if step % config.save_every == 0 or step == config.steps:
                tensors = tensors_of(model, optimizer, average)
                if writes:
                    save_state(state, dict(tensors), step, meter.since_log)
                elif sharded:
                    deque(tensors, maxlen=0)  # the others gather its parts
            if logging:
                meter.restart()
            progress.advance(step)
    with average.applied():
        weights = {name: whole(tensor) for name, tensor in model.state_dict().items()}
        if writes:
            write_weights(folder / "model.safetensors", weights)
    if writes:
        journal.close()
        state.unlink()


def _update(
    config: TrainConfig, fabric: Fabric, wrapped: nn.Module, optimizer: Any, objective: Loss, batch: Batch, step: int
) -> tuple[list[dict[str, Tensor]], Tensor]:
    """Takes one step of the optimizer; returns the scalars of its micro-batches, and the number of weights on all devices."""
    for group in optimizer.optimizer.param_groups:  # a state that was loaded is not among Fabric's
        group["lr"] = _learning_rate(config, step)
    optimizer.zero_grad()
    parts = Batch(*fabric.to_device(tuple(batch))).split(config.accumulate_grad_batches)
    counts = torch.stack([torch.stack([part.entries, part.tokens]).float() for part in parts]).mean(0)
    counts = cast(Tensor, fabric.all_reduce(counts, reduce_op="mean"))
    found = []
    for number, part in enumerate(parts, start=1):
        torch.manual_seed(config.seed * config.steps + step)
        with fabric.no_backward_sync(cast(Any, wrapped), enabled=number < len(parts)):
            scalars = objective(wrapped, MicroBatch.of(part, counts))
            fabric.backward(scalars["loss"] / len(parts))
        found.append({name: value.detach() for name, value in scalars.items()})
    fabric.clip_gradients(wrapped, optimizer, max_norm=config.gradient_clip_val, error_if_nonfinite=False)
    optimizer.step()
    return found, counts[0] * len(parts) * fabric.world_size


def _learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then half a cosine to zero; steps count from 1."""
    rate, warmup, steps = config.learning_rate, config.warmup, config.steps
    if step <= warmup:
        return rate * step / warmup
    return rate * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup + 1))) / 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay; vectors and embeddings without: what the optimizer is given."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed = [p for p in model.parameters() if p.ndim > 1 and id(p) not in embeddings]
    rest = [p for p in model.parameters() if p.ndim <= 1 or id(p) in embeddings]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
