"""Rows of words on disk that are right or missing, whatever crashed while they were written."""
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_AT_ONCE = 2 ** 22  # words looked at together


class RowFile:
    """A table of rows of 32-bit words, filled row by row, by several processes if need be, and read by any.

    Beside each row lies a mark: a checksum of its words and its number, or 0 where nothing was written. It is looked at
    whenever the row is read, so that a row that was torn by a crash, a full disk or two writers is one that is not
    there. Both files are sparse: what was never written takes no room. One that has become shorter is made longer.

    Args:
        folder: Where `make` has made the files.
        count: Rows, R.
        words: Of a row, W.
        salt: Any integer that tells this table from others: their rows do not pass for its own.

    Raises:
        OSError: The files cannot be read, or are of another table.
    """

    FILES = 'rows.bin', 'marks.bin'

    def __init__(self, folder: Path, count: int, words: int, *, salt: int = 0):
        self.count, self.words = count, words
        self._salt = salt
        self._paths = tuple(folder / name for name in self.FILES)
        for path, size in zip(self._paths, self._sizes(count, words), strict=True):
            if path.stat().st_size > size:
                raise OSError(f'{path} has {path.stat().st_size} bytes and not {size}')
            if path.stat().st_size < size:
                os.truncate(path, size)
        self._rows = np.asarray(np.memmap(self._paths[0], '<u4', mode='r', shape=(count, words)))
        self._marks = np.asarray(np.memmap(self._paths[1], '<u4', mode='r', shape=(count,)))

    @staticmethod
    def make(folder: Path, count: int, words: int) -> None:
        """Make the files of an empty table; OSError where the file system cannot hold them."""
        for name, size in zip(RowFile.FILES, RowFile._sizes(count, words), strict=True):
            with open(folder / name, 'ab') as file:
                file.truncate(size)

    @staticmethod
    def _sizes(count: int, words: int) -> tuple[int, int]:
        return count * words * 4, count * 4

    @property
    def nbytes(self) -> int:
        """Bytes of a full table."""
        return sum(self._sizes(self.count, self.words))

    def read(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows of these numbers, int64 [B].

        Returns:
            uint32 [B, W], and which of them are there, bool [B]; the others hold anything, zeros mostly.
        """
        rows, there = np.zeros((len(numbers), self.words), np.uint32), self._marks[numbers] != 0
        rows[there] = self._rows[numbers[there]]  # and not all: to look where nothing was written is slow
        there[there] = self._marks[numbers[there]] == self._checksums(numbers[there], rows[there])
        return rows, there

    def write(self, numbers: np.ndarray, rows: np.ndarray) -> None:
        """Write rows, uint32 [B, W], at these numbers.

        Raises:
            OSError: They cannot be written, or not all of them; what was not is not there.
        """
        if not len(numbers):
            return
        order = numbers.argsort(kind='stable')
        numbers, rows = numbers[order], np.ascontiguousarray(rows[order])
        marks = self._checksums(numbers, rows)
        gaps = np.flatnonzero(np.diff(numbers) != 1) + 1
        starts, ends = [0, *gaps.tolist()], [*gaps.tolist(), len(numbers)]
        for path, values in zip(self._paths, (rows, marks), strict=True):
            size = values.itemsize * values[0].size
            with open(path, 'r+b', buffering=0) as file:
                for start, end in zip(starts, ends, strict=True):
                    _write_all(file.fileno(), values[start:end], int(numbers[start]) * size)

    def marked(self) -> int:
        """How many rows were written; a torn one among them counts as well."""
        return sum(int(np.count_nonzero(self._marks[start:start + _AT_ONCE]))
                   for start in range(0, self.count, _AT_ONCE))

    def all_but(self, known: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Numbers and words of all rows that are there, a part at a time, but for those known already, bool [R]."""
        numbers = np.flatnonzero((self._marks != 0) & ~known)
        at_once = max(1, _AT_ONCE // self.words)
        for start in range(0, len(numbers), at_once):
            part = numbers[start:start + at_once]
            rows, there = self.read(part)
            yield part[there], rows[there]

    def _checksums(self, numbers: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """uint32 [B], never 0: CRC-32 of the words, begun with the row's number and the salt."""
        sums = [zlib.crc32(row, number + self._salt & 0xFFFFFFFF)
                for number, row in zip(numbers.tolist(), np.ascontiguousarray(rows), strict=True)]
        return np.maximum(np.array(sums, np.uint32), 1)


def _write_all(handle: int, values: np.ndarray, offset: int) -> None:
    """Not through a memory map: of a full disk a write tells, and a map kills the process."""
    left = memoryview(values).cast('B')
    while left:
        written = write_at(handle, left, offset)
        left, offset = left[written:], offset + written


def write_at(handle: int, values: memoryview, offset: int) -> int:
    """os.pwrite, which Windows lacks, for a handle that nobody else moves; how many bytes were written."""
    os.lseek(handle, offset, os.SEEK_SET)
    return os.write(handle, values)
