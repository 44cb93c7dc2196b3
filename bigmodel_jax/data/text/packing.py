"""Packing a stream of tokens into rows of a fixed length: pure functions of arrays of token positions.

The stream is `end, document, end, document, end ...`. Position p stands for the pair (input p, target p + 1), so a
stream of N tokens has N - 1 pairs, and each token but the first `end` is a target exactly once.
"""

import bisect
import hashlib
from typing import NamedTuple

import numpy as np

OPEN_ROWS = 256  # Rows that best_fit_pairs() keeps open; when another is opened, the fullest is closed.

# ---- windows: the stream cut every `length` tokens ---------------------------------------------------------------


def window_count(pairs: int, length: int) -> int:
    """Rows that cover all pairs; the last may be partly padding."""
    return -(-pairs // length)


def window_offset(*, seed: int, epoch: int, length: int) -> int:
    """Where the first window of an epoch begins, in [0, length): 0 in the first epoch, random in the later ones."""
    if epoch == 0:
        return 0
    # A hash rather than a NumPy generator, whose numbers may change from one version to the next.
    return int.from_bytes(hashlib.sha256(f'{seed} {epoch}'.encode()).digest()[:8], 'big') % length


def window_positions(rows: np.ndarray, offsets: np.ndarray, *, length: int) -> np.ndarray:
    """[n, T] int64: the positions of each row, counted on past the end of the stream.

    Args:
      rows: [n] int64.
      offsets: [n] int64, see window_offset().
    """
    return (rows * length + offsets)[:, None] + np.arange(length)


# ---- documents: whole ones packed into rows ----------------------------------------------------------------------


class PackingPlan(NamedTuple):
    """Which pieces of documents lie in which row. Row r holds the pieces from row_starts[r] to row_starts[r + 1]."""

    starts: np.ndarray  # [pieces] int64: position of the first pair.
    lengths: np.ndarray  # [pieces] int64: pairs, at most the length of a row.
    row_starts: np.ndarray  # [rows + 1] int64.


class PackedLayout(NamedTuple):
    """Where the pairs of some rows come from; all [n, T]."""

    sources: np.ndarray  # int64: position in the stream, 0 where padding.
    segments: np.ndarray  # int32: 1, 2 ... for the documents of the row, 0 where padding.
    positions: np.ndarray  # int32: place within the document, 0 where padding.


def plan(document_starts: np.ndarray, *, length: int) -> PackingPlan:
    """Packs every document of a stream into rows.

    Args:
      document_starts: [documents + 1] int64: position of the first pair of each document, and the end of the last.
      length: pairs in a row. A longer document is cut into pieces, and only its last piece may be shorter.
    """
    return packed(*cut(document_starts[:-1], np.diff(document_starts), length=length), length=length)


def packed(starts: np.ndarray, lengths: np.ndarray, *, length: int) -> PackingPlan:
    """Packs pieces with these starts and lengths, none longer than `length`, into rows of that length."""
    rows = best_fit(lengths, capacity=length)
    order = np.argsort(rows, kind='stable')
    counts = np.bincount(rows, minlength=1)
    return PackingPlan(starts[order], lengths[order], np.concatenate([[0], np.cumsum(counts)]))


def cut(starts: np.ndarray, lengths: np.ndarray, *, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The pieces, none longer than `length`, of documents with these starts and lengths; again starts and lengths."""
    counts = -(-lengths // length)
    number = _ranges(counts)  # Of the piece within its document.
    piece_starts = np.repeat(starts, counts) + number * length
    ends = np.repeat(starts + lengths, counts)
    return piece_starts, np.minimum(ends - piece_starts, length)


class OpenRows:
    """Rows that are not full, by what is left in them. New rows, with everything left, never run out."""

    def __init__(self, capacity: int):
        self._capacity, self._opened = capacity, 0
        self._chunks: dict[int, list[np.ndarray]] = {}
        self._sorted: list[int] = []  # The keys of _chunks.

    def tightest(self, size: int) -> int:
        """The least that is left in a row that can take a piece of `size`."""
        at = bisect.bisect_left(self._sorted, size)
        return self._sorted[at] if at < len(self._sorted) else self._capacity

    def take(self, left: int, wanted: int) -> np.ndarray:
        """At least one and at most `wanted` rows with exactly `left` left."""
        if left not in self._chunks:
            self._opened += wanted
            return np.arange(self._opened - wanted, self._opened)
        chunk = self._chunks[left].pop()
        if len(chunk) > wanted:
            self._chunks[left].append(chunk[wanted:])
        if not self._chunks[left]:
            del self._chunks[left]
            self._sorted.remove(left)
        return chunk[:wanted]

    def put(self, left: int, rows: np.ndarray) -> None:
        """Puts back rows that now have `left` left."""
        if not left or not len(rows):
            return
        if left not in self._chunks:
            bisect.insort(self._sorted, left)
        self._chunks.setdefault(left, []).append(rows)


def best_fit(lengths: np.ndarray, *, capacity: int) -> np.ndarray:
    """[pieces] int64: the row of each piece, by best-fit decreasing: each goes where it leaves the least room.

    Equal lengths are placed together, so the work grows with the number of distinct lengths rather than of pieces.

    Args:
      lengths: [pieces] int64, each in [1, capacity].
    """
    rows, open_rows = np.zeros(len(lengths), np.int64), OpenRows(capacity)
    order = np.argsort(-lengths, kind='stable')
    negative_sizes, firsts = np.unique(-lengths[order], return_index=True)
    for size, pieces in zip((-negative_sizes).tolist(), np.split(order, firsts[1:])):
        while len(pieces):
            left = open_rows.tightest(size)
            each = left // size  # Best fit returns to the row it has just used until nothing more goes in.
            chosen = open_rows.take(left, -(-len(pieces) // each))
            placed = np.repeat(chosen, each)[: len(pieces)]
            rows[pieces[: len(placed)]] = placed
            full, partly = divmod(len(placed), each)
            open_rows.put(left - each * size, chosen[:full])
            open_rows.put(left - partly * size, chosen[full:])
            pieces = pieces[len(placed) :]
    return rows


def best_fit_pairs(lengths: np.ndarray, *, capacity: int) -> np.ndarray:
    """[pairs] int64: the row of each pair, the longest first, each where it leaves the least room on both sides.

    At most OPEN_ROWS rows are open, so that a pair is compared with so many; best_fit() keeps all rows open.

    Args:
      lengths: [2, pairs] int64, each in [1, capacity].
    """
    rows = np.zeros(lengths.shape[1], np.int64)
    left = np.zeros((2, OPEN_ROWS), np.int64)  # Room in the open rows; 0 in those not opened yet.
    numbers, opened = np.zeros(OPEN_ROWS, np.int64), 0
    for pair in np.argsort(-lengths.sum(axis=0), kind='stable').tolist():
        size = lengths[:, pair]
        room = left - size[:, None]
        fits = (room >= 0).all(axis=0)
        if fits.any():
            at = int(np.where(fits, room.sum(axis=0), 2 * capacity + 1).argmin())
        else:
            at = int(left.sum(axis=0).argmin())
            left[:, at], numbers[at], opened = capacity, opened, opened + 1
        left[:, at] -= size
        rows[pair] = numbers[at]
    return rows


def layout(packed: PackingPlan, rows: np.ndarray, *, length: int) -> PackedLayout:
    """Lays out the rows numbered `rows` [n]."""
    firsts = packed.row_starts[rows]
    counts = packed.row_starts[rows + 1] - firsts
    number = _ranges(counts)  # Of the piece within its row.
    pieces = np.repeat(firsts, counts) + number
    lengths = packed.lengths[pieces]
    within = _ranges(lengths)
    row_of_piece = np.repeat(np.arange(len(rows)), counts)
    used = np.bincount(row_of_piece, weights=lengths, minlength=len(rows))
    filled = np.arange(length) < used[:, None]  # Pieces follow one another from the start of the row.
    result = PackedLayout(*(np.zeros((len(rows), length), dtype) for dtype in (np.int64, np.int32, np.int32)))
    result.sources[filled] = np.repeat(packed.starts[pieces], lengths) + within
    result.segments[filled] = np.repeat(number + 1, lengths)
    result.positions[filled] = within
    return result


def _ranges(counts: np.ndarray) -> np.ndarray:
    """0 .. counts[0] - 1, 0 .. counts[1] - 1, and so on."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)
