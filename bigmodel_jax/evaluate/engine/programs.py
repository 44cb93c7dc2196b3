"""The compiled programs of an engine, of a few shapes, so that what a row computes is the same at any load.

  read      a chunk of one prompt, or one token of each row of a group: gives the logits after the last token, and
            writes keys and values to their pages
  score     a chunk of one prompt, with log p of the tokens that follow and the sum of the features as well
  restrict  logits without those that are not to be drawn (top_k, top_p)
  draw      a token for each row, and its log-probability
  best      the most likely tokens of each row

The last three run for one row after a prompt, and for as many rows as `read`: a group, or few (row_checks.py).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from bigmodel_jax import precision
from bigmodel_jax.evaluate.engine import engine_shape
from bigmodel_jax.evaluate.text import decoding_model, likelihood
from bigmodel_jax.kernels import context as contexts
from bigmodel_jax.layers import kv_cache
from bigmodel_jax.objectives import objective
from bigmodel_jax.parallel import sharding

PyTree = Any
Pool = tuple[jax.Array, jax.Array]  # Keys and values, [L, N, S, G, K] each.
BEST = 20  # Most likely tokens that are told of a position at most.


@dataclasses.dataclass(frozen=True)
class EnginePlan:
    """What the programs depend on besides the shapes of their arguments."""

    model: Any
    place: sharding.ShardingContext

    @property
    def pool_sharding(self) -> jax.sharding.Sharding:
        """Of keys and values: the heads as the mesh splits them in attention, where they divide."""
        heads = engine_shape.cache_shape(self.model).heads
        axis = 'kv_heads' if heads % self.place.shards('kv_heads') == 0 else None
        return self.place.sharding((None, None, None, axis, None))

    def empty_pool(self, pages: int, shape: engine_shape.EngineShape) -> Pool:
        """A pool of `pages` pages of zeros."""
        cache = engine_shape.cache_shape(self.model)
        size = (sum(cache.layers), pages, shape.page, cache.heads, cache.head_width)
        zeros = jax.jit(lambda: (jnp.zeros(size, cache.dtype),) * 2, out_shardings=(self.pool_sharding,) * 2)
        made: Pool = zeros()
        return made


class RowInputs(NamedTuple):
    """What rows read on, all int32. A row that does nothing has length 0, and SCRATCH for all its pages."""

    tokens_BT: Any
    lengths_B: Any  # Positions that are in the pages already; the tokens stand after them.
    counts_B: Any  # Tokens that are read; the others are padding.
    table_BN: Any
    targets_BT: Any = None  # The tokens that follow, of `score`.


class Drawing(NamedTuple):
    """How the token after each row is drawn."""

    temperature_B: Any  # float32; 0 takes the most likely token.
    key_data: Any  # [B, 2] uint32: of the key of the request's seed.
    choice_B: Any  # int32: which of the texts that are drawn with this seed.
    positions_B: Any  # int32: where the token will stand.


class Restriction(NamedTuple):
    """Which tokens may be drawn; see decoding.candidates()."""

    temperature_B: Any  # float32.
    top_k_B: Any  # int32; the size of the vocabulary for all.
    top_p_B: Any  # float32; 1 for all.


class EnginePrograms(NamedTuple):
    """The programs, jitted; see the top of the file."""

    read: Callable[..., Any]
    score: Callable[..., Any]
    restrict: Callable[..., Any]
    draw: Callable[..., Any]
    best: Callable[..., Any]


@functools.lru_cache(maxsize=8)
def programs(plan: EnginePlan) -> EnginePrograms:
    """The programs of a plan; they compile when they are first called with a shape."""
    whole, pool = plan.place.replicated, (plan.pool_sharding,) * 2
    jitted = functools.partial(jax.jit, compiler_options=_compiler_options(plan.place.platform))
    of_pool = functools.partial(jitted, donate_argnums=0, out_shardings=(pool, whole))
    return EnginePrograms(
        of_pool(functools.partial(_read, plan)),
        of_pool(functools.partial(_score, plan)),
        *(jitted(function, out_shardings=whole) for function in (restricted, drawn, likeliest)),
    )


@functools.cache
def _compiler_options(platform: str) -> dict[str, str]:
    """Options of the compiler with which a row adds in the same order in programs for few rows and for many.

    On a CPU XLA leaves sums over 4,096 numbers or more to a library (YNNPACK), which adds in another order than XLA
    does for fewer: so the number of rows would decide. With this option the library computes products of matrices only.
    """
    options = {'xla_cpu_experimental_ynn_fusion_type': 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT'}
    if platform != 'cpu':
        return {}
    try:
        jax.jit(jnp.negative, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}  # This version does not know it; row_checks.equal_counts() finds which programs are equal without it.
    return options


# ---- the model ----------------------------------------------------------------------------------------------------


def _features(
    plan: EnginePlan, pool: Pool, weights: tuple[PyTree, PyTree], rows: RowInputs
) -> tuple[objective.Apply, Pool, jax.Array]:
    """The features [B, T, D] of tokens that follow what is in the pages, and the pool with their keys and values."""
    apply = objective.Apply(plan.model.build(), *weights)
    here_BT = rows.lengths_B[:, None] + jnp.arange(rows.tokens_BT.shape[1])
    known = likelihood.longest(plan.model, decoding_model.cache_length(plan.model))
    if known is not None:  # Of padding, whose features are not used.
        here_BT = jnp.minimum(here_BT, known - 1)
    pages = contexts.Pages(*pool, rows.table_BN, rows.lengths_B)
    batch = {'inputs': rows.tokens_BT, 'positions': here_BT, 'pages': pages}
    numbers, first = [], 0
    for count in engine_shape.cache_shape(plan.model).layers:
        numbers.append(jnp.arange(first, first + count))
        first += count
    (x_BTD, new), _ = apply(batch, tuple(numbers), method='features')
    return apply, _stored(pool, new, rows), x_BTD


def _stored(pool: Pool, new: tuple[kv_cache.KeyValueCache, ...], rows: RowInputs) -> Pool:
    """The pool with the keys and values of this call, [layers, B, T, G, K] for each layer of the pattern."""
    S, T = pool[0].shape[2], rows.tokens_BT.shape[1]
    offset_BT = rows.lengths_B[:, None] + jnp.arange(T)
    is_token_BT = jnp.arange(T) < rows.counts_B[:, None]
    number_BT = jnp.minimum(offset_BT // S, rows.table_BN.shape[1] - 1)
    # Padding goes to the page of nobody.
    page_BT = jnp.where(is_token_BT, jnp.take_along_axis(rows.table_BN, number_BT, axis=1), 0)
    stored = []
    for whole, parts in zip(pool, zip(*new)):
        layers = jnp.concatenate(parts)
        stored.append(whole.at[:, page_BT, offset_BT % S].set(layers.astype(whole.dtype)))
    return stored[0], stored[1]


def _last_logits(apply: objective.Apply, x_BTD: jax.Array, rows: RowInputs) -> jax.Array:
    """Logits [B, V] after the last token of each row, in float32 at least."""
    last_B = jnp.maximum(rows.counts_B - 1, 0)
    logits_B1V, _ = apply(jnp.take_along_axis(x_BTD, last_B[:, None, None], axis=1), method='unembed')
    return precision.raised(logits_B1V[:, 0])


def _read(plan: EnginePlan, pool: Pool, weights: tuple[PyTree, PyTree], rows: RowInputs) -> tuple[Pool, jax.Array]:
    """The pool with the keys and values of some tokens, and the logits [B, V] after the last of each row."""
    with sharding.use(plan.place):
        apply, pool, x_BTD = _features(plan, pool, weights, rows)
        return pool, _last_logits(apply, x_BTD, rows)


def _score(
    plan: EnginePlan, pool: Pool, weights: tuple[PyTree, PyTree], rows: RowInputs
) -> tuple[Pool, tuple[jax.Array, jax.Array, jax.Array]]:
    """As _read(), and log p of each target [B, T], and the sum of the features of the tokens [B, D] float32."""
    with sharding.use(plan.place):
        apply, pool, x_BTD = _features(plan, pool, weights, rows)
        logits_BTV, _ = apply(x_BTD, method='unembed')
        is_token_BT1 = (jnp.arange(x_BTD.shape[1]) < rows.counts_B[:, None])[..., None]
        sums_BD = jnp.where(is_token_BT1, precision.raised(x_BTD), 0).sum(axis=1)
        return pool, (
            _last_logits(apply, x_BTD, rows),
            likelihood.log_likelihood(logits_BTV, rows.targets_BT),
            sums_BD,
        )


# ---- the next token -----------------------------------------------------------------------------------------------


def restricted(logits_BV: jax.Array, how: Restriction) -> jax.Array:
    """Logits [B, V], -inf where a token is not to be drawn, as decoding.candidates() of each row; not divided by the
    temperature, which top_p regards."""
    by_rank_BV = -jnp.sort(-logits_BV, axis=-1)
    kth_B1 = jnp.take_along_axis(by_rank_BV, how.top_k_B[:, None] - 1, axis=-1)
    rank_V = jnp.arange(logits_BV.shape[-1])
    falling_BV = jnp.where(by_rank_BV < kth_B1, -jnp.inf, by_rank_BV)
    warm_B1 = jnp.maximum(how.temperature_B, jnp.finfo(jnp.float32).tiny)[:, None]
    p_BV = jax.nn.softmax((falling_BV - falling_BV[:, :1]) / warm_B1, axis=-1)
    is_needed_BV = (jnp.cumsum(p_BV, axis=-1) - p_BV < how.top_p_B[:, None]) | (rank_V == 0)
    is_needed_BV |= how.top_p_B[:, None] >= 1
    last_B1 = jnp.where(is_needed_BV, falling_BV, jnp.inf).min(axis=-1, keepdims=True)
    return jnp.where((logits_BV < kth_B1) | (logits_BV < last_B1), -jnp.inf, logits_BV)


def drawn(logits_BV: jax.Array, allowed_BV: jax.Array, how: Drawing) -> tuple[jax.Array, jax.Array]:
    """The token after each row, and log p of it under the model: with no temperature, and over all tokens.

    The draw depends on the seed, the choice and the position only, as in decoding.Sampling.
    """
    keys_B = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(how.key_data), how.choice_B)
    keys_B = jax.vmap(jax.random.fold_in)(keys_B, how.positions_B)
    # So that nothing overflows: the largest stays 0, and the others fall to -inf if they must.
    scores_BV = allowed_BV - allowed_BV.max(axis=-1, keepdims=True)
    warm_B1 = jnp.maximum(how.temperature_B, jnp.finfo(jnp.float32).tiny)[:, None]
    sampled_B = jax.vmap(jax.random.categorical)(keys_B, scores_BV / warm_B1)
    token_B = jnp.where(how.temperature_B > 0, sampled_B, logits_BV.argmax(axis=-1)).astype(jnp.int32)
    return token_B, likelihood.log_likelihood(logits_BV[:, None], token_B[:, None])[:, 0]


def likeliest(logits_BV: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The log-probabilities of the BEST most likely tokens of each row, and the tokens; both [B, BEST] or [B, V]."""
    best, tokens = jax.lax.top_k(logits_BV, min(BEST, logits_BV.shape[-1]))
    return best - jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True), tokens
