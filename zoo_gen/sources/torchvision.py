"""Image sets of torchvision, read from its own files on the disk."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from zoo_gen.errors import InputError
from zoo_gen.images import Images
from zoo_gen.sources.pictures import Look, Picture, assemble, missing


def torchvision(
    *,
    dataset: str,
    root: str,
    train: Mapping[str, Any],
    test: Mapping[str, Any],
    images: Sequence[int],
    num_classes: int,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    memory_gb: float,
    workers: int,
) -> Images:
    """Loads a classification set of torchvision.

    Args:
        dataset: class of `torchvision.datasets`, such as `CIFAR100` or `SVHN`.
        root: folder that torchvision keeps it in.
        train: arguments that choose the training part: `{train: true}` or `{split: train}`; `{download: true}` fetches it.
        test: arguments that choose the test part.
        images: sizes of train, val and test; train and val are drawn from the training part.
        num_classes: of the labels.
        size: height and width in pixels.
        mean: per channel, of the pixels in [0, 1].
        std: per channel, of the pixels in [0, 1].
        seed: of the split.
        memory_gb: decoded images that need more are decoded whenever they are needed.
        workers: threads that decode.

    Raises `InputError` for a set that torchvision does not have, and for files that are missing or damaged.
    """
    from torchvision import datasets

    if dataset not in datasets.__all__:
        raise InputError(f"torchvision has no data set '{dataset}'; see torchvision.datasets")
    parts = []
    for arguments in (train, test):
        try:
            found = getattr(datasets, dataset)(root, **arguments)
            pairs = [found[number] for number in range(len(found))]
        except TypeError as error:
            raise InputError(f"torchvision.datasets.{dataset} does not take {dict(arguments)}: {error}") from error
        except (RuntimeError, OSError, ValueError, EOFError) as error:
            raise missing(f"{dataset} of torchvision in {root}", error) from error
        pictures: list[Picture] = [np.asarray(image) for image, _ in pairs]
        parts.append((pictures, [int(label) for _, label in pairs]))
    look = Look(size, mean, std)
    return assemble(
        parts[0], parts[1], images=images, num_classes=num_classes, look=look, seed=seed, memory_gb=memory_gb, workers=workers
    )
