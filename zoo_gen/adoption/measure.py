"""Accuracy and loss of adopted models on images that the user names, by the same evaluation as that of zoos made here."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from zoo_gen.adoption.scan import LeftOut
from zoo_gen.adoption.write import AdoptedCheckpoint, AdoptedModel, with_gaps
from zoo_gen.config import instantiate
from zoo_gen.errors import InputError
from zoo_gen.evaluate import Score, score
from zoo_gen.images import Images
from zoo_gen.wording import counted

AT_ONCE = 2**28
"""Bytes of weights of models that are run as one stack, about."""


def measured(
    models: Sequence[AdoptedModel],
    card: Mapping[str, Any],
    report: Callable[[LeftOut], None],
    track: Callable[[Sequence[Any], str], Any],
) -> list[AdoptedModel]:
    """Returns models with their losses and accuracies on the images of a card: its train, val and test part.

    Models that cannot be run, or have another number of classes, are reported and stay as they are.
    """
    images: Images = instantiate(card, group="images")
    groups: dict[str, list[tuple[str, AdoptedCheckpoint]]] = {}
    for one in models:
        described = one.architecture
        if described["architecture"] is None:
            report(LeftOut(one.model, "it was not measured: its architecture is not known; name it by architecture="))
        elif described["num_classes"] != images.num_classes:
            classes = f"it has {counted(described['num_classes'], 'class')}, the images have {images.num_classes}"
            report(LeftOut(one.model, f"it was not measured: {classes}"))
        else:
            shape = json.dumps(described, sort_keys=True)
            groups.setdefault(shape, []).extend((one.model, checkpoint) for checkpoint in one.checkpoints)
    found: dict[tuple[str, int], Mapping[str, float | None]] = {}
    for described, members in track([(shape, part) for shape, group in groups.items() for part in _parts(group)], "measuring"):
        try:
            states = [{name: tensor.float() for name, tensor in checkpoint.weights.read().items()} for _, checkpoint in members]
            scores = {part: score(json.loads(described), states, getattr(images, part)) for part in ("train", "val", "test")}
        except (InputError, RuntimeError, AssertionError) as error:
            reason = str(error).partition("\n")[0]
            for model in dict.fromkeys(model for model, _ in members):
                report(LeftOut(model, f"it was not measured: it does not take these images ({reason})"))
            continue
        for number, (model, checkpoint) in enumerate(members):
            found[model, checkpoint.epoch] = _results(scores, number)
    return [
        replace(
            one,
            checkpoints=[replace(each, results=found.get((one.model, each.epoch), each.results)) for each in one.checkpoints],
        )
        for one in models
    ]


def _parts(members: Sequence[tuple[str, AdoptedCheckpoint]]) -> list[list[tuple[str, AdoptedCheckpoint]]]:
    """Parts checkpoints of one shape into stacks that fit in memory."""
    size = max(1, AT_ONCE // max(1, sum(stamp[0] for stamp in members[0][1].weights.stamps)))
    return [list(members[start : start + min(size, 64)]) for start in range(0, len(members), min(size, 64))]


def _results(scores: Mapping[str, Score], number: int) -> Mapping[str, float | None]:
    told: dict[str, float | None] = {}
    for part, found in scores.items():
        loss = float(found.loss[number])
        told |= {f"{part}_loss": loss if abs(loss) < float("inf") else None, f"{part}_accuracy": float(found.accuracy[number])}
    return with_gaps(told)
