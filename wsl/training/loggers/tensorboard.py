"""TensorBoard: event files in the run's folder. `tensorboard --logdir checkpoints/runs` shows all runs."""

from collections.abc import Mapping
from pathlib import Path

from zoo_gen.errors import InputError


class TensorBoard:
    """A logger that writes event files, a curve for each scalar: `train/loss`, `validation/loss` ...

    Args:
        folder: of the event files, inside the run's.

    Raises `InputError` if the package is not installed.
    """

    def __init__(self, *, folder: str):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "logger=tensorboard needs the package tensorboard; install it with: pip install tensorboard"
            ) from error
        self.folder, self._writer = folder, SummaryWriter

    def start(self, folder: Path, *, after: int) -> None:
        """Opens a file; TensorBoard drops what a killed training wrote of later steps."""
        self.writer = self._writer(str(folder / self.folder), purge_step=after + 1 if after else None)

    def log(self, event: str, step: int, scalars: Mapping[str, float]) -> None:
        """Adds a point to each curve."""
        for name, value in scalars.items():
            self.writer.add_scalar(f"{event}/{name}", value, step)

    def close(self) -> None:
        """Writes what is left."""
        self.writer.close()
