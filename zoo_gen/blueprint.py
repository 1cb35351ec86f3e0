"""Blueprints: generating factors -> a directed forest of model specs, roots first, then their fine-tuned children.

A stage (roots, children) has one recipe and says what varies: members listed one by one, times the full grid over the axes, times
random samples. The reference has 10 roots x 24 fine-tunings (A Model Zoo of Vision Transformers, arXiv 2504.10231).
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from zoo_gen.architecture import resized, timm_sizes, with_head
from zoo_gen.config import instantiate
from zoo_gen.errors import InputError
from zoo_gen.images import Images, ImageSplit, images_stand_in
from zoo_gen.recipe import FACTORS, Recipe
from zoo_gen.streams import stream

FOLDS = 5
DTYPES = ("float32", "bfloat16", "float16")


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
        draws: factor -> what to draw it from (`draw`), for each model by its own stream.
        samples: models with draws of their own for each point of the grid; 1 without draws.
    """

    recipe: Mapping[str, Any]
    axes: Mapping[str, Sequence[Any]]
    members: Sequence[Mapping[str, Any]]
    draws: Mapping[str, Mapping[str, Any]]
    samples: int

    def __post_init__(self) -> None:
        if not isinstance(self.samples, int) or self.samples < 1:
            raise InputError(f"samples must be at least 1, not {self.samples}")

    @property
    def size(self) -> int:
        """How many models the stage has, for each root."""
        return len(self.members or [{}]) * math.prod(map(len, self.axes.values())) * self.samples

    def variants(self, seed: int, family: str) -> list[tuple[dict[str, Any], Recipe]]:
        """Returns what varies, and the whole recipe, for each model of the stage; a family (root) has random draws of its own.

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
            for combination, sample in itertools.product(itertools.product(*choices), range(self.samples)):
                changes = dict(member)
                for change in combination:
                    changes |= change
                if self.draws:
                    rng = stream(seed, "draws", family, *map(str, changes.values()), sample)
                    changes |= {factor: draw(rng, card) for factor, card in self.draws.items()}
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
        stack_size: models trained as one program, at most; None for as many as fit in free memory.
        dtype: of stored weights: `float32`, `bfloat16` or `float16`.
        keep_every: epochs between stored checkpoints; 1 keeps all, the last epoch is always kept.
    """

    name: str
    architecture: Mapping[str, Any]
    pretrain_images: Images
    finetune_images: Images
    pretrain: Stage
    finetune: Stage
    stack_size: int | None
    dtype: str
    keep_every: int

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InputError(f"unknown dtype '{self.dtype}' of stored weights; choose one of {', '.join(DTYPES)}")
        for name in ("stack_size", "keep_every"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        for stage in ("pretrain", "finetune"):
            if self.images(stage).num_classes < 2:
                raise InputError(f"{stage}_images must have two classes or more, not {self.images(stage).num_classes}")
            channels, *sides = self.images(stage).train.pixels.shape[1:]
            _refuse_other_size(f"{stage}_images", self.architecture["model_args"], channels=channels, size=sides[0])

    def images(self, stage: str) -> Images:
        """The images that the models of a stage are trained on."""
        return self.pretrain_images if stage == "pretrain" else self.finetune_images

    def plan(self, seed: int) -> list[ModelSpec]:
        """Returns the forest, roots first. Model ids tell what varies, and do not depend on the rest of the grid."""
        roots, children = [], []
        counts: dict[str, int] = {}
        for _, recipe in self.pretrain.variants(seed, "roots"):
            number = counts.get(recipe.objective, 0)
            counts[recipe.objective] = number + 1
            name = f"{recipe.objective}_{number}"
            described, recipe = _sized(self.architecture, recipe, self.pretrain_images)
            roots.append(ModelSpec(name, name, None, "pretrain", None, recipe.objective, described, recipe))
        for number, root in enumerate(roots):
            backbone = resized(self.architecture, root.recipe.width, root.recipe.depth)
            variants = self.finetune.variants(seed, root.model)
            places = stream(seed, root.model, "split").permutation(len(variants))
            for place, (changes, varied) in zip(places.tolist(), variants, strict=True):
                described, recipe = _sized(backbone, varied, self.finetune_images)
                if (recipe.width, recipe.depth) != (root.recipe.width, root.recipe.depth):
                    raise InputError(
                        f"a child of {root.model} cannot have width {recipe.width} and depth {recipe.depth}: its weights have "
                        f"width {root.recipe.width} and depth {root.recipe.depth}; vary both in zoo.pretrain"
                    )
                varied_values = (f"{value:g}" if isinstance(value, float) else str(value) for value in changes.values())
                name = "-".join([root.model, *varied_values])
                fold = (number * len(variants) + place) % FOLDS
                children.append(ModelSpec(name, root.model, root.model, "finetune", fold, root.pretraining, described, recipe))
        if len({spec.model for spec in (*roots, *children)}) < len(roots) + len(children):
            raise InputError("two fine-tunings of the blueprint have the same factors; give them different seeds")
        return [*roots, *children]

    def partition(self, specs: Sequence[ModelSpec], at_once: Callable[[ModelSpec], int]) -> dict[str, dict[str, Any]]:
        """Returns the stacks: id -> `models` of one stage, shape, length and objective (AdamW before SGD), and their `epochs`.

        Where the card states no stack size, `at_once` says how many models like one fit in memory.
        """
        groups: dict[tuple[object, ...], list[ModelSpec]] = {}
        for spec in specs:
            recipe = spec.recipe
            shape = json.dumps(spec.architecture, sort_keys=True)
            key = (spec.stage, recipe.objective, shape, recipe.epochs, recipe.batch_size, recipe.fraction)
            groups.setdefault(key, []).append(spec)
        stacks: dict[str, dict[str, Any]] = {}
        for key, members in groups.items():
            ordered = sorted(members, key=lambda spec: spec.recipe.optimizer)
            pieces = -(-len(ordered) // (self.stack_size or at_once(ordered[0])))
            for piece in range(pieces):  # every piece gets its share of both optimizers, and equal sizes
                models = [spec.model for spec in ordered[piece::pieces]]
                stacks[f"{key[0]}_{len(stacks):03d}"] = {"models": models, "epochs": ordered[0].recipe.epochs}
        return stacks


def blueprint_of(config: Mapping[str, Any], *, load: Sequence[str]) -> Blueprint:
    """Builds a blueprint from its resolved card.

    Stages that are not in `load` get stand-ins of the right sizes for their images, where their card states these.
    """
    for name in ("pretrain_images", "finetune_images"):
        if not isinstance(config[name], Mapping):
            raise InputError(f"{name} must be a card of images, not {config[name]}")
        counts = config[name].get("images", [1, 1, 1])
        if not isinstance(counts, Sequence) or len(counts) != 3 or not all(isinstance(n, int) and n >= 1 for n in counts):
            raise InputError(f"{name}.images must be three numbers of at least 1 (train, val, test), not {counts}")
        if {"size", "mean"} <= config[name].keys():  # before images are read
            described = {**config["architecture"], **config["architecture"].get("model_args", {})}
            _refuse_other_size(name, described, channels=len(config[name]["mean"]), size=config[name]["size"])
    planned = [f"{stage}_images" for stage in ("pretrain", "finetune") if stage not in load]
    stand_ins = {name: images_stand_in(config[name]) for name in planned if "images" in config[name]}
    return instantiate({**config, **stand_ins})


def _refuse_other_size(images: str, model: Mapping[str, Any], *, channels: int, size: int) -> None:
    """Raises `InputError` for a model of images of another shape; one with `dynamic_img_size` takes any size."""
    takes = {
        "in_chans": model.get("in_chans", channels),
        "img_size": size if model.get("dynamic_img_size") else model.get("img_size", size),
    }
    if takes["img_size"] not in (size, [size, size]) or takes["in_chans"] != channels:
        raise InputError(
            f"{images} has {size} x {size} pixels of {channels} channels, and the architecture has img_size {takes['img_size']} "
            f"and in_chans {takes['in_chans']}; set zoo.architecture.img_size and in_chans, or size and mean of the images"
        )


def planned(config: Mapping[str, Any], *, seed: int, most: int) -> list[ModelSpec]:
    """Returns the models that the configuration of a zoo on disk plans. It is foreign data: images are not read.

    None at all where it is no blueprint, is one that this version cannot plan, or plans more than `most` models.
    """
    try:
        parts: dict[str, Any] = {"architecture": instantiate(config["architecture"], group="architecture")}
        for stage in ("pretrain", "finetune"):
            parts[stage] = instantiate(config[stage], group="stage")
            card = config[f"{stage}_images"]
            model = parts["architecture"]["model_args"]
            shape = (0, model.get("in_chans", 3), model.get("img_size", 224), model.get("img_size", 224))
            none = ImageSplit(torch.empty(shape), torch.empty(0, dtype=torch.int64))
            classes = len(card.get("classes") or ()) or card["num_classes"]
            parts[f"{stage}_images"] = Images(none, none, none, classes, card.get("label_names"))
        blueprint = instantiate({**config, **parts}, group="zoo")
        return blueprint.plan(seed) if blueprint.pretrain.size * (1 + blueprint.finetune.size) <= most else []
    except (InputError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, IndexError):
        return []


def draw(rng: np.random.Generator, card: Mapping[str, Any]) -> Any:
    """Draws one value from `{choices: [...]}`, or between bounds `{uniform: [low, high]}`, `{log_uniform: ...}`, `{integers: ...}`.

    Real numbers are rounded to three digits, so that the model id tells them exactly. Raises `InputError` for any other card.

    >>> draw(np.random.default_rng(0), {"log_uniform": [1e-4, 1e-1]})
    0.00814
    """
    match list(card.items()):
        case [("choices", [_, *_] as choices)]:
            return choices[int(rng.integers(len(choices)))]
        case [("uniform", [low, high])] if low <= high:
            return float(f"{rng.uniform(low, high):.3g}")
        case [("log_uniform", [low, high])] if 0 < low <= high:
            return float(f"{math.exp(rng.uniform(math.log(low), math.log(high))):.3g}")
        case [("integers", [int(low), int(high)])] if low <= high:
            return int(rng.integers(low, high + 1))
    raise InputError(
        f"cannot draw from {dict(card)}; write {{choices: [...]}}, {{uniform: [low, high]}}, {{log_uniform: [low, high]}} "
        "or {integers: [low, high]}, low <= high"
    )


def _sized(backbone: Mapping[str, Any], recipe: Recipe, images: Images) -> tuple[dict[str, Any], Recipe]:
    """Returns the architecture of a recipe, and the recipe with its width and depth spelled out."""
    described = resized(backbone, recipe.width, recipe.depth)
    sizes = timm_sizes(described)
    recipe = dataclasses.replace(recipe, width=sizes["embed_dim"], depth=sizes["depth"])
    described = with_head(described, recipe.head, images.num_classes)
    if described["num_classes"] and images.label_names is not None:
        described["label_names"] = list(images.label_names)  # where timm looks for them
    return described, recipe
