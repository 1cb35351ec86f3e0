"""Drawing: a generator is fitted and sampled with what its class may use, and its cost is measured."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wsl.generators.decoder import Decoder
from wsl.generators.family import Family, Generator, Sample, given
from zoo_gen.images import Images


@dataclass(frozen=True)
class Drawn:
    """Samples, and what a row says of how they were made: class, and cost per sample."""

    samples: list[Sample]
    about: dict[str, Any]


def draw(generator: Generator, families: Sequence[Family], images: Images | None, *, n: int, rng: np.random.Generator) -> Drawn:
    """Fits a generator and draws n samples.

    The cost is that of fitting and sampling, over the number of samples. A decoder that rehearses trains on labelled images, so
    samples that it decodes are of the class `labels`, whatever the generator says.

    Raises `InputError` as the generator does, and for a class that there is not.
    """
    uses, begun = getattr(generator, "uses", "weights"), time.process_time()
    kept = given(families, uses, None if images is None else images.train)
    samples = generator.fit(kept).sample(n, rng)
    seconds = time.process_time() - begun
    decoding = sum(family.decode.gradient_evaluations for family in kept if isinstance(family.decode, Decoder))
    gradients = getattr(generator, "gradient_evaluations", 0) + decoding
    each = max(len(samples), 1)
    cost = {"gradient_evaluations": gradients / each, "cpu_seconds": seconds / each}
    return Drawn(samples, {"uses": "labels" if decoding else uses, "cost": cost})
