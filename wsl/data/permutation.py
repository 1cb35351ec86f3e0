"""Shuffles of any size in no memory: a place goes to its new place by arithmetic.

A Feistel network permutes the numbers below a power of four (left, right -> right, left + f(right), a few times over, with f
keyed at random); numbers that come out beyond the size go through again until they do not, which permutes those below the size.
"""

import numpy as np

ROUNDS = 6
MASK = (1 << 64) - 1


class Shuffle:
    """A random permutation of the numbers below `size`.

    Args:
        size: how many numbers.
        key: numbers that name the permutation, as for `numpy.random.SeedSequence`.
    """

    def __init__(self, size: int, key: tuple[int, ...]):
        self.size = size
        self._half = max(1, (max(1, size - 1).bit_length() + 1) // 2)
        self._keys = [int(number) for number in np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64)]

    def __getitem__(self, place: int) -> int:
        if not 0 <= place < self.size:
            raise IndexError(f"place {place} of a shuffle of {self.size}")
        mask = (1 << self._half) - 1
        while True:
            left, right = place >> self._half, place & mask
            for key in self._keys:
                left, right = right, left ^ (_mixed(right ^ key) & mask)
            place = left << self._half | right
            if place < self.size:
                return place


def _mixed(number: int) -> int:
    """A number of 64 bits, all of which depend on all of those given (the finalizer of SplitMix64)."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & MASK
    return number ^ number >> 31
