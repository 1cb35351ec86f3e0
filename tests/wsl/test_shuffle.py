"""Shuffles are permutations, each key its own, and look random."""

import pytest

from wsl.data.permutation import Shuffle


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 63, 64, 65, 1000])
def test_every_number_comes_out_once(size: int):
    shuffle = Shuffle(size, (0, 1))
    assert sorted(shuffle[place] for place in range(size)) == list(range(size))
    with pytest.raises(IndexError):
        shuffle[size]


def test_another_key_is_another_order():
    orders = {tuple(Shuffle(100, (seed, epoch))[place] for place in range(100)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert tuple(range(100)) not in orders


def test_places_and_what_follows_them_are_spread_evenly():
    first, next_to_last, adjacent = [0] * 10, [0] * 10, 0
    for key in range(2000):
        shuffle = Shuffle(10, (key,))
        first[shuffle[0]] += 1
        next_to_last[shuffle[8]] += 1
        adjacent += shuffle[4] + 1 == shuffle[5]
    for counts in (first, next_to_last):
        assert all(abs(count - 200) < 5 * 200**0.5 for count in counts)
    assert abs(adjacent - 180) < 5 * 180**0.5
