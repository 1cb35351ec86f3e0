"""Work on all cores comes back in order, and leaves the threads of PyTorch as they were."""

from collections.abc import Iterator
from itertools import chain

import pytest
import torch

from zoo_gen.threads import batched, in_threads, pieces


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_come_in_order_and_are_made_by_operations_of_one_thread() -> None:
    found = list(in_threads(lambda number: (number, torch.get_num_threads()), range(50)))
    assert found == [(number, 1) for number in range(50)]
    assert torch.get_num_threads() == 3


def test_threads_are_as_before_after_an_error_and_where_nobody_reads_on() -> None:
    def wrong(number: int) -> int:
        return 1 // (3 - number)

    with pytest.raises(ZeroDivisionError):
        list(in_threads(wrong, range(9)))
    assert torch.get_num_threads() == 3
    reading = in_threads(str, range(99))
    assert next(reading) == "0"
    assert torch.get_num_threads() == 1
    reading.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 3


def test_work_within_work_leaves_them_alone_too() -> None:
    found = list(in_threads(lambda some: list(in_threads(str, some)), batched(range(5), 2)))
    assert found == [["0", "1"], ["2", "3"], ["4"]]
    assert torch.get_num_threads() == 3


@pytest.mark.parametrize(("count", "sizes"), [(0, []), (4, [4]), (16, [16]), (17, [8, 9]), (33, [11, 11, 11])])
def test_pieces_hold_all_items_in_order_and_are_of_nearly_equal_size(count: int, sizes: list[int]) -> None:
    found = [[*range(count)][piece] for piece in pieces(count, 16)]
    assert [len(piece) for piece in found] == sizes
    assert [*chain.from_iterable(found)] == [*range(count)]
