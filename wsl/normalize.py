"""Standardisation of tokens: per-part mean and deviation, and the scale of each group kept apart from its direction.

Differences between a checkpoint and its root span orders of magnitude from one optimizer to the next, so after a
plain z-score a few wild models would own every loss. With x a value of a part, and s the root mean square of u over a
group (the tokens of one role in one block),

    u = (x - mean_part) / deviation_part,  l = clip((log s - mean_role) / deviation_role),  token = (u / scale(l), l)

where scale(l) = exp(mean_role + deviation_role l): tokens carry a direction of unit root mean square, and the standardised
log-scale rides along as one more coordinate of each. The inverse is exact up to rounding, clipped or not, because it is
scale(l) that divides. Means of parts are medians over the train checkpoints (and blocks), deviations upper deciles: neither
is moved by a diverging model, and a part that only some optimizers move (a key's bias has no gradient, so SGD leaves it
alone) is measured where it moves, or it would outshout its whole group there.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from wsl.tokenizers.plan import Plan, Segment
from wsl.tokenizers.tokens import Tokens
from zoo_gen.errors import InputError
from zoo_gen.files import write_json

UPPER = 0.9
"""Quantile of a part's size over the train checkpoints that stands for its deviation."""

CLIP = 5.0
"""Log-scales are clipped at this many deviations (the direction then has more, or less, than unit scale)."""

Moments = tuple[float, float]
"""Mean and deviation."""


@dataclass(frozen=True)
class _Table:
    """Statistics laid out for one plan: an entry per value (T D), per token (T) or per group (G)."""

    mean: Float[Tensor, "T D"]
    deviation: Float[Tensor, "T D"]
    mask: Bool[Tensor, "T D"]
    group: Int[Tensor, " T"]
    weights: Float[Tensor, " G"]
    tokens: Float[Tensor, " G"]
    log_mean: Float[Tensor, " G"]
    log_deviation: Float[Tensor, " G"]


class Standardizer:
    """Map from tokens (T D) to standardised tokens (T D+1) and back, fitted on train checkpoints.

    Args:
        parts: mean and deviation of each kind of part (the same part of every block), by its block-free key.
        roles: mean and deviation of the log-scale of the groups of each role.
    """

    def __init__(self, *, parts: Mapping[str, Moments], roles: Mapping[str, Moments]):
        self.parts, self.roles = dict(parts), dict(roles)
        self._tables: dict[Plan, _Table] = {}

    @classmethod
    def fit(cls, checkpoints: Iterable[Tokens]) -> "Standardizer":
        """Fits all statistics in one pass. Checkpoints with a non-finite weight are left out; tensors of zeros are no
        evidence.

        Raises `InputError` if no checkpoint is finite.
        """
        rows: dict[Plan, list[Tensor]] = defaultdict(list)
        for tokens in checkpoints:
            sums = _sums(tokens)
            if sums.isfinite().all():
                rows[tokens.plan].append(sums)
        if not rows:
            raise InputError(
                "no train checkpoint has finite weights, so there is nothing to fit statistics on; "
                "look at the status column of the zoo's index"
            )
        sums_of = {plan: torch.stack(sums) for plan, sums in rows.items()}  # (N parts 3): count, sum, sum of squares

        means, squares, scales = defaultdict(list), defaultdict(list), defaultdict(list)
        for plan, sums in sums_of.items():
            for segment, (count, total, _) in zip(_segments(plan), sums.permute(1, 2, 0), strict=True):
                means[segment.kind].append(total / count)
        mean = {kind: torch.cat(values).median() for kind, values in means.items()}
        for plan, sums in sums_of.items():
            for segment, row in zip(_segments(plan), sums.permute(1, 2, 0), strict=True):
                squares[segment.kind].append(_squares_about(mean[segment.kind], row) / row[0])
        deviation = {kind: _typical_size(torch.cat(values)) for kind, values in squares.items()}
        for plan, sums in sums_of.items():
            rows_of_parts = iter(sums.permute(1, 2, 0))
            for group in plan.groups:
                parts = [(segment.kind, next(rows_of_parts)) for segment in group.segments]
                energy = sum(_squares_about(mean[kind], row) / deviation[kind] ** 2 for kind, row in parts)
                scales[group.role].append(torch.as_tensor(energy) / sum(row[0] for _, row in parts))
        logs = {role: torch.cat(values)[torch.cat(values) > 0].log() / 2 for role, values in scales.items()}
        return cls(
            parts={kind: (mean[kind].item(), deviation[kind].item()) for kind in mean},
            roles={
                role: (log.mean().item(), max(log.std(correction=0).item(), 0.1)) if len(log) else (0.0, 1.0)
                for role, log in logs.items()
            },
        )

    def standardize(self, tokens: Tokens) -> Float[Tensor, "T D+1"]:
        """Directions and log-scales; zeros where tokens are padded. Non-finite weights make their group non-finite."""
        table = self._table(tokens.plan)
        centred = torch.where(table.mask, (tokens.values.float() - table.mean) / table.deviation, 0)
        energy = torch.zeros_like(table.weights).index_add(0, table.group, centred.square().sum(-1))
        log_scale = (energy / table.weights).log() / 2
        log_scale = ((log_scale - table.log_mean) / table.log_deviation).clamp(-CLIP, CLIP)
        direction = centred / _scale(log_scale, table)[table.group, None]
        return torch.cat([direction, log_scale[table.group, None]], dim=-1)

    def restore(self, values: Float[Tensor, "T D+1"], plan: Plan) -> Float[Tensor, "T D"]:
        """Inverse of `standardize`. Where the tokens of a group disagree on its log-scale, their mean counts."""
        table = self._table(plan)
        log_scale = torch.zeros_like(table.weights).index_add(0, table.group, values[:, -1]) / table.tokens
        scale = _scale(log_scale.clamp(-CLIP, CLIP), table)[table.group, None]
        return torch.where(table.mask, values[:, :-1] * scale * table.deviation + table.mean, 0)

    def save(self, path: Path) -> None:
        """Writes the statistics as JSON (a float's shortest decimal form reads back to the same bits)."""
        write_json(path, {"parts": self.parts, "roles": self.roles})

    @classmethod
    def load(cls, path: Path) -> "Standardizer":
        """Reads what `save` wrote. Raises `InputError` if the file is missing or not such a file."""
        try:
            stored = json.loads(path.read_text())
            moments = {name: {key: (float(m), float(d)) for key, (m, d) in stored[name].items()} for name in ("parts", "roles")}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"cannot read the statistics of the run at {path} ({error}); train the run again") from error
        return cls(**moments)

    def _table(self, plan: Plan) -> _Table:
        """Statistics laid out along the tokens of a plan. Raises `InputError` for parts that the fit has not seen."""
        if plan not in self._tables:
            unseen = sorted({segment.kind for segment in _segments(plan)} - self.parts.keys())
            if unseen:
                raise InputError(
                    f"the run has no statistics of {', '.join(unseen)}: none of its train checkpoints has them; "
                    "train on a zoo that contains such models"
                )
            self._tables[plan] = _lay_out(self, plan)
        return self._tables[plan]


def _segments(plan: Plan) -> list[Segment]:
    """Parts of a plan, group by group."""
    return [segment for group in plan.groups for segment in group.segments]


def _spread(plan: Plan, numbers: Sequence[float], blank: float) -> Float[Tensor, "T D"]:
    """A number per part, written wherever the part has a weight; `blank` where nothing has."""
    spread = torch.full((plan.n_tokens, plan.width), blank, dtype=torch.float32)
    for segment, number in zip(_segments(plan), numbers, strict=True):
        segment.of(spread).fill_(number)
    return spread


def _lay_out(standardizer: "Standardizer", plan: Plan) -> _Table:
    """Lays statistics out along the tokens of a plan."""
    parts = [standardizer.parts[segment.kind] for segment in _segments(plan)]
    roles = [standardizer.roles[group.role] for group in plan.groups]
    tokens = torch.tensor([group.stop - group.start for group in plan.groups])
    return _Table(
        mean=_spread(plan, [mean for mean, _ in parts], 0),
        deviation=_spread(plan, [deviation for _, deviation in parts], 1),
        mask=plan.mask,
        group=torch.arange(len(plan.groups)).repeat_interleave(tokens),
        weights=torch.tensor([float(group.n_weights) for group in plan.groups]),
        tokens=tokens.float(),
        log_mean=torch.tensor([mean for mean, _ in roles]),
        log_deviation=torch.tensor([deviation for _, deviation in roles]),
    )


def _sums(tokens: Tokens) -> Float[Tensor, "parts 3"]:
    """Count, sum and sum of squares of each part, in double precision."""
    parts = [segment.of(tokens.values).flatten().double() for segment in _segments(tokens.plan)]
    return torch.stack([torch.stack([torch.tensor(len(x)).double(), x.sum(), x.square().sum()]) for x in parts])


def _squares_about(mean: Tensor, row: Float[Tensor, "3 N"]) -> Float[Tensor, " N"]:
    """Sum of squares about a given mean, from count, sum and sum of squares."""
    count, total, square = row
    return (square - 2 * mean * total + count * mean**2).clamp(min=0)


def _typical_size(squares: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    """Root of the upper decile of mean squares; 1 if that is zero."""
    size = squares.quantile(UPPER).sqrt()
    return size if size > 0 else torch.ones_like(size)


def _scale(log_scale: Float[Tensor, " G"], table: _Table) -> Float[Tensor, " G"]:
    """The scale that a standardised log-scale stands for."""
    return (table.log_mean + table.log_deviation * log_scale).exp()
