"""Recipes: every generating factor of one training."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from zoo_gen.architecture import HEADS, INITS
from zoo_gen.errors import InputError

CHOICES = {
    "objective": ("supervised", "simclr"),
    "head": HEADS,
    "optimizer": ("adamw", "sgd"),
    "schedule": ("cosine", "linear", "constant"),
    "init": INITS,
    "frozen": ("none", "backbone"),
}
"""Factors that are one of several words."""

RANGES: dict[str, tuple[str, Callable[[float], bool]]] = {
    **dict.fromkeys(
        ("epochs", "batch_size", "width", "depth"), ("a whole number of at least 1", lambda n: isinstance(n, int) and n >= 1)
    ),
    **dict.fromkeys(("learning_rate", "temperature"), ("more than 0", lambda x: x > 0)),
    **dict.fromkeys(
        ("weight_decay", "warmup_epochs", "mixup", "cutmix", "shift", "rotate", "jitter", "seed"), ("at least 0", lambda x: x >= 0)
    ),
    **dict.fromkeys(("label_smoothing", "random_erasing", "flip"), ("in [0, 1]", lambda x: 0 <= x <= 1)),
    **dict.fromkeys(("fraction", "crop"), ("in (0, 1]", lambda x: 0 < x <= 1)),
    "dropout": ("in [0, 1)", lambda x: 0 <= x < 1),
}
"""Factors that are numbers, and what a message says of the numbers that they may be."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every generating factor of one training.

    Attributes:
        objective: `supervised` (cross-entropy) or `simclr` (NT-Xent between two views).
        head: `linear`, `mlp`, or `none` (SimCLR).
        optimizer: `adamw` or `sgd` (momentum 0.9).
        learning_rate: peak; linear warm-up, then the schedule.
        schedule: `cosine` or `linear` to zero, or `constant`.
        weight_decay: on matrices only (decoupled for AdamW, added to the gradient for SGD).
        epochs: passes over the training images.
        batch_size: images per step and model; an incomplete last batch is dropped.
        warmup_epochs: length of the warm-up, at most `epochs`.
        dropout: probability that an activation is dropped (after embedding, attention and MLP, and before the head).
        label_smoothing: of the cross-entropy.
        mixup: alpha of the Beta distribution, 0 for none; with cutmix, each batch takes one of both at random.
        cutmix: alpha of the Beta distribution, 0 for none.
        random_erasing: probability that a rectangle of an image is set to the mean.
        crop: smallest share of the image side that a random crop keeps, 1 for none.
        shift: largest shift, as a share of the image side.
        rotate: largest rotation, in degrees.
        flip: probability of a horizontal flip.
        jitter: largest relative change of contrast, and of brightness in standard deviations.
        temperature: of NT-Xent.
        init: of the matrices drawn anew: `timm`, `xavier`, `kaiming` or `orthogonal`.
        frozen: `none`, or `backbone` to train the head alone.
        fraction: share of the training images that the model sees, its own draw.
        width: of the residual stream; None for that of the architecture card (children: of the root).
        depth: number of blocks; None for that of the architecture card (children: of the root).
        seed: replicate number; it does nothing but tell two models with equal factors apart.
    """

    objective: str
    head: str
    optimizer: str
    learning_rate: float
    schedule: str
    weight_decay: float
    epochs: int
    batch_size: int
    warmup_epochs: float
    dropout: float
    label_smoothing: float
    mixup: float
    cutmix: float
    random_erasing: float
    crop: float
    shift: float
    rotate: float
    flip: float
    jitter: float
    temperature: float
    init: str
    frozen: str
    fraction: float
    width: int | None
    depth: int | None
    seed: int

    def __post_init__(self) -> None:
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"unknown {name} '{getattr(self, name)}'; choose one of {', '.join(allowed)}")
        if (self.head == "none") != (self.objective == "simclr"):
            raise InputError("SimCLR trains a model with head=none; supervised training needs head=linear or head=mlp")
        if self.frozen == "backbone" and self.objective == "simclr":
            raise InputError("SimCLR has no head to train on a frozen backbone; set frozen=none")
        for name, (meaning, fits) in RANGES.items():
            value = getattr(self, name)
            if value is None and name in ("width", "depth"):
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise InputError(f"{name} must be a finite number, not {value}")
            if not fits(value):
                raise InputError(f"{name} must be {meaning}, not {value}")
        if self.warmup_epochs > self.epochs:
            raise InputError(
                f"warmup_epochs={self.warmup_epochs:g} is longer than the whole training, epochs={self.epochs}, so the learning "
                f"rate would never reach {self.learning_rate:g}; set warmup_epochs to less, or epochs to more"
            )

    @property
    def views(self) -> int:
        """Views of each image in a batch: SimCLR compares two."""
        return 2 if self.objective == "simclr" else 1


FACTORS = tuple(field.name for field in dataclasses.fields(Recipe))
