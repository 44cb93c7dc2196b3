"""Rows of text data as a person reads them: every token, and whether its prediction counts in the loss."""

import dataclasses

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.data.text.chats import preferences
from bigmodel_jax.data.text.tokenizer import Tokenizer

LOSS = 'loss'  # Before a token that counts.
SIDES = {preferences.CHOSEN: 'chosen answer', preferences.REJECTED: 'rejected answer'}


@dataclasses.dataclass(frozen=True)
class TokenRow:
    """One document or conversation of a row; the first token is read, and all others are predicted."""

    title: str
    ids: list[int]
    tokens: list[str]
    weights: list[float]  # Of each prediction in the loss; 0 for the first token.

    def __str__(self) -> str:
        counted = sum(weight != 0 for weight in self.weights)
        lines = [f'{self.title}: {len(self.ids)} tokens, of which {counted} carry loss']
        for i, token, weight in zip(self.ids, self.tokens, self.weights):
            mark = '' if weight == 0 else LOSS if weight == 1 else f'{LOSS} x {weight:g}'
            lines.append(f'{mark:>6} {i:>8}  {token!r}')
        return '\n'.join(lines)


def shown(found: batches.Batches, rows: int) -> list[TokenRow]:
    """The documents in the first rows of some data, in their order.

    Raises:
      InputError: the data is no text.
    """
    tokenizer = found.examples.tokenizer
    if tokenizer is None or not {'inputs', 'targets'} <= found.fields.keys():
        raise config.InputError(
            'Tokens can be shown of text with inputs and targets, such as Text, Instructions and Preferences; the '
            f'data has {", ".join(found.fields)}.'
        )
    indices = np.arange(min(rows, len(found.examples)))
    batch = _rows(found, indices)
    return [each for row in indices.tolist() for each in _documents(batch, row, found, tokenizer)]


def _rows(found: batches.Batches, indices: np.ndarray) -> batches.Batch:
    if isinstance(found, preferences.PreferenceBatches):
        return found.examples.rows(indices)  # The rest of them needs a model.
    return found.examples.gather(indices, np.zeros_like(indices), found.seed)


def _documents(batch: batches.Batch, row: int, found: batches.Batches, tokenizer: Tokenizer) -> list[TokenRow]:
    inputs, targets = batch['inputs'][row], batch['targets'][row]
    weights = batch.get('loss_weights', np.ones(batch['targets'].shape))[row]
    segments = batch['segments'][row] if 'segments' in batch else np.ones(len(targets), np.int32)
    of_pair = isinstance(found, preferences.PreferenceBatches)
    documents = []
    for segment in sorted(set(segments[segments > 0].tolist())):
        here = np.flatnonzero(segments == segment)
        ids = [int(inputs[here[0]]), *targets[here].tolist()]
        name = SIDES[segment] if of_pair else f'document {segment}'
        title = f'row {row + 1} of {len(found.examples):,}, {name}'
        pieces = [tokenizer.piece(i) for i in ids]
        documents.append(TokenRow(title, ids, pieces, [0.0, *weights[here].tolist()]))
    return documents
