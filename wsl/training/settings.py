"""The settings of a training, as the command `wsl.train` takes them."""

import math
from dataclasses import dataclass
from typing import Any

from wsl.training.strategies import Hardware
from zoo_gen import InputError

AT_LEAST_ONE = ("steps", "batch_size", "accumulate_grad_batches", "log_every", "validate_every", "validation_batches")
AT_LEAST_ONE += ("save_every", "devices", "threads", "rehearsed")
AT_LEAST_ZERO = ("fold", "seed", "warmup", "weight_decay", "cache_mb", "workers")


@dataclass
class TrainConfig:
    """Values of configs/train.yaml."""

    zoo: str
    run: str | None
    model_name: str
    swept: str
    given: list[str]
    split: str
    fold: int
    seed: int
    model: dict[str, Any]
    objective: dict[str, Any]
    strategy: dict[str, Any]
    logger: dict[str, Any]
    window: int | None
    steps: int
    batch_size: int
    accumulate_grad_batches: int
    learning_rate: float
    weight_decay: float
    warmup: int
    gradient_clip_val: float
    ema: float
    log_every: int
    validate_every: int
    validation_batches: int
    save_every: int
    cache_mb: int
    accelerator: str
    devices: int
    precision: str
    workers: int
    threads: int
    rehearsed: int
    rehearsal: dict[str, Any]
    tokenizer: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Raises `InputError` for numbers that nothing can be trained with."""
        for names, least in ((AT_LEAST_ONE, 1), (AT_LEAST_ZERO, 0)):
            for name in names:
                if not getattr(self, name) >= least:
                    raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.window is not None and self.window < 1:
            raise InputError(f"window must be at least 1, or null, not {self.window}")
        for name in ("learning_rate", "gradient_clip_val"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(f"{name} must be more than 0 and finite, not {getattr(self, name)}")
        if not 0 <= self.ema < 1:
            raise InputError(f"ema must be at least 0 and less than 1, not {self.ema}")
        if self.batch_size % (self.devices * self.accumulate_grad_batches):
            raise InputError(
                "batch_size must be a multiple of devices x accumulate_grad_batches, "
                f"{self.devices} x {self.accumulate_grad_batches}, not {self.batch_size}"
            )
        if self.seed >= 2**31:
            raise InputError(f"seed must be less than 2**31, not {self.seed}")

    @property
    def hardware(self) -> Hardware:
        """The devices to compute on."""
        return Hardware(accelerator=self.accelerator, devices=self.devices, precision=self.precision)
