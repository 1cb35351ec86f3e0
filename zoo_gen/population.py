"""The population trainer: K models of one shape and length, trained at once as a stack."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo_gen.architecture import initialize, skeleton
from zoo_gen.augment import DRAWS, Strengths, mix, mixing_draws, view
from zoo_gen.blueprint import ModelSpec
from zoo_gen.evaluate import score_stack
from zoo_gen.hardware import Hardware
from zoo_gen.images import Images, ImageSplit
from zoo_gen.objectives import SimCLR, cross_entropy, nt_xent, smooth_targets
from zoo_gen.optimizers import StackOptimizer
from zoo_gen.stack import ModelStack
from zoo_gen.streams import stream, stream_seed
from zoo_gen.team import ALONE, Team


class PopulationTrainer:
    """A stack of models in training; one call of `train_epoch` moves all of them on by one epoch.

    Every random draw comes from a stream that is opened anew for each model and epoch, so `state()` after an epoch is all that is
    needed to go on bit for bit.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        images: Images,
        parents: Sequence[Mapping[str, Tensor] | None],
        *,
        seed: int,
        hardware: Hardware,
        team: Team = ALONE,
    ):
        """Sets up the stack at epoch 0.

        Args:
            specs: of one shape, objective, batch size and number of epochs, AdamW before SGD.
            images: that the models are trained and scored on.
            parents: weights each model starts from (all but the head), or None for a fresh start.
            seed, hardware, team: of the zoo; where and how to compute; processes that share every batch of this stack.
        """
        device = hardware.device
        self.hardware, self.team = hardware, team
        self.specs, self.seed, self.epoch = specs, seed, 0
        self.recipe = specs[0].recipe
        self.contrastive = self.recipe.objective == "simclr"
        self.images = images.to(device)
        self.recipes = [spec.recipe for spec in specs]
        seen = math.ceil(self.recipe.fraction * len(images.train))
        self.batch = min(self.recipe.batch_size, seen)
        self.steps = seen // self.batch
        self.share = team.share(self.batch)
        self.subsets = [
            rng.permutation(len(images.train))[:seen] if seen < len(images.train) else np.arange(seen)
            for rng in self._streams("subset", 0)
        ]
        with torch.device("meta"):
            template = skeleton(specs[0].architecture)
            template = SimCLR(template) if self.contrastive else template
        self.stack = ModelStack(template, len(specs), dtype=hardware.dtype, device=device)
        self.forward = self.stack if hardware.compile is None else torch.compile(self.stack, mode=hardware.compile)
        for index, (spec, parent) in enumerate(zip(specs, parents, strict=True)):
            self.stack.load(index, start_weights(spec, parent, seed=seed))
        self.optimizer = StackOptimizer(self.stack, self.recipes, steps_per_epoch=self.steps)
        self.strengths = Strengths(self.recipes, device)
        self.smoothing = torch.tensor([recipe.label_smoothing for recipe in self.recipes], device=device)
        self.temperature = torch.tensor([recipe.temperature for recipe in self.recipes], device=device)

    def _streams(self, name: str, epoch: int) -> list[np.random.Generator]:
        """One generator per model for this purpose and epoch."""
        return [stream(self.seed, spec.model, name, epoch) for spec in self.specs]

    def orders(self) -> Tensor:
        """The images (K, steps, b) of each model's coming epoch, this process's share of every batch."""
        rngs, count = self._streams("order", self.epoch), self.steps * self.batch
        orders = [images[rng.permutation(len(images))[:count]] for images, rng in zip(self.subsets, rngs, strict=True)]
        return torch.from_numpy(np.stack(orders)).unflatten(1, (self.steps, self.batch))[..., self.share].to(self.hardware.device)

    def train_epoch(self) -> None:
        """Trains every model for one epoch over its own order of the training images."""
        self.epoch += 1
        train, device = self.images.train, self.hardware.device
        orders = self.orders()
        augmentation = self._streams("augmentation", self.epoch)
        draws = np.stack([rng.random((self.steps, self.recipe.views, self.batch, DRAWS), dtype=np.float32) for rng in augmentation])
        draws = torch.from_numpy(draws)[:, :, :, self.share].to(device)
        mixing = torch.from_numpy(mixing_draws(self._streams("mixing", self.epoch), self.steps, self.strengths)).to(device)
        parameters = list(self.stack.parameters())
        self.stack.train()
        rates = torch.tensor([recipe.dropout for recipe in self.recipes], device=device)
        if bool((rates > 0).any()):
            own = ["dropout", self.epoch, *([self.team.rank] if self.team.rank else [])]
            seeds = [stream_seed(self.seed, spec.model, *own) for spec in self.specs]
            self.stack.drop(rates, [torch.Generator(device).manual_seed(seed) for seed in seeds])
        for step, pixels in enumerate(train.batches(orders.unbind(1))):
            pixels = pixels.to(self.hardware.dtype)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=self.hardware.precision == "bfloat16"):
                if self.contrastive:
                    losses = self._contrastive_loss(pixels, draws[:, step])
                else:
                    losses = self._supervised_loss(pixels, train.labels[orders[:, step]], draws[:, step, 0], mixing[:, step])
            self.optimizer.step(torch.autograd.grad(losses.sum(), parameters), self.team)

    def _supervised_loss(self, pixels: Tensor, labels: Tensor, draws: Tensor, mixing: Tensor) -> Tensor:
        """Cross-entropy (K,) on one augmented, mixed batch."""
        pixels = view(pixels, draws, self.strengths)
        targets = smooth_targets(labels, self.images.num_classes, self.smoothing)
        if self.strengths.mixes:
            pixels, targets = mix(pixels, targets, mixing)
        return cross_entropy(self.forward(pixels).to(self.hardware.dtype), targets)

    def _contrastive_loss(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """NT-Xent (K,) between two views of one batch; `draws` is (K, 2, B, draws)."""
        pair = [view(pixels, draws[:, which], self.strengths) for which in (0, 1)]
        outputs = self.forward(torch.cat(pair, 1)).to(self.hardware.dtype)
        return nt_xent(self.team.gather_views(outputs), self.temperature)

    @torch.no_grad()
    def evaluate(self) -> list[dict[str, Any]]:
        """Scores every model on all splits: losses, accuracies and their gaps; accuracies are None under SimCLR.

        A model that trains on a fraction of the images is scored on its own fraction as train split.
        """
        self.stack.eval()
        measured: dict[str, Sequence[Any]] = {}
        for name in ("train", "val", "test"):
            split: ImageSplit = getattr(self.images, name)
            if self.contrastive:
                measured |= {f"{name}_loss": self._view_losses(split), f"{name}_accuracy": [None] * len(self.specs)}
            else:
                scored = score_stack(self.stack, split, self.seen() if name == "train" else None, team=self.team)
                measured |= {f"{name}_loss": scored.loss.tolist(), f"{name}_accuracy": scored.accuracy.tolist()}
        results = [dict(zip(measured, values, strict=True)) for values in zip(*measured.values(), strict=True)]
        for result in results:
            result["loss_gap"] = result["test_loss"] - result["train_loss"]
            result["accuracy_gap"] = None if self.contrastive else result["train_accuracy"] - result["test_accuracy"]
        return results

    def seen(self) -> Tensor | None:
        """The training images (K, N) that each model may see, None for all."""
        if len(self.subsets[0]) == len(self.images.train):
            return None
        seen = torch.zeros(len(self.specs), len(self.images.train), dtype=torch.bool, device=self.hardware.device)
        for row, subset in zip(seen, self.subsets, strict=True):
            row[torch.from_numpy(subset).to(row.device)] = True
        return seen

    def _view_losses(self, split: ImageSplit) -> list[float]:
        """NT-Xent (K,) on a whole split, in batches, with the same views at every epoch."""
        batches = max(1, len(split) // self.batch)
        size = min(self.batch, len(split) // (2 * self.team.size) * 2 * self.team.size or len(split))
        share = self.team.share(size)
        rngs = self._streams("evaluation", 0)
        total = torch.zeros(len(self.specs), device=self.hardware.device)
        for batch in range(batches):
            pixels = split.pixels[batch * size + share].expand(len(self.specs), -1, -1, -1, -1).to(self.hardware.dtype)
            draws = np.stack([rng.random((2, size, DRAWS), dtype=np.float32) for rng in rngs])
            total += self._contrastive_loss(pixels, torch.from_numpy(draws)[:, :, share].to(total.device))
        return (total / batches).tolist()

    def weights(self, index: int) -> dict[str, Tensor]:
        """The state dict of one model on the CPU, without the projection head of SimCLR."""
        weights = self.stack.weights(index)
        if self.contrastive:
            weights = {name.removeprefix("backbone."): value for name, value in weights.items() if name.startswith("backbone.")}
        return weights

    def state(self) -> dict[str, Tensor]:
        """All that is needed to go on: weights, moments, and how far training is."""
        return {
            "weights": self.stack.flat,
            "first": self.optimizer.first,
            "second": self.optimizer.second,
            "progress": torch.tensor([self.epoch, self.optimizer.steps]),
        }

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Goes back to a saved state."""
        self.stack.flat.copy_(state["weights"])
        self.optimizer.first.copy_(state["first"])
        self.optimizer.second.copy_(state["second"])
        self.epoch, self.optimizer.steps = (int(number) for number in state["progress"])


def start_weights(spec: ModelSpec, parent: Mapping[str, Tensor] | None, *, seed: int) -> dict[str, Tensor]:
    """Returns the weights a model starts from: its parent's with a fresh head, or fresh ones; both have own streams."""
    initialized = partial(initialize, spec.architecture, scheme=spec.recipe.init)
    if spec.recipe.objective == "simclr":
        return initialized(stream_seed(seed, spec.model, "init"), within=SimCLR)
    fresh, head = (initialized(stream_seed(seed, spec.model, part)) for part in ("init", "head"))
    start = {name: head[name] if name.startswith("head.") else value for name, value in fresh.items()}
    if parent is not None:
        start |= {name: value for name, value in parent.items() if not name.startswith("head.")}
    return start
