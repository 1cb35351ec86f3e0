r"""Null directions of batch norms, and positive factors of neurons: their part of `wsl.symmetry.null_directions`.

A batch norm in evaluation is the affine map :math:`a\,x + \beta - a\mu` with :math:`a = \gamma / \sqrt{v + \epsilon}`, where
:math:`\mu` and :math:`v` are its running mean and variance. Of the layer before it, :math:`x = W h + b`, and of the norm only
:math:`a W` and :math:`\beta + a (b - \mu)` matter. A state dict does not tell epsilon. Without it the bias still moves into the
mean, and the sign of the scale into the layer.

A neuron whose activation is positively homogeneous, :math:`\sigma(s x) = s\,\sigma(x)` for s > 0, may have any positive factor that
the next layers take back: the first tensor that writes it gets rows of norm 1.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from wsl.layout.slots import Rule, Slot

VERBS = ("batch", "positive")
"""The kinds of rules of this module."""


def keys_of(rule: Rule) -> list[str]:
    """Returns the names that the gauge of a rule may have."""
    norm = rule.source
    if rule.verb == "positive":
        return [f"{norm}:factor"]
    of_norm = (f"{norm}.{kind}" for kind in ("weight", "running_mean", "running_var"))
    return [f"{rule.targets[0]}.bias", f"{norm}.weight:sign", *of_norm]


def draw(name: str, drawn: Tensor) -> Tensor:
    """Makes an entry of a random gauge of normal numbers (K, n): log-normal factors and variances, scales of any sign, shifts."""
    sign = torch.where(drawn < 0, -1, 1).to(drawn)
    if name.endswith(":sign"):
        return sign
    if name.endswith(".weight"):
        return sign * drawn.flip(-1).exp()
    return drawn.exp() if name.endswith((":factor", ".running_var")) else drawn


def fold_batch(w: dict[str, Tensor], rule: Rule, gauge: dict[str, Tensor], slots: Mapping[str, Slot]) -> None:
    """Folds a batch norm into the layer before it: scale 1, mean 0, variance 1 - epsilon."""
    scale, shift, mean, variance, weight, bias = _names(rule)
    if bias in w:
        gauge[bias] = w[bias]
        w |= {mean: w[mean] - w[bias], bias: torch.zeros_like(w[bias])}
    if not rule.form:
        sign = gauge[f"{scale}:sign"] = torch.where(w[scale] < 0, -1, 1).to(w[scale])
        w |= {weight: _by_rows(w[weight], sign), scale: w[scale] * sign, mean: w[mean] * sign}
        return
    gauge |= {name: w[name] for name in (scale, mean, variance)}
    slope = w[scale] / (w[variance] + float(rule.form)).sqrt()
    w |= {shift: w[shift] - slope * w[mean], weight: _by_rows(w[weight], slope), mean: torch.zeros_like(w[mean])}
    w |= {scale: torch.ones_like(w[scale]), variance: torch.full_like(w[variance], 1 - float(rule.form))}


def unfold_batch(w: dict[str, Tensor], rule: Rule, gauge: dict[str, Tensor], slots: Mapping[str, Slot]) -> None:
    """Puts a folded batch norm into a gauge."""
    scale, shift, mean, variance, weight, bias = _names(rule)
    if not rule.form:
        sign = gauge[f"{scale}:sign"]
        w |= {weight: _by_rows(w[weight], sign), scale: w[scale] * sign, mean: w[mean] * sign}
    else:
        w |= {name: gauge[name] for name in (scale, mean, variance)}
        slope = w[scale] / (w[variance] + float(rule.form)).sqrt()
        inverse = torch.where(slope == 0, 0, 1 / slope)  # weights that a scale of zero hides are lost
        w |= {shift: w[shift] + slope * w[mean], weight: _by_rows(w[weight], inverse)}
    if bias in w:
        w |= {bias: gauge[bias], mean: w[mean] + gauge[bias]}


def fold_positive(w: dict[str, Tensor], rule: Rule, gauge: dict[str, Tensor], slots: Mapping[str, Slot]) -> None:
    """Gives the rows of the first tensor that writes an axis the norm 1."""
    norms = w[rule.targets[0]].flatten(2).norm(dim=-1)
    factor = gauge[f"{rule.source}:factor"] = torch.where(norms == 0, 1, norms)
    _scale(w, rule, 1 / factor, slots)


def unfold_positive(w: dict[str, Tensor], rule: Rule, gauge: dict[str, Tensor], slots: Mapping[str, Slot]) -> None:
    """Gives the entries of an axis their factors back."""
    _scale(w, rule, gauge[f"{rule.source}:factor"], slots)


def _scale(w: dict[str, Tensor], rule: Rule, factor: Tensor, slots: Mapping[str, Slot]) -> None:
    """Multiplies what writes an axis by factors (K, n), and divides what reads it."""
    w |= {name: _by_rows(w[name], factor) for name in rule.targets}
    for name, slot in slots.items():
        for d, dim in enumerate(slot.parts[0].axes):
            if d and dim[0].name == rule.source:  # channels vary slowest, places follow
                shape = [1] * w[name].ndim
                shape[0], shape[1 + d] = len(factor), -1
                w[name] = w[name] / factor.repeat_interleave(slot.shape[d] // factor.shape[1], dim=1).view(shape)


def _by_rows(tensor: Tensor, factor: Tensor) -> Tensor:
    return tensor * factor.view(*factor.shape, *(1,) * (tensor.ndim - 2))


def _names(rule: Rule) -> tuple[str, ...]:
    norm, layer = rule.source, rule.targets[0]
    of_norm = (f"{norm}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var"))
    return (*of_norm, f"{layer}.weight", f"{layer}.bias")


FOLDS = {"batch": fold_batch, "positive": fold_positive}
UNFOLDS = {"batch": unfold_batch, "positive": unfold_positive}
