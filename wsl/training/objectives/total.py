"""Sums of objectives: each term by its name, times its weight."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from wsl.data.sources import FileSource
from wsl.data.windows import Batch
from wsl.run import Run
from wsl.training.objectives.objective import Objective
from zoo_gen.config import instantiate
from zoo_gen.errors import InputError


class Total(Objective):
    """A weighted sum of objectives.

    Args:
        terms: objectives by name.
        weights: of the terms, by the same names.
    """

    def __init__(self, *, terms: Mapping[str, Objective], weights: Mapping[str, float]):
        if terms.keys() != weights.keys() or not terms:
            raise InputError(f"terms ({', '.join(terms)}) and weights ({', '.join(weights)}) of an objective need the same names")
        self.terms, self.weights = terms, weights

    @property
    def runs_models(self) -> bool:
        """Whether a term that counts runs models."""
        return any(term.runs_models and self.weights[name] != 0 for name, term in self.terms.items())

    @classmethod
    def imageless(cls, card: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Returns the card of a sum without the terms that run models; None if they are all."""
        kept = {name: term for name, term in card["terms"].items() if not instantiate(term).runs_models}
        return {**card, "terms": kept, "weights": {name: card["weights"][name] for name in kept}} if kept else None

    def prepare(self, run: Run, sources: Sequence[FileSource]) -> None:
        """Tells the terms."""
        for term in self.terms.values():
            term.prepare(run, sources)

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Returns `loss`, the sum; the loss of each term by its name; and the terms' other scalars."""
        scalars: dict[str, Tensor] = {}
        losses, once = [], _Once(model)
        for name, term in self.terms.items():
            found = term(once, batch)
            losses.append(self.weights[name] * found["loss"])
            scalars |= {f"{name}": found["loss"].detach(), **{key: value for key, value in found.items() if key != "loss"}}
        return {"loss": sum(losses[1:], losses[0]), **scalars}


class _Once(nn.Module):
    """A model that is run once for all terms that give it the same inputs."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.__dict__["model"] = model  # no part of this module
        self.seen: tuple[Tensor, ...] = ()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Returns the model's output."""
        if len(self.seen) != len(inputs) or any(a is not b for a, b in zip(self.seen, inputs, strict=True)):
            self.seen, self.output = inputs, self.__dict__["model"](*inputs)
        return self.output
