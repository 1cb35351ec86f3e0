"""Checkpoints: the rows of a zoo, each a model at one epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo_gen.architecture import skeleton
from zoo_gen.errors import InputError
from zoo_gen.reader import ZOO_ADVICE, inside, read_json, read_tensors, read_weights, shortened
from zoo_gen.reference import is_reference, read_reference


@dataclass(frozen=True, slots=True, repr=False)
class Checkpoint:
    """One row of a zoo: a model at one epoch.

    Attributes:
        model: id of the model, unique in the zoo.
        root: id of the pre-trained model it descends from (its own id for roots), None where nobody knows.
        parent: id of the model it was fine-tuned from, None for roots and where nobody knows.
        stage: `pretrain` or `finetune`.
        epoch: counted from 1.
        final: whether it is the model's last epoch.
        status: `ok` or `diverged` (of the model, not of the epoch).
        fold: 0 to 4, None for roots.
        factors: generating factors, chosen before training.
        results: losses in nats, accuracies in [0, 1], gaps; None where there is none.
        path: of the safetensors file; in an adopted zoo also of a reference to weights elsewhere (`zoo_gen.reference`).
        columns: the columns that an adopted zoo has of its own, numbers and texts; None where there is none.
    """

    model: str
    root: str | None
    parent: str | None
    stage: str
    epoch: int
    final: bool
    status: str
    fold: int | None
    factors: Mapping[str, Any]
    results: Mapping[str, float | None]
    path: Path
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The model's folder, which timm opens by `local-dir:` where the weights lie in it."""
        return self.path.parent.parent if self.path.parent.name == "epochs" else self.path.parent

    @property
    def is_reference(self) -> bool:
        """Whether the weights lie outside of the zoo, so that `path` is no file of weights."""
        return is_reference(self.path)

    @property
    def architecture(self) -> dict[str, Any]:
        """The model's `config.json` in timm's format."""
        return read_json(inside(self.folder, "config.json"))

    def __repr__(self) -> str:
        accuracy = self.results.get("test_accuracy")
        scored = "" if accuracy is None else f", test accuracy {accuracy:.2f}"
        return f"Checkpoint({shortened(self.model)}, epoch {self.epoch}{' (final)' if self.final else ''}{scored})"

    def state_dict(self, names: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Reads the weights as views of their file, or the tensors of some names alone (of a zoo on a server, only their bytes).

        Raises `InputError` if it is missing, damaged, or not the adopted one, or has no tensor of a name.
        """
        if not self.is_reference:
            return read_weights(self.path) if names is None else read_tensors(self.path, names)
        found = read_reference(self.path).read()
        if odd := [name for name in names or () if name not in found]:
            raise InputError(f"checkpoint {self.path} has no tensor {shortened(odd[0])}")
        return found if names is None else {name: found[name] for name in names}

    def build(self) -> nn.Module:
        """Builds the timm model with these weights, in eval mode and float32. Raises `InputError` if they do not fit each other."""
        model = skeleton(self.architecture)
        try:
            model.load_state_dict(self.state_dict(), assign=True)
        except RuntimeError as error:
            summary = str(error).strip().partition("\n")[0]
            raise InputError(f"{self.path} does not fit the config.json of {self.folder} ({summary}); {ZOO_ADVICE}") from error
        return model.float().eval()
