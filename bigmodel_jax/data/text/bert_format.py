"""One or two sentences as a row: [CLS] A [SEP], or [CLS] A [SEP] B [SEP], as BERT reads them."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.data.text import tokenizers


class Specials(NamedTuple):
    """The ids of the special tokens."""

    pad: int
    start: int
    separator: int
    mask: int


def specials(tokenizer: tokenizers.Tokenizer) -> Specials:
    """The special tokens of a tokenizer.

    Raises:
      InputError: it has none, as only WordPiece does.
    """
    ids = [tokenizer.id_of(token) for token in ('[PAD]', '[CLS]', '[SEP]', '[MASK]')]
    if None in ids:
        raise config.InputError(
            'Rows for BERT need a tokenizer with [PAD], [CLS], [SEP] and [MASK]; use tokenizers.WordPiece.'
        )
    return Specials(*(int(i) for i in ids if i is not None))


def fields(length: int, upper_bound: int | None) -> dict[str, batches.Field]:
    """The arrays of laid out rows: `inputs`, `types` and `segments`, [n, T] int32."""
    integers, axes = np.dtype(np.int32), ('length',)
    return {
        'inputs': batches.Field((length,), integers, axes, upper_bound),
        'types': batches.Field((length,), integers, axes, 2),
        'segments': batches.Field((length,), integers, axes, 2),
    }


def truncate(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens of two sentences fit into `room`: the longer one is cut first, as in the released code."""
    half = room // 2
    if first + second <= room:
        return first, second
    if second <= half:
        return room - second, second
    if first <= room - half:
        return first, room - first
    return room - half, half


def layout(
    firsts: Sequence[np.ndarray], seconds: Sequence[np.ndarray] | None, *, length: int, special: Specials
) -> batches.Batch:
    """Rows of sentences of token ids; sentences that are too long are cut at their ends.

    Returns:
      `inputs`; `types`, 1 in the second sentence and its [SEP]; `segments`, 1 where a token is and 0 where padding.
    """
    n = len(firsts)
    inputs = np.full((n, length), special.pad, np.int32)
    types, segments = np.zeros((n, length), np.int32), np.zeros((n, length), np.int32)
    inputs[:, 0] = special.start
    for row, first in enumerate(firsts):
        second = first[:0] if seconds is None else seconds[row]
        a, b = truncate(len(first), len(second), length - (2 if seconds is None else 3))
        inputs[row, 1 : 1 + a], inputs[row, 1 + a] = first[:a], special.separator
        end = 2 + a
        if seconds is not None:
            inputs[row, end : end + b], inputs[row, end + b] = second[:b], special.separator
            types[row, end : end + b + 1] = 1
            end += b + 1
        segments[row, :end] = 1
    return {'inputs': inputs, 'types': types, 'segments': segments}
