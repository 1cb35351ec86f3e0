"""Linear heads of latent vectors, by which a model encoder is trained; nothing else needs them."""

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wsl.models.invariant_encoder import InvariantEncoder
from wsl.training.targets import complete

MemberEmbeddings = dict[str, Float[Tensor, "E N latent"]]
"""MemberEmbeddings of members in latent vectors, by what the members read."""


class Heads(nn.Module):
    """Linear heads of each member's share: invariants that it was made of, answers of the model, summaries of them, and update_norms."""

    def __init__(self, encoder: InvariantEncoder, *, answers: int, update_norms: int, summaries: int):
        super().__init__()
        self.reads, self.dropout = encoder.reads, nn.Dropout(0.1)

        def heads(outputs: Mapping[str, int]) -> nn.ModuleDict:
            return nn.ModuleDict({name: encoder.members[name].heads(size) for name, size in outputs.items()})  # type: ignore[operator]

        self.invariants = heads({name: len(reads) for name, reads in self.reads.items()})
        self.answers = heads(dict.fromkeys(self.reads, answers))
        self.update_norms = heads({name: update_norms for name in self.reads if name == "updates"})
        self.summaries = heads(dict.fromkeys(self.reads, summaries) if summaries else {})

    def error(self, member_embeddings: MemberEmbeddings, inputs: Float[Tensor, "N C"]) -> Float[Tensor, ""]:
        """Mean squared error of the invariants, the mean over members."""
        errors = [
            (head(member_embeddings[name]) - inputs[:, self.reads[name]]).square().mean((1, 2))
            for name, head in self.invariants.items()
        ]
        return torch.cat(errors).mean()

    def divergence(self, member_embeddings: MemberEmbeddings, answers: Float[Tensor, "N I classes"]) -> Float[Tensor, ""]:
        """Divergence of the answers that are read off the member_embeddings from the true ones, the mean over members (0: none is known)."""
        known = complete(answers)
        true = classes_first(answers[known])
        found = []
        for name, head in self.answers.items():
            read = rearrange(head(self.dropout(member_embeddings[name][:, known])), "e n (c i) -> e c n i", c=len(true))
            found.append(divergence_of(read.log_softmax(1), true))
        return torch.cat(found).mean() if known.any() else answers.new_zeros(())

    def forecast_error(self, member_embeddings: MemberEmbeddings, update_norms: Float[Tensor, "N P"]) -> Float[Tensor, ""]:
        """Mean squared error of the update_norms that are known, the mean over the members that are asked; 0 where nobody or nothing is."""
        known = update_norms.isfinite()
        errors = [
            (head(member_embeddings[name]) - update_norms).where(known, 0).square().sum((1, 2))
            for name, head in self.update_norms.items()
        ]
        return torch.cat([*errors, update_norms.new_zeros(0 if errors else 1)]).mean() / known.sum().clamp(min=1)

    def summary_error(self, member_embeddings: MemberEmbeddings, summaries: Float[Tensor, "N S"]) -> Float[Tensor, ""]:
        """Huber loss of the summaries that are known, the mean over members; 0 where none is."""
        known = summaries.isfinite().all(1)
        if not known.any():
            return summaries.new_zeros(())
        errors = []
        for name, head in self.summaries.items():
            read = head(self.dropout(member_embeddings[name][:, known]))
            true = summaries[known].expand_as(read)
            errors.append(functional.smooth_l1_loss(read, true, reduction="none").mean((1, 2)))
        return torch.cat(errors).mean()


def divergence_of(read: Float[Tensor, "*E classes N I"], true: Float[Tensor, "classes N I"]) -> Float[Tensor, "*E"]:
    """KL(true || read) in nats, the mean over checkpoints and images."""
    return (true.exp() * (true - read)).sum(-3).mean((-2, -1))


def classes_first(answers: Float[Tensor, "N I classes"]) -> Float[Tensor, "classes N I"]:
    """Answers as they are compared: classes are few, and softmax is faster over rows than within them."""
    return rearrange(answers, "n i c -> c n i").contiguous()
