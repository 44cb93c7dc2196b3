"""Log-likelihoods of completions given a context: the sum of log p over the tokens of the completion.

Requests of similar lengths share one compiled program: contexts are padded to a power of two, and so are completions.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.evaluate.text import decoding_model
from bigmodel_jax.models import model as models
from bigmodel_jax.objectives import objective
from bigmodel_jax.parallel import sharding

PyTree = Any

# The shortest padded lengths, of all tokens and of completions; shorter ones gain nothing.
SHORTEST, SHORTEST_COMPLETION = 16, 4
PIECE = 64  # Positions of each row whose logits are held at one time.


class Request(NamedTuple):
    """A completion of a context, to be scored."""

    context: np.ndarray  # [n] int32; begin it with the end token where there is nothing else.
    completion: np.ndarray  # [m] int32.


class SequenceScore(NamedTuple):
    """The log-likelihood of a request."""

    log_p: float  # Natural logarithm of P(completion | context).
    tokens: int  # Of the completion.
    is_greedy: bool  # Whether each of its tokens is the most likely one.
    dropped: int  # Tokens at the beginning of the context that the model had no room for.


@dataclasses.dataclass(frozen=True)
class Scorer:
    """A model that scores requests.

    Attributes:
      model: the config that `params` belong to, a decoder.
      rows: requests in a batch; changes speed and memory.
      limit: tokens that the model reads at most; None: as many as its positions, if they are learned.
      place: where `params` lie; None: on one device.
    """

    model: models.Model
    params: PyTree
    model_state: PyTree | None = None
    rows: int = 16
    limit: int | None = None
    place: sharding.ShardingContext | None = None

    def __call__(self, requests: Sequence[Request]) -> list[SequenceScore]:
        """The score of each request.

        Raises:
          InputError: as of check().
        """
        check(self.model, requests, self.longest)
        place = sharding.MeshShape(data=1).build() if self.place is None else self.place
        rows = -(-self.rows // place.shards('batch')) * place.shards('batch')
        run, weights = _compiled(_ScoringPlan(self.model, place)), (self.params, self.model_state or {})
        scores: dict[int, SequenceScore] = {}
        for numbers, batch in _batches(requests, rows, self.longest):
            mine = place.local_rows(rows)
            placed = place.put_batch({name: value[mine] for name, value in batch.items()}, rows)
            log_p, is_greedy = jax.device_get(run(weights, placed))
            for row, number in enumerate(numbers):
                request = requests[number]
                tokens = len(request.completion)
                dropped = max(len(request.context) + tokens - 1 - (self.longest or np.inf), 0)
                scores[number] = SequenceScore(float(log_p[row]), tokens, bool(is_greedy[row]), int(dropped))
        return [scores[number] for number in range(len(requests))]

    @property
    def longest(self) -> int | None:
        """Tokens that are read at most; None where nothing limits them."""
        return longest(self.model, self.limit)


def longest(model: Any, limit: int | None = None) -> int | None:
    """Tokens that a model reads at most: `limit`, or what it has learned positions for, whichever is less."""
    known = getattr(model, 'positions', None)
    learned = None if known is None else known.length
    return min((each for each in (limit, learned) if each is not None), default=None)


def check(model: models.Model, requests: Sequence[Request], limit: int | None) -> None:
    """Raises InputError if the model cannot score one of the requests, reading `limit` tokens at most."""
    if not isinstance(model, decoding_model.Generative) or decoding_model.reads_source(model):
        raise config.InputError(f'{type(model).__name__} gives no likelihood of a text; use a Decoder.')
    for number, (context, completion) in enumerate(requests):
        if not len(context) or not len(completion):
            raise config.InputError(
                f'Request {number} has a context of {len(context)} tokens and a completion of {len(completion)}; each '
                'needs at least one. The end token begins a document.'
            )
        if limit is not None and len(completion) > limit:
            raise config.InputError(
                f'The completion of request {number} has {len(completion)} tokens, but the model reads {limit} at most.'
            )
        ids = np.concatenate([context, completion])
        if ids.min() < 0 or ids.max() >= model.vocab:
            raise config.InputError(
                f'The token ids of request {number} reach from {ids.min()} to {ids.max()}, but the model knows 0 to '
                f'{model.vocab - 1}; use the tokenizer that it was trained with.'
            )


# ---- batches ------------------------------------------------------------------------------------------------------


def _power(size: int, shortest: int) -> int:
    return max(1 << (size - 1).bit_length(), shortest)


def _widths(request: Request, limit: int | None) -> tuple[int, int]:
    """Padded lengths of the tokens that are read and of the completion. They depend on nothing but the request."""
    read = len(request.context) + len(request.completion) - 1
    width = _power(read, SHORTEST)
    return (width if limit is None else min(width, limit)), _power(len(request.completion), SHORTEST_COMPLETION)


def _batches(
    requests: Sequence[Request], rows: int, limit: int | None
) -> Iterator[tuple[list[int], dict[str, np.ndarray]]]:
    """Batches of `rows` requests of one shape, with the numbers of the requests in them; the last is padded."""
    by_shape: dict[tuple[int, int], list[int]] = {}
    for number, request in enumerate(requests):
        by_shape.setdefault(_widths(request, limit), []).append(number)
    for (width, targets), numbers in sorted(by_shape.items()):
        for start in range(0, len(numbers), rows):
            chosen = numbers[start : start + rows]
            yield chosen, _batch([requests[number] for number in chosen], rows, width, targets)


def _batch(requests: Sequence[Request], rows: int, width: int, targets: int) -> dict[str, np.ndarray]:
    """Arrays of one shape: what is read [B, width], and of each target [B, targets] its id, place and weight."""
    batch = {
        'inputs': np.zeros((rows, width), np.int32),
        'targets': np.zeros((rows, targets), np.int32),
        'masked_positions': np.zeros((rows, targets), np.int32),
        'loss_weights': np.zeros((rows, targets), np.float32),
    }
    for row, (context, completion) in enumerate(requests):
        read, count = np.concatenate([context, completion])[:-1][-width:], len(completion)
        batch['inputs'][row, : len(read)] = read
        batch['targets'][row, :count] = completion
        batch['masked_positions'][row, :count] = np.arange(len(read) - count, len(read))
        batch['loss_weights'][row, :count] = 1
    return batch


# ---- the program --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _ScoringPlan:
    """What a compiled program depends on besides the shapes of its arguments."""

    model: Any
    place: sharding.ShardingContext


@functools.lru_cache(maxsize=32)
def _compiled(plan: _ScoringPlan) -> Any:
    return jax.jit(functools.partial(_run, plan), out_shardings=plan.place.replicated)


def _run(
    plan: _ScoringPlan, weights: tuple[PyTree, PyTree], batch: dict[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """log P of each row's targets, and whether each target is the most likely token; both [B]."""
    with sharding.use(plan.place):
        apply = objective.Apply(plan.model.build(), *weights)
        # Padding stands at the right, in the future of all that counts.
        (x_BTD, _), _ = apply({'inputs': batch['inputs']}, method='features')
        x_BTD = jnp.take_along_axis(x_BTD, batch['masked_positions'][:, :, None], axis=1)

        def piece(arrays: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            x_BTD, targets_BT, weights_BT = arrays
            logits_BTV, _ = apply(x_BTD, method='unembed')
            found_BT = log_likelihood(logits_BTV, targets_BT)
            is_right_BT = (logits_BTV.argmax(axis=-1) == targets_BT) | (weights_BT == 0)
            return (found_BT * weights_BT).sum(axis=1), is_right_BT.all(axis=1)

        pieces = [_in_pieces(each) for each in (x_BTD, batch['targets'], batch['loss_weights'])]
        sums, is_greedy = jax.lax.map(piece, tuple(pieces))
        return sums.sum(axis=0), is_greedy.all(axis=0)


def _in_pieces(x: jax.Array) -> jax.Array:
    """[B, T, ...] -> [T / n, B, n, ...]."""
    length = min(PIECE, x.shape[1])
    return jnp.moveaxis(x.reshape(x.shape[0], -1, length, *x.shape[2:]), 1, 0)


def log_likelihood(logits_BTV: jax.Array, targets_BT: jax.Array) -> jax.Array:
    """log softmax(logits)[target], [B, T], in float32 at least."""
    wide_BTV = logits_BTV.astype(jnp.promote_types(logits_BTV.dtype, jnp.float32))
    picked_BT = jnp.take_along_axis(wide_BTV, targets_BT[:, :, None], axis=-1)[:, :, 0]
    return picked_BT - jax.nn.logsumexp(wide_BTV, axis=-1)
