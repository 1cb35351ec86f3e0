"""Leaks: ways in which a test model, or its family, was seen before it is predicted. All of them are refused."""

from collections.abc import Collection

import torch
from torch import Tensor

from zoo_gen import InputError, Zoo
from zoo_gen.wording import counted


def refuse_leaks(*, train: Zoo, val: Zoo, test: Zoo, scheme: str, seen: Collection[str]) -> None:
    """Checks that the sets of a probe are as separate as their split scheme promises.

    Args:
        train: checkpoints that fit the probe.
        val: checkpoints that choose its penalty.
        test: checkpoints that it predicts.
        scheme: `by_model` (models are disjoint) or `leave_root_out` (roots are, too).
        seen: ids of all models that the features were fitted on: the train and val models of the representation.

    Raises:
        InputError: names the overlap, if there is one.
    """
    sets = {"train": train, "val": val, "test": test}
    for name, zoo in sets.items():
        roots = zoo.frame.loc[zoo.frame["stage"] == "pretrain", "model"]
        if len(roots):
            raise InputError(f"the {name} set of the probe holds roots ({_names(roots)}); probe fine-tuned models alone")
    columns = ["model", "root"] if scheme == "leave_root_out" else ["model"]
    for column in columns:
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            both = set(sets[one].frame[column]) & set(sets[other].frame[column])
            if both:
                raise InputError(
                    f"the probe's split '{scheme}' leaks: {column} {_names(both)} is in {one} and in {other}; "
                    "take the sets from zoo.split(...), which keeps whole models (and families) on one side"
                )
    both = set(test.frame["model"]) & set(seen)
    if both:
        raise InputError(
            f"the features were fitted on test models of the probe ({_names(both)}); "
            "probe with the split of the run, or train a run on the split of the probe"
        )


def refuse_shared(seen: Zoo, probed: Zoo, *, advice: str) -> None:
    """Raises `InputError` if a zoo to be probed shares a checkpoint, of a root or a child, with one that was learned from.

    Args:
        seen: the zoo that a representation was trained on.
        probed: the zoo that probes are about.
        advice: what to do instead.
    """
    both = set(seen.frame["weights_sha256"]) & set(probed.frame["weights_sha256"])
    shared = sorted(probed.frame.loc[probed.frame["weights_sha256"].isin(both), "model"].unique())
    if shared:
        learned = f"{seen.path}, where the representation learned from them"
        raise InputError(f"{probed.path} shares {counted(len(shared), 'model')} with {learned} ({_names(shared)}); {advice}")


def refuse_seen_images(seen: Zoo, probed: Zoo) -> None:
    """Raises `InputError` if models of a zoo were fine-tuned on test images of the zoo to be probed.

    Images are compared where both zoos hold them in memory, in one size, as pixels of 8 bits; others are let through, and zoos
    without images.
    """
    cards = [zoo.config["config"].get("finetune_images") for zoo in (seen, probed)]
    if cards[0] == cards[1] or None in cards:
        return
    train, test = _pixels(seen, "train"), _pixels(probed, "test")
    if not isinstance(train, Tensor) or not isinstance(test, Tensor) or train.shape[1:] != test.shape[1:]:
        return
    known = {image.numpy().tobytes() for image in train}
    count = sum(image.numpy().tobytes() in known for image in test)
    if count:
        cards = {stage: probed.config["config"].get(f"{stage}_images") for stage in ("pretrain", "finetune")}
        seeds = [f"zoo.{stage}_images.seed={card['seed']}" for stage, card in cards.items() if card and "seed" in card]
        raise InputError(
            f"the models of {seen.path} were fine-tuned on {count} of the {counted(len(test), 'test image')} of {probed.path}; "
            f"make a zoo with the same split of the images: python -m zoo_gen ... {' '.join(seeds)}"
        )


def _pixels(zoo: Zoo, split: str) -> object:
    """The pixels that models of a zoo were fine-tuned or tested on, whatever they are normalised by: two draws have two means."""
    pixels, card = getattr(zoo.images("finetune"), split).pixels, zoo.image_card("finetune")
    if not isinstance(pixels, Tensor):
        return pixels
    mean, std = (torch.tensor(card[key]).view(-1, 1, 1) for key in ("mean", "std"))
    return (255 * (pixels * std + mean)).round().to(torch.uint8)


def _names(values: Collection[str]) -> str:
    """Returns up to five names, and how many more there are."""
    names = sorted({str(value) for value in values})
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
