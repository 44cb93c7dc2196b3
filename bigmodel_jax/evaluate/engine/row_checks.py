"""Measures on the machine at hand that what a row computes depends on no other row, nor on how many rows there are.

A library for matrix products may divide its work by the number of rows, and so add in another order. Whether it does is
nowhere promised, and differs between platforms, versions and shapes: so it is measured with the programs themselves.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from bigmodel_jax.evaluate.engine import engine_shape, page_pool, programs

FEW = (1, 2, 4)  # Rows for which there may be programs beside those for a whole group.
IDLE = -1  # In place of the number of a row: one that does nothing.
PAGES = 3  # That rows read, at most.
Bits = tuple[np.ndarray, ...]  # What the programs give for each row: logits, tokens, log-probabilities.


class RowProbe:
    """A group of random rows, which read on from what a random prompt left in the pages; the pages must be free.

    Attributes:
      pool: the pool; each call of a program replaces it.
    """

    def __init__(self, run: programs.EnginePrograms, weights: Any, pool: programs.Pool):
        self.run, self.weights, self.pool = run, weights, pool
        self._rng = np.random.default_rng(0)

    def fill(self, shape: engine_shape.EngineShape, vocab: int, *, length: int, pages: int) -> None:
        """Reads the prompt, in pages 1 to `pages` of a table that has room for `length` tokens."""
        wide, C = -(-length // shape.page), shape.chunk
        listed = min(pages, wide, PAGES)
        self._table_N = np.full(wide, page_pool.SCRATCH, np.int32)
        self._table_N[:listed] = 1 + np.arange(listed)
        known = min(listed * shape.page, length - 1)
        for start in range(0, known, C):
            tokens_BT, count = self._rng.integers(0, vocab, (1, C), np.int32), min(C, known - start)
            lengths_B, counts_B = np.array([start], np.int32), np.array([count], np.int32)
            rows = programs.RowInputs(tokens_BT, lengths_B, counts_B, self._table_N[None])
            self.pool, _ = self.run.read(self.pool, self.weights, rows)
        G = self.group = shape.group
        self._vocab, self._tokens_G = vocab, self._rng.integers(0, vocab, G, np.int32)
        self._lengths_G = self._rng.integers(0, known + 1, G).astype(np.int32)
        self._lengths_G[0] = known
        self._keys_G2 = self._rng.integers(0, 2**32, (G, 2), np.uint32)

    def bits(self, numbers: Sequence[int] | np.ndarray) -> Bits:
        """What the programs for so many rows give for the rows of these numbers, IDLE for one that does nothing."""
        at = np.array(numbers)
        idle, B, V = at == IDLE, len(at), self._vocab
        lengths_B = np.where(idle, 0, self._lengths_G[at])
        rows = programs.RowInputs(
            np.where(idle, 0, self._tokens_G[at])[:, None],
            lengths_B,
            np.zeros(B, np.int32),  # So that nothing is stored; what follows the first token is computed all the same.
            np.where(idle[:, None], page_pool.SCRATCH, self._table_N),
        )
        self.pool, logits_BV = self.run.read(self.pool, self.weights, rows)
        warm_B = np.ones(B, np.float32)
        only = programs.Restriction(warm_B, np.full(B, max(V // 2, 1), np.int32), np.full(B, 0.9, np.float32))
        drawing = programs.Drawing(warm_B, self._keys_G2[at], np.zeros(B, np.int32), lengths_B)
        allowed_BV = self.run.restrict(logits_BV, only)
        found = (logits_BV, allowed_BV, *self.run.draw(logits_BV, allowed_BV, drawing), *self.run.best(logits_BV))
        return tuple(np.asarray(each)[~idle] for each in found)


def dependence(probe: RowProbe) -> float | None:
    """How much the logits of a row change with its place in a group or the rows beside it; None if no bit does."""
    G = probe.group
    whole, found = probe.bits(range(G)), []
    for number in sorted({0, G // 2, G - 1}):  # Alone.
        places = np.full(G, IDLE)
        places[number] = number
        found.append((_taken(whole, [number]), probe.bits(places)))
    for shift in {1 % G, G // 2}:  # Elsewhere in the group.
        places = np.roll(np.arange(G), shift)
        found.append((_taken(whole, places), probe.bits(places)))
    if all(_equal(*pair) for pair in found):
        return None
    return max(float(np.abs(one[0] - other[0]).max()) for one, other in found)


def equal_counts(probe: RowProbe) -> tuple[int, ...]:
    """Those of FEW, below a whole group, whose programs give every row the bits that the group's programs give it."""
    G, found = probe.group, []
    whole = probe.bits(range(G))
    for count in (each for each in FEW if each < G):
        placed = [np.arange(start, start + count) for start in range(0, G - count + 1, count)]
        placed.append(np.array([G - 1] + [IDLE] * (count - 1)))
        if all(_equal(_taken(whole, places), probe.bits(places)) for places in placed):
            found.append(count)
    return tuple(found)


def _taken(bits: Bits, numbers: Sequence[int] | np.ndarray) -> Bits:
    at = np.array(numbers)
    return tuple(each[at[at != IDLE]] for each in bits)


def _equal(one: Bits, other: Bits) -> bool:
    return all(np.array_equal(*pair, equal_nan=True) for pair in zip(one, other))
