"""Image sets of torchvision, read from its own files on the disk."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo_gen.errors import InputError
from zoo_gen.images import Images
from zoo_gen.sources.pictures import Labelled, Selection, missing


def torchvision(*, dataset: str, root: str, train: Mapping[str, Any], test: Mapping[str, Any], **card: Any) -> Images:
    """Loads a classification set of torchvision.

    Args:
        dataset: class of `torchvision.datasets`, such as `CIFAR100` or `SVHN`.
        root: folder that torchvision keeps it in.
        train, test: arguments that choose a part: `{train: true}` or `{split: train}`; `{download: true}` fetches it.
        card: values of `zoo_gen.sources.pictures.Selection`.

    Raises `InputError` for a set that torchvision does not have, and for files that are missing or damaged.
    """
    from torchvision import datasets

    if dataset not in datasets.__all__:
        raise InputError(f"torchvision has no data set '{dataset}'; see torchvision.datasets")
    selection = Selection(**card)
    parts: list[Labelled] = []
    for arguments in (train, test):
        try:
            found = getattr(datasets, dataset)(root, **arguments)
            pairs = [found[number] for number in range(len(found))]
        except TypeError as error:
            raise InputError(f"torchvision.datasets.{dataset} does not take {dict(arguments)}: {error}") from error
        except (RuntimeError, OSError, ValueError, EOFError) as error:
            raise missing(f"{dataset} of torchvision in {root}", error) from error
        parts.append(([np.asarray(image) for image, _ in pairs], [int(label) for _, label in pairs]))
    return selection.draw(*parts)
