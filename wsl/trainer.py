"""The training loop: AdamW, warm-up and cosine decay, gradient clipping, validation, and a state that survives SIGKILL.

Nothing in the loop depends on what came before except the weights, the optimizer and the scalars that are not yet logged: the
windows of a step follow from (seed, step), and so do its learning rate and torch's random state. All of it and the step are
replaced atomically as one safetensors file, every so many steps; on resume the lines of metrics.jsonl that are younger than the
state are cut, and training continues to the same bits.
"""

import json
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from rich.console import Console
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW

from wsl.data import Batch, Windows
from wsl.objectives.objective import Objective
from wsl.progress import shown
from zoo_gen.errors import InputError
from zoo_gen.files import write_atomically, write_weights

STATE = "state.safetensors"
"""What a run that was killed resumes from; removed at its end."""


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """The loop and its settings.

    Attributes:
        steps: optimizer steps.
        batch_size: windows per step, over all devices.
        learning_rate: peak of the schedule, reached after `warmup` steps and followed by a cosine down to zero.
        weight_decay: of matrices; biases, norms and position embeddings have none.
        clip: largest norm of the gradient.
        log_every, validate_every: steps between lines of training and of validation scalars in metrics.jsonl.
        save_every: steps between states that a killed training resumes from.
        seed: of the random state of each step.
        workers: threads that read batches ahead; 0 reads them in the loop.
    """

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    warmup: int
    clip: float
    log_every: int
    validate_every: int
    save_every: int
    seed: int
    workers: int

    def fit(
        self,
        fabric: Fabric,
        folder: Path,
        model: nn.Module,
        objective: Objective,
        windows: Windows,
        validate: Callable[[], dict[str, float]],
        console: Console,
    ) -> None:
        """Trains `model` in place and writes model.safetensors; continues from the state in `folder` if there is one.

        Raises `InputError` if the loss is no longer finite, or if the state in the folder is damaged.
        """
        optimizer = AdamW(_parameter_groups(model, self.weight_decay), lr=self.learning_rate)
        wrapped, wrapped_optimizer = fabric.setup(model, optimizer)
        state, metrics = folder / STATE, Metrics(folder / "metrics.jsonl")
        done, since_log = _load(state, model, optimizer) if state.exists() else (0, [])
        metrics.resume(done)
        shares = {"rank": fabric.global_rank, "world_size": fabric.world_size}
        batches = windows.batches(range(done, self.steps), self.batch_size, **shares, workers=self.workers)

        with closing(batches), shown(console, done=done, total=self.steps) as progress:
            for step, batch in enumerate(batches, start=done + 1):
                torch.manual_seed(self.seed * self.steps + step)
                rate = self._learning_rate(step)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                scalars = objective(wrapped, Batch(*fabric.to_device(tuple(batch))))
                wrapped_optimizer.zero_grad()
                fabric.backward(scalars["loss"])
                fabric.clip_gradients(wrapped, wrapped_optimizer, max_norm=self.clip, error_if_nonfinite=False)
                wrapped_optimizer.step()
                since_log.append({name: value.detach() for name, value in scalars.items()})

                validating = step % self.validate_every == 0 or step == self.steps
                if validating or step % self.log_every == 0:
                    means = {name: torch.stack([s[name] for s in since_log]).nanmean().item() for name in scalars}
                    means["loss"] = torch.stack([s["loss"] for s in since_log]).mean().item()
                    since_log.clear()
                    if not math.isfinite(means["loss"]):
                        raise InputError(
                            f"the loss is not finite at step {step}; use a smaller learning_rate (now {self.learning_rate:g})"
                        )
                    progress.logged(step, means)
                    if fabric.is_global_zero:
                        metrics.write("train", step, {**means, "learning_rate": rate})
                if validating:
                    if fabric.is_global_zero:
                        validation = validate()
                        metrics.write("validation", step, validation)
                        progress.validated(step, validation)
                    fabric.barrier()
                if fabric.is_global_zero and (step % self.save_every == 0 or step == self.steps):
                    _save(state, model, optimizer, step, since_log)
                progress.advance(step)
        if fabric.is_global_zero:
            write_weights(folder / "model.safetensors", {name: tensor.cpu() for name, tensor in model.state_dict().items()})
            state.unlink()

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine to zero; steps count from 1."""
        if step <= self.warmup:
            return self.learning_rate * step / self.warmup
        return self.learning_rate * (1 + math.cos(math.pi * (step - self.warmup) / (self.steps - self.warmup + 1))) / 2


class Metrics:
    """metrics.jsonl: one JSON object per event, with `event`, `step`, its scalars, and `time` (seconds of this
    process so far).
    """

    def __init__(self, path: Path):
        self.path, self.start = path, time.perf_counter()

    def resume(self, step: int) -> None:
        """Cuts the events after a step (a line that was being written when the process died is one of them)."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        complete = [line for line in lines if line.endswith("}")]
        kept = [line for line in complete if json.loads(line)["step"] <= step] if step else []
        text = "".join(f"{line}\n" for line in kept)
        write_atomically(self.path, lambda beside: _write_text(beside, text))

    def write(self, event: str, step: int, scalars: dict[str, float]) -> None:
        """Appends an event; scalars that are not finite become null."""
        finite = {name: value if math.isfinite(value) else None for name, value in scalars.items()}
        seconds = round(time.perf_counter() - self.start, 3)
        with self.path.open("a") as file:
            file.write(json.dumps({"event": event, "step": step, **finite, "time": seconds}) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay; vectors and embeddings without."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed = [p for p in model.parameters() if p.ndim > 1 and id(p) not in embeddings]
    rest = [p for p in model.parameters() if p.ndim <= 1 or id(p) in embeddings]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]


def _save(path: Path, model: nn.Module, optimizer: AdamW, step: int, since_log: list[dict[str, Tensor]]) -> None:
    """Writes weights, moments of the optimizer by parameter name, the scalars since the last log, and the step as one file."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for key, tensor in optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = tensor
    for name in since_log[0] if since_log else ():
        tensors[f"scalar.{name}"] = torch.stack([scalars[name] for scalars in since_log])
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(path, lambda beside: save_file(cpu, beside, {"step": str(step)}))


def _load(path: Path, model: nn.Module, optimizer: AdamW) -> tuple[int, list[dict[str, Tensor]]]:
    """Restores what `_save` wrote and returns its step and the scalars since the last log."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            step = int(file.metadata()["step"])
        model.load_state_dict({name[6:]: tensor for name, tensor in tensors.items() if name.startswith("model.")})
        for name, parameter in model.named_parameters():
            for key in ("step", "exp_avg", "exp_avg_sq"):
                tensor = tensors[f"optimizer.{key}.{name}"]
                optimizer.state[parameter][key] = tensor if key == "step" else tensor.to(parameter.device)
        device = next(model.parameters()).device
        scalars = {name[7:]: tensor.to(device).unbind() for name, tensor in tensors.items() if name.startswith("scalar.")}
        since_log = [dict(zip(scalars, values, strict=True)) for values in zip(*scalars.values(), strict=True)]
    except (SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the training state {path} is damaged ({error}); delete the run folder {path.parent} to start over"
        ) from error
    return step, since_log
