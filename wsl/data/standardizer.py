"""Standardisation of tokens: per-part mean and deviation, and the scale of each group kept apart from its direction.

Task vectors span orders of magnitude from one optimizer to the next, so after a plain z-score a few wild models would own
every loss. With x a value of a part, and s the root mean square of u over a group (the tokens of one role in one block),

    u = (x - mean_part) / deviation_part,  l = clip((log s - mean_role) / deviation_role),  token = (u / scale(l), l)

where scale(l) = exp(mean_role + deviation_role l): tokens carry a direction of unit root mean square, and the standardised
log-scale is one more coordinate of each. The inverse is exact up to rounding, clipped or not, because scale(l) divides.
Means of parts are medians over the train checkpoints (and blocks), deviations upper deciles: a diverging model moves neither.
A part that only some optimizers move (a key's bias has no gradient, so SGD leaves it alone) is measured where it moves, or
it would outweigh its whole group there.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wsl.tokenizers.plan import Plan
from wsl.tokenizers.tokens import Tokens
from wsl.tokenizers.window import Sums, Window, sums_in
from zoo_gen.errors import InputError
from zoo_gen.files import write_json

UPPER = 0.9
"""Quantile of a part's size over the train checkpoints that stands for its deviation."""

CLIP = 5.0
"""Log-scales are clipped at this many deviations (the direction then has more, or less, than unit scale)."""

Moments = tuple[float, float]
"""Mean and deviation."""


@dataclass(frozen=True)
class _Statistics:
    """Statistics of one plan: an entry per part and one for padding (R + 1), per part (R) or per group (G)."""

    mean: Float[Tensor, " R+1"]
    deviation: Float[Tensor, " R+1"]
    counts: Float[Tensor, " R"]
    group: Int[Tensor, " R"]
    weights: Float[Tensor, " G"]
    tokens: Float[Tensor, " G"]
    log_mean: Float[Tensor, " G"]
    log_deviation: Float[Tensor, " G"]

    def scale(self, log_scale: Float[Tensor, " G"]) -> Float[Tensor, " G"]:
        """Returns the scale that a standardised log-scale stands for."""
        return (self.log_mean + self.log_deviation * log_scale).exp()


class Standardizer:
    """Map from tokens (T D) to standardised tokens (T D+1) and back, fitted on train checkpoints.

    Args:
        parts: mean and deviation of each kind of part (the same part of every block), by its block-free key.
        roles: mean and deviation of the log-scale of the groups of each role.
    """

    def __init__(self, *, parts: Mapping[str, Moments], roles: Mapping[str, Moments]):
        self.parts, self.roles = dict(parts), dict(roles)
        self._statistics: dict[int, tuple[Plan, _Statistics]] = {}  # by identity: hashing a plan takes as long as a window does

    @classmethod
    def fit(cls, checkpoints: Iterable[tuple[Plan, Sums]]) -> "Standardizer":
        """Fits all statistics in one pass. Checkpoints with a non-finite weight are left out; tensors of zeros are no evidence.

        Raises `InputError` if no checkpoint is finite.
        """
        rows: dict[Plan, list[Tensor]] = defaultdict(list)
        for plan, sums in checkpoints:
            if sums.isfinite().all():
                rows[plan].append(sums)
        if not rows:
            raise InputError(
                "no train checkpoint has finite weights, so there is nothing to fit statistics on; "
                "look at the status column of the zoo's index"
            )
        mean: dict[str, Tensor] = {}
        deviation: dict[str, Tensor] = {}
        for kind in dict.fromkeys(segment.kind for plan in rows for segment in plan.parts):
            columns = []  # of one kind at a time: all at once would be in memory a second and a third time
            for plan in rows:
                columns += _columns(rows[plan], {n: s.n_weights for n, s in enumerate(plan.parts) if s.kind == kind})
            mean[kind] = torch.cat([total / count for count, total, _ in columns]).median()
            squares = torch.cat([_squares_about(mean[kind], *column) / column[0] for column in columns])
            size = squares.quantile(UPPER).sqrt()
            deviation[kind] = size if size > 0 else torch.ones_like(size)
        scales = defaultdict(list)
        for plan in rows:
            number = 0
            for group in plan.groups:
                columns = _columns(rows[plan], {number + n: s.n_weights for n, s in enumerate(group.segments)})
                number += len(columns)
                kinds = [segment.kind for segment in group.segments]
                energies = (_squares_about(mean[k], *column) / deviation[k] ** 2 for k, column in zip(kinds, columns, strict=True))
                scales[group.role].append(torch.as_tensor(sum(energies)) / group.n_weights)
        logs = {role: torch.cat(values)[torch.cat(values) > 0].log() / 2 for role, values in scales.items()}
        return cls(
            parts={kind: (mean[kind].item(), deviation[kind].item()) for kind in mean},
            roles={
                role: (log.mean().item(), max(log.std(correction=0).item(), 0.1)) if len(log) else (0.0, 1.0)
                for role, log in logs.items()
            },
        )

    def standardize(self, tokens: Tokens) -> Float[Tensor, "T D+1"]:
        """Returns directions and log-scales; zeros where tokens are padded. Non-finite weights make their group non-finite."""
        plan = tokens.plan
        whole = Window(plan, 0, plan.n_tokens, plan.part_of, plan.group_of, plan.positions, ())
        return self.standardize_window(tokens.values, whole, self.log_scales(plan, sums_in(plan, tokens.values)))

    def log_scales(self, plan: Plan, sums: Sums) -> Float[Tensor, " G"]:
        """Returns standardised log-scales of the groups of a checkpoint; not finite where its weights are not."""
        of_plan = self._of(plan)
        mean, deviation = (statistic[:-1].double() for statistic in (of_plan.mean, of_plan.deviation))
        energies = _squares_about(mean, of_plan.counts, *sums.T) / deviation**2
        energy = torch.zeros(len(plan.groups), dtype=torch.float64).index_add_(0, of_plan.group, energies)
        log_scale = (energy / of_plan.weights).log().float() / 2
        return ((log_scale - of_plan.log_mean) / of_plan.log_deviation).clamp(-CLIP, CLIP)

    def standardize_window(
        self, values: Float[Tensor, "T D"], window: Window, log_scales: Float[Tensor, " G"]
    ) -> Float[Tensor, "T D+1"]:
        """Returns tokens of a window as `standardize` has them, to the bit, given the log-scales of the whole checkpoint."""
        of_plan, parts, groups = self._of(window.plan), window.parts, window.groups
        centred = (values.float() - of_plan.mean[parts]) / of_plan.deviation[parts]
        direction = centred / of_plan.scale(log_scales)[groups, None]
        return torch.cat([torch.where(parts >= 0, direction, 0), log_scales[groups, None]], dim=-1)

    def restore(self, values: Float[Tensor, "T D+1"], plan: Plan) -> Float[Tensor, "T D"]:
        """Inverts `standardize`. Where the tokens of a group disagree on its log-scale, their mean counts."""
        of_plan = self._of(plan)
        log_scale = torch.zeros_like(of_plan.weights).index_add(0, plan.group_of, values[:, -1]) / of_plan.tokens
        scale = of_plan.scale(log_scale.clamp(-CLIP, CLIP))[plan.group_of, None]
        mean, deviation = of_plan.mean[plan.part_of], of_plan.deviation[plan.part_of]
        return torch.where(plan.mask, values[:, :-1] * scale * deviation + mean, 0)

    def in_deviations(self, tokens: Tokens) -> Float[Tensor, "T D"]:
        """Returns values over the deviations of their parts: changes in the units of directions, but for the scale of a group."""
        of_plan, plan = self._of(tokens.plan), tokens.plan
        return torch.where(plan.mask, tokens.values.float() / of_plan.deviation[plan.part_of], 0)

    def save(self, path: Path) -> None:
        """Writes the statistics as JSON (a float's shortest decimal form reads back to the same bits)."""
        write_json(path, {"parts": self.parts, "roles": self.roles})

    @classmethod
    def load(cls, path: Path) -> "Standardizer":
        """Reads what `save` wrote. Raises `InputError` if the file is missing or not such a file."""
        try:
            stored = json.loads(path.read_text())
            moments = {name: {key: (float(m), float(d)) for key, (m, d) in stored[name].items()} for name in ("parts", "roles")}
        except (OSError, ValueError, OverflowError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"cannot read the statistics of the run at {path} ({error}); train the run again") from error
        return cls(**moments)

    def _of(self, plan: Plan) -> _Statistics:
        """Returns the statistics of a plan. Raises `InputError` for parts that the fit has not seen."""
        if id(plan) not in self._statistics:
            unseen = sorted({segment.kind for segment in plan.parts} - self.parts.keys())
            if unseen:
                raise InputError(
                    f"the run has no statistics of {', '.join(unseen)}: none of its train checkpoints has them; "
                    "train on a zoo that contains such models"
                )
            mean, deviation = torch.tensor([*(self.parts[segment.kind] for segment in plan.parts), (0.0, 1.0)]).T.contiguous()
            log_mean, log_deviation = torch.tensor([self.roles[group.role] for group in plan.groups]).T.contiguous()
            self._statistics[id(plan)] = (
                plan,
                _Statistics(
                    mean=mean,
                    deviation=deviation,
                    counts=torch.tensor([float(segment.n_weights) for segment in plan.parts], dtype=torch.float64),
                    group=torch.tensor([g for g, group in enumerate(plan.groups) for _ in group.segments]),
                    weights=torch.tensor([float(group.n_weights) for group in plan.groups]),
                    tokens=torch.tensor([float(group.stop - group.start) for group in plan.groups]),
                    log_mean=log_mean,
                    log_deviation=log_deviation,
                ),
            )
        return self._statistics[id(plan)][1]


def _columns(rows: Sequence[Sums], counts: Mapping[int, int]) -> list[tuple[int, Tensor, Tensor]]:
    """Returns count, sums and sums of squares (N) of some parts, given by number with their counts, of N checkpoints."""
    index = torch.tensor([*counts], dtype=torch.long)
    sums = torch.stack([row[index] for row in rows])
    return [(count, sums[:, n, 0], sums[:, n, 1]) for n, count in enumerate(counts.values())]


def _squares_about(
    mean: Tensor, count: Tensor | int, total: Float[Tensor, " N"], square: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Sum of squares about a given mean, from count, sum and sum of squares."""
    return (square - 2 * mean * total + count * mean**2).clamp(min=0)
