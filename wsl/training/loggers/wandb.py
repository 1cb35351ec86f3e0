"""Weights & Biases: scalars of a run on their server, or in the run's folder until `wandb sync`."""

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsl.run_files import read_config
from zoo_gen.errors import InputError


class WandB:
    """A logger that tells Weights & Biases.

    A resumed training continues the curves: the run's id follows from its folder. Steps that it repeats have the same values, so it
    does not matter that W&B keeps the first.

    Args:
        project: that the run belongs to.
        mode: `online`, or `offline` (nothing leaves the machine).

    Raises `InputError` if the package is not installed.
    """

    def __init__(self, *, project: str, mode: str):
        if mode not in ("online", "offline"):
            raise InputError(f"logger.mode must be online or offline, not {mode}")
        try:
            self._wandb: Any = importlib.import_module("wandb")
        except ImportError as error:
            raise InputError("logger=wandb needs the package wandb; install it with: pip install wandb") from error
        self.project, self.mode = project, mode

    def start(self, folder: Path, *, after: int) -> None:
        """Starts or continues the run."""
        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        options = {"project": self.project, "mode": self.mode, "name": folder.name, "id": name, "resume": "allow"}
        self._run = self._wandb.init(dir=str(folder), config=read_config(folder), **options)

    def log(self, event: str, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        self._run.log({f"{event}/{name}": value for name, value in scalars.items()}, step=step)

    def close(self) -> None:
        """Ends the run."""
        self._run.finish()
