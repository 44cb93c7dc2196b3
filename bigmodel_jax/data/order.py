"""The order of a run's examples: a stateless permutation of (seed, epoch), of which any part is computed by itself.

The permutation is a Feistel cipher on the smallest even number of bits, at least 16, that can hold an index; a result
that is no index is enciphered again until it is one (cycle walking: Black and Rogaway, "Ciphers with arbitrary finite
domains", 2002). The round function is that of SIMON (Beaulieu et al., 2013), in four rounds, with the keys that C++'s
`std::seed_seq` makes of the seed. This is the order that Grain's `MapDataset.shuffle()` gives, so that a run keeps its
order whatever version of Grain is installed, but in vectors: the time of an epoch of few examples does not depend on
how few they are.
"""

import functools
from typing import NamedTuple

import numpy as np

ROUNDS = 4
TABLED = 16  # Bits up to which the whole permutation of an epoch is computed at once: cycles can be long there.


class Cipher(NamedTuple):
    """A permutation of the numbers below 4^word."""

    word: int  # Bits of half a number.
    keys: tuple[int, ...]

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        """[n] uint64 -> [n] uint64."""
        mask = np.uint64((1 << self.word) - 1)
        left, right = numbers >> np.uint64(self.word), numbers & mask
        for first, second in zip(self.keys[::2], self.keys[1::2], strict=True):
            left = left ^ _simon(right, self.word, mask) ^ (np.uint64(first) & mask)
            right = right ^ _simon(left, self.word, mask) ^ (np.uint64(second) & mask)
        return (left << np.uint64(self.word)) | right


def _simon(x: np.ndarray, word: int, mask: np.uint64) -> np.ndarray:
    def rotated(by: int) -> np.ndarray:
        return ((x << np.uint64(by)) | (x >> np.uint64(word - by))) & mask

    mixed: np.ndarray = (rotated(1) & rotated(8)) ^ rotated(2)
    return mixed


def seed_sequence(seed: int, words: int) -> tuple[int, ...]:
    """What `std::seed_seq{seed}` generates: `words` numbers of 32 bits. Source: C++20, [rand.util.seedseq].

    Args:
      seed: a number of 32 bits.
      words: from 4 to 6, for which the standard's constants t, p and q are those below.
    """

    def scrambled(x: int) -> int:
        return x ^ (x >> 27)

    shift, middle, last, given = (words - 1) // 2, (words - (words - 1) // 2) // 2, 2**32, (seed,)
    after = middle + shift
    state = [0x8B8B8B8B] * words
    steps = max(len(given) + 1, words)
    for k in range(steps):
        here, near, before = k % words, (k + middle) % words, (k - 1) % words
        first = 1664525 * scrambled(state[here] ^ state[near] ^ state[before]) % last
        extra = len(given) if k == 0 else here + given[k - 1] if k <= len(given) else here
        second = (first + extra) % last
        state[near] = (state[near] + first) % last
        state[(k + after) % words] = (state[(k + after) % words] + second) % last
        state[here] = second
    for k in range(steps, steps + words):
        here, near, before = k % words, (k + middle) % words, (k - 1) % words
        first = 1566083941 * scrambled((state[here] + state[near] + state[before]) % last) % last
        second = (first - here) % last
        state[near] ^= first
        state[(k + after) % words] ^= second
        state[here] = second
    return tuple(state)


def ids_at(positions: np.ndarray, count: int, seed: int) -> np.ndarray:
    """[n] int64: the examples at `positions` of an endless stream whose epochs are permutations of all `count`.

    Args:
      positions: [n] int64, at least 0.
      seed: any whole number from 0.
    """
    ids = np.empty(len(positions), np.int64)
    epochs, places = positions // count, positions % count
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        ids[here] = _permuted(places[here], count, (_base(seed) + epoch) % 2**32)
    return ids


@functools.lru_cache
def _base(seed: int) -> int:
    return int(np.random.SeedSequence((seed, 1)).generate_state(1)[0])


def _permuted(places: np.ndarray, count: int, seed: int) -> np.ndarray:
    if count == 1:
        return places
    word = max(TABLED, (count - 1).bit_length() + 1) // 2
    if 2 * word <= TABLED:
        return _table(count, seed)[places]
    cipher = Cipher(word, seed_sequence(seed, ROUNDS))
    ids = cipher(places.astype(np.uint64))
    while (outside := np.flatnonzero(ids >= count)).size:
        ids[outside] = cipher(ids[outside])
    return ids.astype(np.int64)


@functools.lru_cache(maxsize=8)  # Of training and of evaluations, of this epoch and the next.
def _table(count: int, seed: int) -> np.ndarray:
    """[count] int64: the whole permutation of an epoch.

    A cycle may leave the indices for most of the 2^16 numbers: instead of walking it, doubles the step (pointer
    jumping), until each number points at the first index that follows it.
    """
    cipher = Cipher(TABLED // 2, seed_sequence(seed, ROUNDS))
    following = cipher(np.arange(1 << TABLED, dtype=np.uint64)).astype(np.int64)
    arrived = following.copy()
    arrived[:count] = np.arange(count)
    while (table := arrived[following[:count]]).max() >= count:  # Cycles without an index never arrive.
        arrived = arrived[arrived]
    table.flags.writeable = False
    return table
