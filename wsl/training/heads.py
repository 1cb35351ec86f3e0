"""Linear heads on the embeddings of ensemble members, by which an invariant encoder is pre-trained and then does without."""

from collections.abc import Mapping

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from wsl.models.invariant_encoder import InvariantEncoder
from wsl.training.targets import known_rows

MemberEmbeddings = Mapping[str, Float[Tensor, "E N latent"]]
"""Embeddings by the members of an ensemble, by the kind of member."""


class Heads(nn.Module):
    """Linear heads of each member: for its own inputs, log-probabilities of classes, their summaries, and update norms."""

    def __init__(self, encoder: InvariantEncoder, *, log_probabilities: int, update_norms: int, summaries: int):
        super().__init__()
        self.columns, self.dropout = encoder.columns, nn.Dropout(0.1)

        def heads(outputs: Mapping[str, int]) -> nn.ModuleDict:
            return nn.ModuleDict({name: encoder.members[name].heads(size) for name, size in outputs.items()})  # type: ignore[operator]

        self.invariants = heads({name: len(read) for name, read in self.columns.items()})
        self.log_probabilities = heads(dict.fromkeys(self.columns, log_probabilities))
        self.update_norms = heads({name: update_norms for name in self.columns if name == "updates"})
        self.summaries = heads(dict.fromkeys(self.columns, summaries) if summaries else {})

    def error(self, embeddings: MemberEmbeddings, inputs: Float[Tensor, "N C"]) -> Float[Tensor, ""]:
        """Returns the mean squared error of the invariants, the mean over members."""
        errors = [
            (head(embeddings[name]) - inputs[:, self.columns[name]]).square().mean((1, 2)) for name, head in self.invariants.items()
        ]
        return torch.cat(errors).mean()

    def divergence(self, embeddings: MemberEmbeddings, log_probabilities: Float[Tensor, "N I classes"]) -> Float[Tensor, ""]:
        """Returns KL(true || predicted) of class probabilities in nats, the mean over members; 0 where none was evaluated."""
        known = known_rows(log_probabilities)
        true = classes_first(log_probabilities[known])
        found = []
        for name, head in self.log_probabilities.items():
            logits = rearrange(head(self.dropout(embeddings[name][:, known])), "e n (c i) -> e c n i", c=len(true))
            found.append(divergence_of(logits.log_softmax(1), true))
        return torch.cat(found).mean() if known.any() else log_probabilities.new_zeros(())

    def forecast_error(self, embeddings: MemberEmbeddings, update_norms: Float[Tensor, "N P"]) -> Float[Tensor, ""]:
        """Returns the mean squared error of the update norms that are known, the mean over members; 0 where there are none."""
        known = update_norms.isfinite()
        errors = [
            (head(embeddings[name]) - update_norms).where(known, 0).square().sum((1, 2)) for name, head in self.update_norms.items()
        ]
        return torch.cat([*errors, update_norms.new_zeros(0 if errors else 1)]).mean() / known.sum().clamp(min=1)

    def summary_error(self, embeddings: MemberEmbeddings, summaries: Float[Tensor, "N S"]) -> Float[Tensor, ""]:
        """Returns the Huber loss of the summaries that are known, the mean over members; 0 where none is."""
        known = summaries.isfinite().all(1)
        if not known.any():
            return summaries.new_zeros(())
        errors = []
        for name, head in self.summaries.items():
            predicted = head(self.dropout(embeddings[name][:, known]))
            true = summaries[known].expand_as(predicted)
            errors.append(functional.smooth_l1_loss(predicted, true, reduction="none").mean((1, 2)))
        return torch.cat(errors).mean()


def divergence_of(predicted: Float[Tensor, "*E classes N I"], true: Float[Tensor, "classes N I"]) -> Float[Tensor, "*E"]:
    """Returns KL(true || predicted) of log-probabilities in nats, the mean over checkpoints and images."""
    return (true.exp() * (true - predicted)).sum(-3).mean((-2, -1))


def classes_first(log_probabilities: Float[Tensor, "N I classes"]) -> Float[Tensor, "classes N I"]:
    """Returns log-probabilities with the classes first: they are few, and softmax is faster over rows than within them."""
    return rearrange(log_probabilities, "n i c -> c n i").contiguous()
