"""Who descends from whom, and which files are epochs of one model."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from zoo_gen.adoption.scan import Found, LeftOut, epoch_of_trainer

Report = Callable[[LeftOut], None]


def with_own_names(found: Sequence[Found]) -> list[Found]:
    """Gives files of one name that tell no epoch models of their own: `a.pt` beside `a.safetensors`."""
    counts = Counter(one.model for one in found if _is_whole(one))
    named, taken = [], {one.model for one in found}
    for one in found:
        model = one.model
        if _is_whole(one) and counts[one.model] > 1:
            model = f"{one.model}-{''.join(one.path.suffixes[-1:]).lstrip('.') or 'folder'}"
            while model in taken:
                model += "_"
            taken.add(model)
        named.append(replace(one, model=model))
    return named


def _is_whole(one: Found) -> bool:
    return one.epoch is None and one.step is None and not one.word


def epochs_of(found: Sequence[Found], given: Mapping[Found, int], report: Report) -> list[tuple[int, Found]]:
    """Settles the epochs of the files of one model, in their order.

    Epochs are those of the table, or else those that names tell, one more for all where they count from 0. Steps of a Trainer are
    epochs where its state tells whole ones, and are counted elsewhere. Files called last or final come last.
    """
    if len(found) == 1:
        return [(given.get(found[0]) or found[0].epoch or 1, found[0])]
    shift = int(any(one.epoch == 0 for one in found) or 0 in given.values())
    told = {one: epoch + shift for one in found if (epoch := given.get(one, one.epoch)) is not None}
    stepped = sorted((one for one in found if one not in told and one.step is not None), key=lambda one: one.step or 0)
    states = [epoch_of_trainer(one.path) for one in stepped]
    whole = [int(state) for state in states if state is not None and state == int(state) and state >= 1]
    sure = len(whole) == len(stepped) and len(set(whole)) == len(whole)
    told |= dict(zip(stepped, whole if sure else range(1, len(stepped) + 1), strict=True))
    settled: dict[int, Found] = {}
    for one in sorted(told, key=lambda one: (told[one], one.name)):
        if other := settled.get(told[one]):
            report(LeftOut(one.name, f"it is of epoch {told[one]} of {one.model}, as {other.name} is"))
        else:
            settled[told[one]] = one
    rest = [one for one in found if one not in told]
    lasts = sorted((one for one in rest if one.word != "best"), key=lambda one: one.name)
    for one in rest:
        if one not in lasts[:1] and (settled or lasts):
            report(LeftOut(one.name, f"which epoch of {one.model} it is of is not known; a table (metrics=) can say so in 'epoch'"))
    for one in lasts[:1] or ([] if settled else sorted(rest, key=lambda one: one.name)[:1]):
        settled[max(settled, default=0) + 1] = one
    return sorted(settled.items())


def roots_and_parents(
    models: Sequence[str], root: Mapping[str, str], parent: Mapping[str, str], default: str | None, report: Report
) -> dict[str, tuple[str | None, str | None]]:
    """Returns the root and the parent of each model, None where nobody knows.

    Args:
        models: all there are.
        root: what a table says of some; a model may be its own.
        parent: what tables and model cards say of some.
        default: the root of all of which nothing is said.
        report: is told of circles.
    """
    there = set(models)
    up: dict[str, str] = {}
    for model in models:
        over = parent.get(model) or (root.get(model) if root.get(model) != model else None)
        over = over or (default if default != model and model not in root else None)
        if over is not None and over in there and over != model:
            up[model] = over
    tops: dict[str, str] = {}
    for model in models:
        path = [model]
        while (over := up.get(path[-1])) is not None and over not in path:
            path.append(over)
        if over is not None:
            report(LeftOut(model, f"its parents go round in a circle ({' <- '.join(path[:5])}), so its root is not known"))
        elif len(path) > 1:
            tops[model] = path[-1]
    bottoms = {*tops.values(), *(model for model in models if root.get(model) == model), *({default} & there)}
    found: dict[str, tuple[str | None, str | None]] = {}
    for model in models:
        if model in tops:
            told = root.get(model)
            top = told if told in bottoms and told != model else tops[model]
            found[model] = (top, up[model])
        else:
            found[model] = (model if model in bottoms else None, None)
    return found
