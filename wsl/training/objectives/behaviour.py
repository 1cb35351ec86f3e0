"""Behaviour: decoded weights are run on images, and are to predict as the original does.

    loss = KL(softmax f(x; w) || softmax f(x; w')),    w' = decode(encode(w)),

the mean over query images x of the training split. Reconstruction counts every weight the same; this counts what a weight does.
All models of a batch run as one stack. Source of the idea: Schürholt et al., "Hyper-Representations for Pre-Training and Transfer
Learning", arXiv 2207.10951, judge by behaviour; here the gradient of behaviour trains the decoder.
"""

import functools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from wsl.data.pairs import ROOTS_KEPT
from wsl.data.sources import FileSource
from wsl.data.windows import Batch
from wsl.run import Run
from wsl.tokenizers.plan import Plan
from wsl.training.objectives.objective import Objective
from zoo_gen.architecture import skeleton
from zoo_gen.errors import InputError
from zoo_gen.stack import ModelStack

Turn = Callable[[dict[str, Tensor]], dict[str, Tensor]]
"""Makes differences of weights of what tokens hold of each tensor."""


@dataclass(frozen=True)
class Runner:
    """Models of one architecture and plan, to be run from their tokens."""

    stack: ModelStack
    plan: Plan
    order: Int[Tensor, "W"]
    differs: Float[Tensor, "W"]

    @classmethod
    def of(cls, source: FileSource) -> "Runner":
        """Finds where each weight of the model lies in the tokens of its plan."""
        stack = ModelStack(skeleton(source.checkpoint.architecture), 1)
        plan = source.plan
        places = torch.arange(plan.n_tokens * plan.width).view(plan.n_tokens, plan.width)
        found = [torch.zeros(slot.shape, dtype=torch.int64) for slot in plan.layout.slots]
        for group in plan.groups:
            for segment in group.segments:
                segment.of_tensor(found[segment.slot]).copy_(segment.of(places))
        turned = {slot.name: slot.turn(where).flatten() for slot, where in zip(plan.layout.slots, found, strict=True)}
        coded = {slot.name: float(differs) for slot, differs in zip(plan.layout.slots, plan.differences, strict=True)}
        differs = torch.cat([torch.full((len(turned[name]),), coded[name]) for name in stack.slots])
        return cls(stack, plan, torch.cat([turned[name] for name in stack.slots]), differs)

    def flat(self, weights: dict[str, Tensor]) -> Float[Tensor, "W"]:
        """The weights of a state dict in the order of the stack."""
        return torch.cat([weights[name].float().flatten() for name in self.stack.slots])

    def decoded(self, values: Float[Tensor, "T D"], root: Float[Tensor, "W"], turn_back: Turn) -> Float[Tensor, "W"]:
        """The weights that tokens stand for; gradients flow back to the tokens."""
        coded = values.flatten()[self.order]
        named = {name: coded[start : start + math.prod(shape)].view(shape) for name, (start, shape) in self.stack.slots.items()}
        return self.flat(turn_back(named)) + self.differs * root


class Behaviour(Objective):
    """Divergence between the predictions of decoded and original weights, in nats.

    Args:
        images: training images that models are run on, drawn anew in each step.
    """

    def __init__(self, *, images: int):
        self.images = images

    @property
    def runs_models(self) -> bool:
        """True: decoded weights are run."""
        return True

    def prepare(self, run: Run, sources: Sequence[FileSource]) -> None:
        """Takes over the checkpoints. Raises `InputError` where tokens are no weights."""
        if not run.tokenizer.linear:
            raise InputError("objective Behaviour runs decoded weights: it needs tokenizer.form=raw and tokenizer.scale=within")
        cards = {source.checkpoint.model: source.checkpoint for source in sources}
        described = {model: json.dumps(checkpoint.architecture, sort_keys=True) for model, checkpoint in cards.items()}
        self.run, self.sources = run, sources
        self.architectures = [described[source.checkpoint.model] for source in sources]
        self.pixels = run.zoo.images("finetune").train.pixels
        self.runner_of = functools.cache(self._made)
        self.root_weights = functools.lru_cache(256)(self._read)
        roots = {source.root.path: source.root for source in sources if source.root is not None}
        self._states = functools.lru_cache(ROOTS_KEPT)(lambda path: roots[path].state_dict())

    def _made(self, architecture: str, plan: Plan) -> Runner:
        """The runner of an architecture (JSON) and plan."""
        known = zip(self.sources, self.architectures, strict=True)
        return Runner.of(next(source for source, described in known if described == architecture and source.plan == plan))

    def _read(self, number: int) -> Float[Tensor, "W"]:
        """The weights of the root of a checkpoint; zeros where it has none of that shape."""
        source = self.sources[number]
        root = {} if source.root is None else source.root.state_dict()
        runner = self.runner_of(self.architectures[number], source.plan)
        shapes = {name: shape for name, (_, shape) in runner.stack.slots.items()}
        fitting = {n: root[n] if n in root and root[n].shape == shape else torch.zeros(shape) for n, shape in shapes.items()}
        return runner.flat(fitting)

    def turn_of(self, number: int) -> Turn:
        """Turns what tokens of a checkpoint hold into its differences to the root."""
        root = self.sources[number].root
        return partial(self.run.tokenizer.turn_back, root=None if root is None else self._states(root.path))

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Returns `loss` and `agreement`, the share of images on which both have the same first class."""
        decoded = model(*batch.inputs).float()
        pixels = self.pixels[torch.randint(len(self.pixels), (self.images,))].to(decoded.device)
        groups: dict[tuple[str, Plan], list[int]] = {}
        for row, number in enumerate(batch.source.tolist()):
            groups.setdefault((self.architectures[number], self.sources[number].plan), []).append(row)
        losses, agreements = [], []
        for (architecture, plan), rows in groups.items():
            runner = self.runner_of(architecture, plan)
            if plan.n_tokens > decoded.shape[1]:
                raise InputError(
                    f"objective Behaviour decodes whole models: set window to at least {plan.n_tokens}, the tokens of such a model"
                )
            roots = [self.root_weights(int(batch.source[row])) for row in rows]
            weights = [self.run.standardizer.restore(decoded[row, : plan.n_tokens], plan) for row in rows]
            turns = [self.turn_of(int(batch.source[row])) for row in rows]
            made = torch.stack([runner.decoded(*each) for each in zip(weights, roots, turns, strict=True)])
            true = torch.stack([runner.flat(self.sources[int(batch.source[row])].checkpoint.state_dict()) for row in rows])
            queries = repeat(pixels, "n c h w -> k n c h w", k=len(rows))
            with torch.no_grad():
                expected = functional.log_softmax(runner.stack.run(true, queries), -1)
            found = functional.log_softmax(runner.stack.run(made, queries), -1)
            losses.append((expected.exp() * (expected - found)).sum(-1).mean(1))
            agreements.append((expected.argmax(-1) == found.argmax(-1)).float().mean(1))
        return {"loss": torch.cat(losses).mean(), "agreement": torch.cat(agreements).mean().detach()}
