"""The codecs of a Parquet file, read from its footer.

pyarrow ends the process where it meets a codec that it does not know. So the footer, a struct in Thrift's compact
protocol, is read here: a field is a byte of type and distance to the last field's number, integers are zigzag varints.
Format: https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from functools import lru_cache
from pathlib import Path
from typing import Any

MAGIC = b"PAR1"
ROW_GROUPS, COLUMNS, ABOUT, CODEC = 4, 1, 3, 4
"""Numbers of the fields on the way: of the file, of a row group, of a column chunk, and of what is said about it."""

UNCOMPRESSED, SNAPPY = 0, 1

_DEPTH = 20
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12


def codecs_of(path: Path) -> frozenset[int]:
    """Returns the numbers of the codecs of all column chunks. Raises `ValueError` for a file without a sound footer."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        end = file.read(8)
        length = int.from_bytes(end[:4], "little")
        if len(end) < 8 or end[4:] != MAGIC or length > size - 8:
            raise ValueError("it has no footer of Parquet")
        file.seek(size - 8 - length)
        return _codecs(file.read(length))


@lru_cache(maxsize=64)
def _codecs(footer: bytes) -> frozenset[int]:
    """The codecs that a footer tells; a zoo is opened many times."""
    try:
        groups = _Footer(footer).struct(_DEPTH)[ROW_GROUPS]
        return frozenset(column[ABOUT][CODEC] for group in groups for column in group[COLUMNS])
    except (IndexError, KeyError, TypeError) as error:
        raise ValueError("its footer is damaged") from error


class _Footer:
    """Bytes of Thrift's compact protocol, and the place of the next one."""

    def __init__(self, content: bytes):
        self.content, self.at = content, 0

    def struct(self, depth: int) -> dict[int, Any]:
        """Reads a struct: values by the numbers of their fields."""
        found, number = {}, 0
        while (first := self._byte()) != 0:
            number = number + (first >> 4) if first >> 4 else self._integer()
            kind = first & 15
            found[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if depth == 0 or kind > _STRUCT:
            raise IndexError("nested too deeply, or of no type")
        if kind == _STRUCT:
            return self.struct(depth - 1)
        if kind == _MAP:
            count = self._varint()
            kinds = self._byte() if count else 0
            return [(self._value(kinds >> 4, depth - 1), self._value(kinds & 15, depth - 1)) for _ in range(count)]
        if kind in (_LIST, _SET):
            first = self._byte()
            count = first >> 4 if first >> 4 < 15 else self._varint()
            return [self._value(first & 15, depth - 1) for _ in range(count)]
        if kind in (_BINARY, _DOUBLE):
            return self._skip(self._varint() if kind == _BINARY else 8)
        return self._byte() if kind in (_TRUE, _FALSE, _BYTE) else self._integer()  # of a list, truth is a byte

    def _byte(self) -> int:
        self.at += 1
        return self.content[self.at - 1]

    def _varint(self) -> int:
        found = shift = 0
        while (byte := self._byte()) & 128 and shift < 70:
            found |= (byte & 127) << shift
            shift += 7
        return found | byte << shift

    def _integer(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _skip(self, length: int) -> None:
        self.at += length
        if self.at > len(self.content):
            raise IndexError("it ends too early")
