"""Named streams of randomness: every draw depends on the seed, the model's own id and what it is for, never on its neighbours."""

import hashlib

import numpy as np


def stream_seed(seed: int, *names: str | int) -> int:
    """Returns a 63-bit seed for the stream with these names, such as `(0, "supervised_0", "order", 3)`."""
    key = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") >> 1


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """Returns the generator of the stream with these names."""
    return np.random.default_rng(stream_seed(seed, *names))
