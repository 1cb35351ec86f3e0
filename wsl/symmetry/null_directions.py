r"""Null directions: changes of weights without any effect on the outputs, folded away and unfolded again.

The rules of a layout (`wsl.layout.lookup`) name them. Folding brings each to one form and keeps the function; x̂ is a
standardised vector of n features, which sum to zero where the norm is known to remove the mean (one with a shift does; one with
a scale alone may be an RMSNorm, unless the layout is of a model), and **1** is the vector of ones:

    norm    W(γ x̂ + β) + b      =  A x̂ + (b + Wβ),  A = W diag(γ)(1 - **11**ᵀ/n)        γ = 1, β = 0
            W(γ x̂ + β)          =  (A + Wβ **1**ᵀ/n)(x̂ + **1**)   for layers without bias   γ = 1, β = **1**
    bias    Σᵢ aᵢ (v + β) W + b  =  Σᵢ aᵢ v W + (b + Wβ)   as attention weights aᵢ sum to 1   β = 0
            q·(k + β)            =  q·k + constant over the keys, which the softmax removes   β = 0
    scale   γ (W h + b)          =  (γ W) h + γ b                                           γ = 1
    sum     a + b                = 0 + (a + b)                                              a = 0
    mean    vectors written to a stream that only norms read may have any mean over features   0
            so may queries and keys that a norm reads
    constant   W c + b for a layer that reads one vector c alone  =  0 + (b + W c)          W = 0, c = 0
    batch, positive      `wsl.symmetry.scales`

The gauge of a model is the part that folding removes. Unfolding a folded model in its own gauge gives it back; unfolding it in
another gauge gives another model of the same function. So a random null direction is a random gauge.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from wsl.layout.slots import Layout, Rule, Slot
from wsl.symmetry import scales

Gauge = dict[str, Tensor]
"""The part that folding removes, by tensor; `name:mean` is a mean over output features, `name:input` over input features."""

NULLS = (*scales.VERBS, "norm", "bias", "scale", "sum", "mean", "constant")
"""The kinds of null directions, in the order of folding."""


def fold(weights: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], Gauge]:
    """Moves a stack (K, *shape) along its null directions to the one form without them.

    Returns:
        The folded stack, new tensors where anything changes, and its gauge.
    """
    w = layout.turn(weights)
    gauge: Gauge = {}
    slots = {slot.name: slot for slot in layout.slots}
    for rule in _rules(layout):
        _FOLDS[rule.verb](w, rule, gauge, slots)
    return layout.turn(w), gauge


def unfold(weights: Mapping[str, Tensor], gauge: Gauge, layout: Layout) -> dict[str, Tensor]:
    """Puts a folded stack (K, *shape) into a gauge: the inverse of `fold` if it is the stack's own."""
    w = layout.turn(weights)
    slots = {slot.name: slot for slot in layout.slots}
    for rule in reversed(_rules(layout)):
        _UNFOLDS[rule.verb](w, rule, gauge, slots)
    return layout.turn(w)


def random_gauge(own: Gauge, layout: Layout, generator: torch.Generator, *, nulls: Collection[str], strength: float) -> Gauge:
    """Replaces a stack's gauge by a random one in the null directions named (of `NULLS`), and keeps the rest.

    Args:
        own: the gauge of the stack, from `fold`.
        layout: of the stack.
        generator: draws log-normal scales, normal biases and means.
        nulls: which kinds are replaced.
        strength: standard deviation of biases, means and logarithms of scales.
    """
    gauge = dict(own)
    names = {slot.name for slot in layout.slots}

    for rule in _rules(layout):
        if rule.verb not in nulls:
            continue
        for name in filter(own.__contains__, _keys(rule)):
            like = own[name]
            drawn = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)
            if rule.verb in scales.VERBS:
                gauge[name] = scales.draw(name, strength * drawn)
            else:
                is_scale = rule.verb == "scale" or name == f"{rule.source}.weight"
                gauge[name] = (strength * drawn).exp() if is_scale else strength * drawn
        shift = f"{rule.source}.bias"
        if rule.verb == "norm" and shift in own and any(f"{layer}.bias" not in names for layer in rule.targets):
            gauge[shift] = 1 + gauge[shift]  # a layer without bias reads its constant off the mean of the shift
    return gauge


def _keys(rule: Rule) -> list[str]:
    if rule.verb == "norm":
        return [f"{rule.source}.weight", f"{rule.source}.bias", *(f"{layer}.weight:input" for layer in rule.targets)]
    if rule.verb in scales.VERBS:
        return scales.keys_of(rule)
    if rule.verb == "constant":
        return [rule.source, f"{rule.targets[0]}.weight"]
    return [f"{_key(rule)}:mean" if rule.verb == "mean" else _key(rule)]


def _key(rule: Rule) -> str:
    return rule.source if rule.part is None else f"{rule.source}[{rule.part}]"


def _rules(layout: Layout) -> list[Rule]:
    """Returns the rules that act, in the order of folding."""
    rules = [rule for rule in layout.rules if rule.verb not in ("norm", "scale") or rule.targets]
    return sorted(rules, key=lambda rule: NULLS.index(rule.verb))


def _fold_norm(w: dict[str, Tensor], rule: Rule, gauge: Gauge, slots: Mapping[str, Slot]) -> None:
    scale, shift = f"{rule.source}.weight", f"{rule.source}.bias"
    beta = w.get(shift)
    if scale in w:
        gauge[scale] = w[scale]
        w[scale] = torch.ones_like(w[scale])
    for layer in rule.targets:
        name = f"{layer}.weight"
        matrix = w[name].flatten(2) * gauge[scale].unsqueeze(1) if scale in w else w[name].flatten(2)
        if rule.form == "layer":
            mean = matrix.mean(-1)
            matrix = matrix - mean.unsqueeze(-1)
            gauge[f"{name}:input"] = mean
        if beta is not None:
            constant = (w[name].flatten(2) @ beta.unsqueeze(-1)).squeeze(-1)
            if f"{layer}.bias" in w:
                w[f"{layer}.bias"] = w[f"{layer}.bias"] + constant
            else:
                matrix = matrix + constant.unsqueeze(-1) / matrix.shape[-1]
        w[name] = matrix.view_as(w[name])
    if beta is not None:
        gauge[shift] = beta
        w[shift] = torch.full_like(beta, float(any(f"{layer}.bias" not in w for layer in rule.targets)))


def _unfold_norm(w: dict[str, Tensor], rule: Rule, gauge: Gauge, slots: Mapping[str, Slot]) -> None:
    scale, shift = f"{rule.source}.weight", f"{rule.source}.bias"
    gamma, beta = gauge.get(scale), gauge.get(shift)
    if gamma is None:
        gamma = torch.ones_like(w[f"{rule.targets[0]}.weight"].flatten(2)[:, 0])
    else:
        w[scale] = gamma
    inverse = torch.where(gamma == 0, 0, 1 / gamma)  # weights that a scale of zero hides are lost
    if beta is not None:
        beta = w[shift] = _readable(w, rule, gauge, beta, gamma)
    for layer in rule.targets:
        name = f"{layer}.weight"
        matrix = w[name].flatten(2)
        if beta is not None and f"{layer}.bias" in w:
            mean = gauge.get(f"{name}:input", torch.zeros_like(matrix[..., 0]))
            matrix = (matrix + mean.unsqueeze(-1)) * inverse.unsqueeze(1)
            w[f"{layer}.bias"] = w[f"{layer}.bias"] - (matrix @ beta.unsqueeze(-1)).squeeze(-1)
        elif beta is not None:
            missing, total = _missing(matrix, gauge[f"{name}:input"], beta * inverse)
            mean = gauge[f"{name}:input"] + torch.where(_vanishes(total), 0, missing / total)
            matrix = (matrix - matrix.mean(-1, keepdim=True) + mean.unsqueeze(-1)) * inverse.unsqueeze(1)
        elif rule.form == "layer":
            matrix = (matrix + gauge[f"{name}:input"].unsqueeze(-1)) * inverse.unsqueeze(1)
        else:
            matrix = matrix * inverse.unsqueeze(1)
        w[name] = matrix.view_as(w[name])


def _readable(w: Mapping[str, Tensor], rule: Rule, gauge: Gauge, beta: Tensor, gamma: Tensor) -> Tensor:
    """Adds the scale to a shift off whose vanishing mean some layer without bias cannot read its constant."""
    ratio = torch.where(gamma == 0, 0, beta / gamma)
    for layer in rule.targets:
        if f"{layer}.bias" not in w:
            matrix = w[f"{layer}.weight"].flatten(2)
            missing, total = _missing(matrix, gauge[f"{layer}.weight:input"], ratio)
            hidden = missing.norm(dim=-1, keepdim=True) > 1e-9 * matrix.flatten(1).norm(dim=-1, keepdim=True)
            beta = torch.where(_vanishes(total) & hidden, beta + gamma, beta)
            ratio = torch.where(gamma == 0, 0, beta / gamma)
    return beta


def _missing(matrix: Tensor, mean: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the constant that a folded layer without bias (K, out, in) lacks in a gauge, and the constant of a unit of mean."""
    centred = matrix - matrix.mean(-1, keepdim=True)
    total = ratio.sum(-1, keepdim=True)
    return matrix.sum(-1) - (centred @ ratio.unsqueeze(-1)).squeeze(-1) - mean * total, total


def _vanishes(total: Tensor) -> Tensor:
    return total.abs() < 1e-3


def _part(w: Mapping[str, Tensor], rule: Rule, slots: Mapping[str, Slot]) -> Tensor:
    """Returns the part of a rule along a tensor's first axis, as a view."""
    if rule.part is None:
        return w[rule.source]
    slot = slots[rule.source]
    return w[rule.source][:, slot.start(rule.part) : slot.start(rule.part + 1)]


def _fold_bias(w: dict[str, Tensor], rule: Rule, gauge: Gauge, slots: Mapping[str, Slot]) -> None:
    gauge[_key(rule)] = _part(w, rule, slots).clone()
    _put_bias(w, rule, slots, moved=gauge[_key(rule)], rest=0)


def _unfold_bias(w: dict[str, Tensor], rule: Rule, gauge: Gauge, slots: Mapping[str, Slot]) -> None:
    _put_bias(w, rule, slots, moved=-gauge[_key(rule)], rest=gauge[_key(rule)])


def _put_bias(w: dict[str, Tensor], rule: Rule, slots: Mapping[str, Slot], *, moved: Tensor, rest: Tensor | int) -> None:
    for layer in rule.targets:
        w[f"{layer}.bias"] = w[f"{layer}.bias"] + (w[f"{layer}.weight"].flatten(2) @ moved.unsqueeze(-1)).squeeze(-1)
    w[rule.source] = w[rule.source].clone()
    _part(w, rule, slots)[:] = rest


def _fold_scale(w: dict[str, Tensor], rule: Rule, gauge: Gauge, slots: Mapping[str, Slot]) -> None:
    factor = gauge[rule.source] = w[rule.source]
    _put_scale(w, rule, moved=factor, rest=torch.ones_like(factor))


def _unfold_scale(w: dict[str, Tensor], rule: Rule, gauge: Gauge, slots: Mapping[str, Slot]) -> None:
    factor = gauge[rule.source]
    _put_scale(w, rule, moved=torch.where(factor == 0, 0, 1 / factor), rest=factor)


def _put_scale(w: dict[str, Tensor], rule: Rule, *, moved: Tensor, rest: Tensor) -> None:
    for name in (f"{layer}.{kind}" for layer in rule.targets for kind in ("weight", "bias")):
        if name in w:
            w[name] = w[name] * moved.view(*moved.shape, *(1,) * (w[name].ndim - 2))
    w[rule.source] = rest


def _fold_sum(w: dict[str, Tensor], rule: Rule, gauge: Gauge, slots: Mapping[str, Slot]) -> None:
    gauge[rule.source] = w[rule.source]
    w[rule.targets[0]] = w[rule.targets[0]] + w[rule.source]
    w[rule.source] = torch.zeros_like(w[rule.source])


def _unfold_sum(w: dict[str, Tensor], rule: Rule, gauge: Gauge, slots: Mapping[str, Slot]) -> None:
    w[rule.source] = gauge[rule.source]
    w[rule.targets[0]] = w[rule.targets[0]] - gauge[rule.source]


def _fold_mean(w: dict[str, Tensor], rule: Rule, gauge: Gauge, slots: Mapping[str, Slot]) -> None:
    part, shape, dim = _spread(w, rule, slots)
    mean = gauge[f"{_key(rule)}:mean"] = part.reshape(shape).mean(dim, keepdim=True)
    _add(w, rule, slots, (-mean).expand(shape).reshape(part.shape))


def _unfold_mean(w: dict[str, Tensor], rule: Rule, gauge: Gauge, slots: Mapping[str, Slot]) -> None:
    part, shape, _ = _spread(w, rule, slots)
    _add(w, rule, slots, gauge[f"{_key(rule)}:mean"].expand(shape).reshape(part.shape))


def _spread(w: Mapping[str, Tensor], rule: Rule, slots: Mapping[str, Slot]) -> tuple[Tensor, list[int], int]:
    """Returns the part of a rule of a mean, a shape of it in which the axis of the mean has a dimension, and that dimension."""
    part, axes = _part(w, rule, slots), slots[rule.source].parts[rule.part or 0].axes
    if not rule.targets:
        return part, list(part.shape), next(i for i, dim in enumerate(axes, 1) if any(axis.kind == "resid" for axis in dim))
    size = len(w[f"{rule.targets[0]}.weight"][0])
    many, last = part.shape[1] // size, axes[0][-1].kind == "dim"
    return part, [len(part), *((many, size) if last else (size, many)), *part.shape[2:]], 2 if last else 1


def _add(w: dict[str, Tensor], rule: Rule, slots: Mapping[str, Slot], change: Tensor) -> None:
    if rule.part is None:
        w[rule.source] = w[rule.source] + change
    else:
        w[rule.source] = w[rule.source].clone()
        _part(w, rule, slots).add_(change)


def _fold_constant(w: dict[str, Tensor], rule: Rule, gauge: Gauge, slots: Mapping[str, Slot]) -> None:
    names = (rule.source, f"{rule.targets[0]}.weight")
    gauge |= {name: w[name] for name in names}
    w[f"{rule.targets[0]}.bias"] = w[f"{rule.targets[0]}.bias"] + _applied(gauge, *names)
    w |= {name: torch.zeros_like(w[name]) for name in names}


def _unfold_constant(w: dict[str, Tensor], rule: Rule, gauge: Gauge, slots: Mapping[str, Slot]) -> None:
    names = (rule.source, f"{rule.targets[0]}.weight")
    w[f"{rule.targets[0]}.bias"] = w[f"{rule.targets[0]}.bias"] - _applied(gauge, *names)
    w |= {name: gauge[name] for name in names}


def _applied(gauge: Gauge, vector: str, matrix: str) -> Tensor:
    return (gauge[matrix] @ gauge[vector].flatten(1).unsqueeze(-1)).squeeze(-1)


_FOLDS = scales.FOLDS | {
    "norm": _fold_norm,
    "bias": _fold_bias,
    "scale": _fold_scale,
    "sum": _fold_sum,
    "mean": _fold_mean,
    "constant": _fold_constant,
}
_UNFOLDS = scales.UNFOLDS | {
    "norm": _unfold_norm,
    "bias": _unfold_bias,
    "scale": _unfold_scale,
    "sum": _unfold_sum,
    "mean": _unfold_mean,
    "constant": _unfold_constant,
}
