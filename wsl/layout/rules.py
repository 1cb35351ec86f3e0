"""Rules of a checkpoint: the null directions of its table (`wsl.layout.lookup` explains them) for the tensors that it has."""

import re
from collections.abc import Iterator, Mapping, Sequence

from wsl.layout.slots import Rule, Slot


def rules_of(
    written: Sequence[tuple[str, tuple[str, ...], tuple[str, ...]]],
    slots: tuple[Slot, ...],
    bindings: Sequence[dict[str, str]],
    norms: Mapping[str, str],
) -> tuple[Rule, ...]:
    """Returns a table's rules for the tensors of a checkpoint.

    Args:
        written: verb, sources and targets of each rule of the table.
        slots: of the checkpoint.
        bindings: the values of the placeholders in each tensor's name.
        norms: the forms of norms ("layer" or "rms"), by name; a norm with a shift removes the mean, others without form may.
    """
    found = tuple(dict.fromkeys(_rules(written, slots, bindings, norms)))
    return tuple(rule for rule in _without_effect(found, slots) if rule.verb != "bare")


def _rules(
    written: Sequence[tuple[str, tuple[str, ...], tuple[str, ...]]],
    slots: tuple[Slot, ...],
    bindings: Sequence[dict[str, str]],
    norms: Mapping[str, str],
) -> Iterator[Rule]:
    """Yields rules; a norm or scale that nothing can take over has no targets, a norm that is not there is `bare`."""
    names = {slot.name for slot in slots}

    def form(norm: str) -> str:
        """Returns the form of a norm, empty where there is none."""
        shift = "layer" if f"{norm}.bias" in names else "unknown" if f"{norm}.weight" in names else ""
        return norms.get(norm, shift)

    for verb, sources, targets in written:
        holes = set(re.findall(r"{(\w+)}", " ".join(sources)))
        filled = {tuple((hole, values[hole]) for hole in sorted(holes)) for values in bindings if holes <= set(values)}
        for values in map(dict, sorted(filled)):
            layers = [target.format(**values) for target in targets]
            for text in sources:
                match = re.fullmatch(r"(.+?)(?:\[(\d+)\])?", text.format(**values))
                assert match
                source, part = match[1], None if match[2] is None else int(match[2])
                present = [name for name in (source, f"{source}.weight", f"{source}.bias") if name in names]
                if verb == "mean" and part is not None:
                    centred = tuple(norm for norm in layers if form(norm) == "layer" and f"{norm}.weight" in names)
                    yield from (Rule(verb, name, part, centred) for name in present if centred)
                elif verb == "mean":
                    if layers == ["nothing"] or any(form(norm) for norm in layers):
                        yield from (Rule(verb, name, None, ()) for name in present)
                elif verb == "sum":
                    yield from (Rule(verb, name, None, (layer,)) for name in present for layer in layers if layer in names - {name})
                elif verb == "constant":
                    found = tuple(layer for layer in layers if {f"{layer}.weight", f"{layer}.bias"} <= names)
                    yield from (Rule(verb, name, None, found) for name in present if found)
                elif verb == "bias":
                    found = tuple(layer for layer in layers if f"{layer}.bias" in names)
                    if present and (found or layers == ["nothing"]):
                        yield Rule(verb, source, part, found)
                elif verb == "norm":  # one that is not there leaves its layers bare
                    found = tuple(layer for layer in layers if f"{layer}.weight" in names)
                    yield Rule(verb if form(source) else "bare", source, part, found, form(source))
                elif verb == "batch":
                    own = {f"{source}.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")}
                    if {*own, f"{layers[0]}.weight"} <= names:
                        yield Rule(verb, source, None, (layers[0],), norms.get(source, ""))
                elif verb == "positive":
                    if layers[0] in names:
                        yield Rule(verb, source, None, tuple(layer for layer in layers if layer in names))
                elif present:  # scale
                    yield Rule(verb, source, part, tuple(layer for layer in layers if f"{layer}.weight" in names))


def _without_effect(rules: Sequence[Rule], slots: tuple[Slot, ...]) -> Iterator[Rule]:
    """Yields the rules but for means of streams whose mean counts: some norm keeps it, or some layer reads without a norm."""
    axes = {slot.name: slot.parts[0].axes for slot in slots}
    normed = {layer for rule in rules if rule.verb == "norm" for layer in rule.targets}
    bare = {f"{layer}.weight" for rule in rules if rule.verb == "bare" for layer in rule.targets if layer not in normed}
    read = {axis for name in bare for dim in axes[name][1:] for axis in dim if axis.kind == "resid"}
    for rule in rules:
        if rule.verb == "norm" and rule.form != "layer":
            weight = axes.get(f"{rule.source}.weight")
            dims = [weight[0]] if weight else [dim for layer in rule.targets for dim in axes[f"{layer}.weight"][1:]]
            read |= {axis for dim in dims for axis in dim if axis.kind == "resid"}
    for rule in rules:
        stream = [axis for dim in axes.get(rule.source, ()) for axis in dim if axis.kind == "resid"]
        if rule.verb != "mean" or rule.targets or stream[0] not in read:
            yield rule
