"""Linear readings of latent vectors, by which a model encoder is trained; nothing else needs them."""

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wsl.models.invariant_encoder import ModelEncoder
from wsl.training.targets import complete

Shares = dict[str, Float[Tensor, "E N latent"]]
"""Shares of members in latent vectors, by what the members read."""


class Readers(nn.Module):
    """Linear readings of each member's share: invariants that it was made of, answers of the model, summaries of them, and ways."""

    def __init__(self, encoder: ModelEncoder, *, answers: int, paces: int, summaries: int):
        super().__init__()
        self.reads, self.dropout = encoder.reads, nn.Dropout(0.1)

        def readings(outputs: Mapping[str, int]) -> nn.ModuleDict:
            return nn.ModuleDict({name: encoder.members[name].readings(size) for name, size in outputs.items()})  # type: ignore[operator]

        self.invariants = readings({name: len(reads) for name, reads in self.reads.items()})
        self.answers = readings(dict.fromkeys(self.reads, answers))
        self.paces = readings({name: paces for name in self.reads if name == "moves"})
        self.summaries = readings(dict.fromkeys(self.reads, summaries) if summaries else {})

    def error(self, shares: Shares, inputs: Float[Tensor, "N C"]) -> Float[Tensor, ""]:
        """Mean squared error of the invariants, the mean over members."""
        errors = [
            (reader(shares[name]) - inputs[:, self.reads[name]]).square().mean((1, 2)) for name, reader in self.invariants.items()
        ]
        return torch.cat(errors).mean()

    def divergence(self, shares: Shares, answers: Float[Tensor, "N I classes"]) -> Float[Tensor, ""]:
        """Divergence of the answers that are read off the shares from the true ones, the mean over members (0: none is known)."""
        known = complete(answers)
        true = classes_first(answers[known])
        found = []
        for name, reader in self.answers.items():
            read = rearrange(reader(self.dropout(shares[name][:, known])), "e n (c i) -> e c n i", c=len(true))
            found.append(divergence_of(read.log_softmax(1), true))
        return torch.cat(found).mean() if known.any() else answers.new_zeros(())

    def forecast_error(self, shares: Shares, paces: Float[Tensor, "N P"]) -> Float[Tensor, ""]:
        """Mean squared error of the ways that are known, the mean over the members that are asked; 0 where nobody or nothing is."""
        known = paces.isfinite()
        errors = [(reader(shares[name]) - paces).where(known, 0).square().sum((1, 2)) for name, reader in self.paces.items()]
        return torch.cat([*errors, paces.new_zeros(0 if errors else 1)]).mean() / known.sum().clamp(min=1)

    def summary_error(self, shares: Shares, summaries: Float[Tensor, "N S"]) -> Float[Tensor, ""]:
        """Huber loss of the summaries that are known, the mean over members; 0 where none is."""
        known = summaries.isfinite().all(1)
        if not known.any():
            return summaries.new_zeros(())
        errors = []
        for name, reader in self.summaries.items():
            read = reader(self.dropout(shares[name][:, known]))
            true = summaries[known].expand_as(read)
            errors.append(functional.smooth_l1_loss(read, true, reduction="none").mean((1, 2)))
        return torch.cat(errors).mean()


def divergence_of(read: Float[Tensor, "*E classes N I"], true: Float[Tensor, "classes N I"]) -> Float[Tensor, "*E"]:
    """KL(true || read) in nats, the mean over checkpoints and images."""
    return (true.exp() * (true - read)).sum(-3).mean((-2, -1))


def classes_first(answers: Float[Tensor, "N I classes"]) -> Float[Tensor, "classes N I"]:
    """Answers as they are compared: classes are few, and softmax is faster over rows than within them."""
    return rearrange(answers, "n i c -> c n i").contiguous()
