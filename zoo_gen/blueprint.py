"""Blueprints: generating factors -> a directed forest of model specs, roots first, then their fine-tuned children.

A blueprint is data. A stage has one recipe (a value for every factor) and axes that vary some of them: the children of a root are
the full grid over the axes, the roots are listed one by one. The blueprint of the reference is 10 roots x 24 fine-tunings
(A Model Zoo of Vision Transformers, arXiv 2504.10231).
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from zoo_gen.architecture import HEADS, with_head
from zoo_gen.errors import InputError
from zoo_gen.streams import stream

FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Every generating factor of one training.

    Attributes:
        objective: `supervised` (cross-entropy) or `simclr` (NT-Xent between two views).
        head: `linear`, `mlp`, or `none` (SimCLR).
        optimizer: `adamw` or `sgd` (momentum 0.9).
        learning_rate: peak; linear warm-up, then cosine to zero.
        weight_decay: on matrices only (decoupled for AdamW, added to the gradient for SGD).
        epochs: passes over the training images.
        batch_size: images per step and model; an incomplete last batch is dropped.
        warmup_epochs: length of the warm-up.
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
        seed: replicate number; it does nothing but tell two models with equal factors apart.
    """

    objective: str
    head: str
    optimizer: str
    learning_rate: float
    weight_decay: float
    epochs: int
    batch_size: int
    warmup_epochs: float
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
    seed: int

    def __post_init__(self) -> None:
        """Raises `InputError` for values that cannot be trained."""
        for name, allowed in (
            ("objective", ("supervised", "simclr")),
            ("head", HEADS),
            ("optimizer", ("adamw", "sgd")),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(f"unknown {name} '{getattr(self, name)}'; choose one of {', '.join(allowed)}")
        if (self.head == "none") != (self.objective == "simclr"):
            raise InputError("SimCLR trains a model with head=none; supervised training needs head=linear or head=mlp")
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")


FACTORS = tuple(field.name for field in dataclasses.fields(Recipe))


@dataclass(frozen=True)
class ModelSpec:
    """One model to train: who it is, where it starts, and its recipe."""

    model: str
    root: str
    parent: str | None
    stage: Literal["pretrain", "finetune"]
    fold: int | None
    pretraining: str
    architecture: Mapping[str, Any]
    recipe: Recipe

    @property
    def factors(self) -> dict[str, Any]:
        """The generating factors as they stand in the index: the recipe, and how the root was pre-trained."""
        return {"pretraining": self.pretraining, **dataclasses.asdict(self.recipe)}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a blueprint: a recipe, and how its factors vary.

    Attributes:
        recipe: a value for every factor.
        axes: factor -> values; the stage has the full grid. A key of several factors joined by commas varies them together:
            `optimizer,learning_rate: [[adamw, 1e-3], [sgd, 1e-1]]`.
        members: explicit list of changes to the recipe, one model (times the grid) each.
    """

    recipe: Mapping[str, Any]
    axes: Mapping[str, Sequence[Any]]
    members: Sequence[Mapping[str, Any]]

    def variants(self) -> list[tuple[dict[str, Any], Recipe]]:
        """Returns what varies, and the whole recipe, for each model of the stage.

        Raises `InputError` for a factor that does not exist or has no value.
        """
        choices = []
        for key, values in self.axes.items():
            names = key.split(",")
            rows = [[value] if len(names) == 1 else list(value) for value in values]
            if any(len(row) != len(names) for row in rows):
                raise InputError(f"axis '{key}' needs {len(names)} values in each row")
            choices.append([dict(zip(names, row, strict=True)) for row in rows])
        found = []
        for member in self.members or [{}]:
            for combination in itertools.product(*choices):
                changes = dict(member)
                for change in combination:
                    changes |= change
                values = {**self.recipe, **changes}
                odd = sorted(set(values) ^ set(FACTORS))
                if odd:
                    unknown = [name for name in odd if name in values]
                    missing = [name for name in odd if name not in values]
                    raise InputError(
                        f"recipe has unknown factors {unknown} and lacks {missing}; the factors are {', '.join(FACTORS)}"
                    )
                found.append((changes, Recipe(**values)))
        return found


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """A whole population as data.

    Attributes:
        name: of the zoo.
        architecture: the backbone, as of `zoo_gen.architecture.architecture`.
        pretrain_images: card of the images that roots are trained on.
        finetune_images: card of the images that children are trained on.
        pretrain: the roots.
        finetune: the children of each root.
        stack_size: models trained as one program, at most.
    """

    name: str
    architecture: Mapping[str, Any]
    pretrain_images: Any
    finetune_images: Any
    pretrain: Stage
    finetune: Stage
    stack_size: int

    def plan(self, seed: int) -> list[ModelSpec]:
        """Returns the forest, roots first. Model ids tell what varies, and do not depend on the rest of the grid."""
        roots, children = [], []
        counts: dict[str, int] = {}
        for _, recipe in self.pretrain.variants():
            number = counts.get(recipe.objective, 0)
            counts[recipe.objective] = number + 1
            name = f"{recipe.objective}_{number}"
            described = with_head(self.architecture, recipe.head, self.pretrain_images.num_classes)
            roots.append(ModelSpec(name, name, None, "pretrain", None, recipe.objective, described, recipe))
        variants = self.finetune.variants()
        for number, root in enumerate(roots):
            places = stream(seed, root.model, "split").permutation(len(variants))
            for place, (changes, recipe) in zip(places.tolist(), variants, strict=True):
                described = with_head(self.architecture, recipe.head, self.finetune_images.num_classes)
                name = "-".join([root.model, *(_short(value) for value in changes.values())])
                fold = (number * len(variants) + place) % FOLDS
                children.append(ModelSpec(name, root.model, root.model, "finetune", fold, root.pretraining, described, recipe))
        if len({spec.model for spec in (*roots, *children)}) < len(roots) + len(children):
            raise InputError("two fine-tunings of the blueprint have the same factors; give them different seeds")
        return [*roots, *children]

    def partition(self, specs: Sequence[ModelSpec]) -> dict[str, dict[str, Any]]:
        """Returns the stacks: id -> `models` of one stage, shape, length and objective (AdamW before SGD), and their `epochs`."""
        groups: dict[tuple[object, ...], list[ModelSpec]] = {}
        for spec in specs:
            recipe = spec.recipe
            key = (spec.stage, recipe.objective, recipe.head, recipe.epochs, recipe.batch_size)
            groups.setdefault(key, []).append(spec)
        stacks: dict[str, dict[str, Any]] = {}
        for key, members in groups.items():
            ordered = sorted(members, key=lambda spec: spec.recipe.optimizer)
            pieces = -(-len(ordered) // self.stack_size)
            for piece in range(pieces):  # every piece gets its share of both optimizers, and equal sizes
                models = [spec.model for spec in ordered[piece::pieces]]
                stacks[f"{key[0]}_{len(stacks):03d}"] = {"models": models, "epochs": ordered[0].recipe.epochs}
        return stacks


def _short(value: Any) -> str:
    """Writes a factor's value for a model id."""
    return f"{value:g}" if isinstance(value, float) else str(value)
