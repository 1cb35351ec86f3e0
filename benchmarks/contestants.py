"""The sides of `benchmarks.hyperrep_throughput` on one zoo: the default hyper-representation, and rivals of its size."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from benchmarks.in_memory import InMemory
from benchmarks.padded_rows import LayerStandardizer, RowsAutoencoder, Sizes, keys_of, masked_error, moments_of
from benchmarks.race import Contestant, Holdout, Scales, Settings, now
from wsl.data.pairs import with_roots
from wsl.data.standardizer import Standardizer
from wsl.data.windows import Batch, Windows
from wsl.layout.slots import ROLES
from wsl.models.initialization import DataDependent
from wsl.tokenizers.plan import Plan
from wsl.tokenizers.residual import Residual
from wsl.tokenizers.rows import Rows
from wsl.tokenizers.tokens import Tokenizer
from wsl.tokenizers.window import Window
from wsl.training.initialization import TokenStatistics
from zoo_gen import Checkpoint, InputError, Zoo
from zoo_gen.config import instantiate

CACHE = 2 * 10**9
"""Bytes of standardised windows that each side keeps in memory."""


EQUAL = 0.02
"""Difference between two compressions that are called equal."""


def evenly(checkpoints: Sequence[Checkpoint], count: int) -> list[Checkpoint]:
    """Some of the checkpoints, evenly over all of them."""
    return [checkpoints[int(i)] for i in np.linspace(0, len(checkpoints) - 1, min(count, len(checkpoints))).round()]


class Field:
    """The train and validation checkpoints of a zoo, and who may train on them.

    Args:
        zoo: whose split `by_model` is used, fold 0.
        fabric: of the device.
        config: of `wsl.train`, whose defaults ours has.
        width: weights per token of ours.
        train, val: how many checkpoints, evenly over all there are.
    """

    def __init__(self, zoo: Zoo, fabric: Fabric, config: dict[str, Any], *, width: int, train: int, val: int):
        split = zoo.split("by_model", fold=0)
        self.zoo, self.fabric, self.config, self.width = zoo, fabric, config, width
        self.checkpoints = evenly(list(split.train), train), evenly(list(split.val), val)
        self._held: dict[tuple[Any, ...], tuple[list[InMemory], list[InMemory]]] = {}
        self.settings = Settings(ema=0.99, **{name: config[name] for name in ("weight_decay", "warmup", "gradient_clip_val")})
        changed, plain = (self.held(Residual(width=width, reference=reference)) for reference in ("root", "none"))
        if not all((*changed, *plain)):
            raise InputError(f"the train or the val models of {zoo.path} have no finite weights; choose another zoo")
        self.scales = Scales(*(moments_of((s.plan, s.sums) for s in train) for train, _ in (changed, plain)))
        self.changes = [dict(zip(keys_of(s.plan), s.sums[:, 1].tolist(), strict=True)) for s in changed[1]]
        self.card = {**config["model"], "token_width": width + 1, "latent": max(1, config["model"]["latent"] * width // 64)}
        self.card["roles"] = len(ROLES)  # the rest would count as weights, and be of no use
        self.compression = _per_token(changed[1]) / self.card["latent"]
        with torch.device("meta"):
            self.size = _size(instantiate(self.card))

    def held(self, tokenizer: Tokenizer) -> tuple[list[InMemory], list[InMemory]]:
        """Train and validation tokens in memory, where weights are finite; equal plans are one object."""
        key = type(tokenizer).__name__, tokenizer.reference, getattr(tokenizer, "width", None)
        if key not in self._held:
            plans: dict[Plan, Plan] = {}
            found: tuple[list[InMemory], list[InMemory]] = ([], [])
            for checkpoints, sources in zip(self.checkpoints, found, strict=True):
                for checkpoint, root in with_roots((one, self.zoo.root(one)) for one in checkpoints):
                    source = InMemory.of(tokenizer.encode(checkpoint.state_dict(), root=root))
                    if source.sums.isfinite().all():
                        plan = plans.setdefault(source.plan, source.plan)
                        sources.append(InMemory(plan, source.sums, source.values))
            self._held[key] = found
        return self._held[key]

    def forget(self) -> None:
        """Gives the memory of tokens back that no contestant holds."""
        self._held.clear()

    def ours(self, name: str, *, rate: float) -> Contestant:
        """The default hyper-representation, `ours`; `ours_random` by model.initialization=random."""
        held = self.held(Residual(width=self.width, reference="root"))
        standardizer = Standardizer.fit((source.plan, source.sums) for source in held[0])

        def restore(values: Tensor, whole: Window) -> Tensor:
            return standardizer.restore(values, whole.plan)

        card = self.card | ({"initialization": "random"} if name == "ours_random" else {})
        model, objective = self._seeded(lambda: instantiate(card)), instantiate(self.config["objective"])
        return self._contestant(name, self.width, held, standardizer, model, objective, restore, rate)

    def rival(self, name: str, *, width: int, rate: float) -> Contestant:
        """An autoencoder on padded rows, `rows` or `rows_root`."""
        held = self.held(Rows(width=width, reference="root" if name == "rows_root" else "none"))
        standardizer = LayerStandardizer(moments_of((source.plan, source.sums) for source in held[0]))
        positions = torch.cat([source.plan.positions for source in {id(s.plan): s for s in (*held[0], *held[1])}.values()])
        blocks, _, places = (positions.amax(0) + 1).tolist()
        latent = math.ceil((1 - EQUAL) * _per_token(held[1]) / self.compression)
        heads, depth = self.card["heads"], self.card["encoder_depth"]

        def build(model_width: int) -> RowsAutoencoder:
            layers = blocks * len(ROLES)
            return RowsAutoencoder(Sizes(width, latent, model_width, layers, places), heads=heads, depth=depth)

        with torch.device("meta"):
            sizes = range(2 * heads, 4096, 2 * heads)
            above = bisect_left(sizes, self.size, key=lambda size: _size(build(size)))
            best = min(sizes[max(0, above - 1) : above + 1], key=lambda size: abs(_size(build(size)) - self.size))
        model = self._seeded(lambda: build(best))
        return self._contestant(name, width, held, standardizer, model, masked_error, standardizer.restore, rate)

    def _contestant(
        self,
        name: str,
        width: int,
        held: tuple[list[InMemory], list[InMemory]],
        standardizer: Any,
        model: nn.Module,
        objective: Callable[[nn.Module, Batch], dict[str, Tensor]],
        restore: Callable[[Tensor, Window], Tensor],
        rate: float,
    ) -> Contestant:
        """A contestant whose steps hold as many weights as the default's do."""
        train, val = held
        per_token, window = _per_token(train), self.config["window"]
        shortest = min(source.plan.n_tokens for source in (*train, *val))
        length = min(window, round(64 * window / per_token), shortest)
        windows = Windows(train, standardizer, length=length, seed=self.config["seed"], cache=CACHE)
        about = {
            "token_width": width,
            "rate": rate,
            "weights": _size(model),
            "weights_per_number": _per_token(val) / _latent(model),
            "weights_per_token": per_token,
            "window": length,
            "batch_size": max(1, round(self.config["batch_size"] * 64 * window / (length * per_token))),
        }
        began = now(self.fabric.device)
        if isinstance(model, DataDependent):
            model.initialize(TokenStatistics((), windows))
        seconds = now(self.fabric.device) - began
        holdout = Holdout(val, windows, self.changes, self.scales)
        return Contestant(
            name=name,
            about=about,
            fabric=self.fabric,
            model=model,
            objective=objective,
            windows=windows,
            holdout=holdout,
            restore=restore,
            settings=self.settings,
            batch_size=about["batch_size"],
            rate=rate,
            seconds=seconds,
        )

    def _seeded(self, build: Callable[[], nn.Module]) -> nn.Module:
        """Builds a model by the seed of the configuration."""
        torch.manual_seed(self.config["seed"])
        return build()


def _per_token(sources: Sequence[InMemory]) -> float:
    """Mean weights per token."""
    return float(np.mean([source.plan.n_weights / source.plan.n_tokens for source in sources]))


def _size(model: nn.Module) -> int:
    """Weights of a network."""
    return sum(parameter.numel() for parameter in model.parameters())


def _latent(model: nn.Module) -> int:
    """Numbers per token that the decoder gets."""
    return model.get_submodule("bottleneck").out_features  # type: ignore[return-value]
