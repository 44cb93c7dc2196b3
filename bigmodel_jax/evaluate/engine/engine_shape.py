"""The shapes of the programs that generate text: they decide the last bits of a result, the load never does."""

import dataclasses
from typing import Any

import jax

from bigmodel_jax import config
from bigmodel_jax.evaluate.text import decoding_model, likelihood
from bigmodel_jax.layers import kv_cache

UNLIMITED_LENGTH = 2_048  # Of a model that has learned no positions, where nobody says more.


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineShape:
    """The shapes of an engine's programs.

    Two engines of equal shapes give the same bits, whatever else they generate and however many rows they hold.
    """

    group: config.Positive = 16  # Rows that one call of the decoding program continues.
    chunk: config.Positive = 32  # Tokens of a prompt that one call reads; prompts are cut at its multiples.
    page: config.Positive = 32  # Positions in a page of the cache.


DEFAULT = EngineShape()


@dataclasses.dataclass(frozen=True)
class CacheShape:
    """What is stored of a position: of each layer G keys and values of width K."""

    layers: tuple[int, ...]  # How many there are of each layer of the pattern, and of those that remain.
    heads: int
    head_width: int
    dtype: str

    @property
    def position_bytes(self) -> int:
        """Of one position of one row."""
        return 2 * sum(self.layers) * self.heads * self.head_width * jax.numpy.dtype(self.dtype).itemsize


def unsupported_reason(model: Any) -> str | None:
    """Why an engine cannot generate with a model; None if it can."""
    if not isinstance(model, decoding_model.Generative):
        return f'{type(model).__name__} does not generate text'
    if decoding_model.reads_source(model):
        return f'{type(model).__name__} reads a source for each text'
    caches = _caches(model)
    if not all(isinstance(each, kv_cache.KeyValueCache) for each in caches):
        return 'a layer has a state other than the keys and values of attention'
    if len({each.k_BSGK.shape[3:] for each in caches}) != 1:
        return 'its layers have key/value heads of different sizes'
    if _biased(model):
        return f'{type(model.positions).__name__}() adds a bias to the scores'
    return None


def cache_shape(model: Any) -> CacheShape:
    """What is stored of a position of a model that an engine supports."""
    caches = _caches(model)
    G, K = caches[0].k_BSGK.shape[3:]
    return CacheShape(tuple(len(each.k_BSGK) for each in caches), G, K, str(caches[0].k_BSGK.dtype))


def longest(model: Any, limit: int | None = None) -> int:
    """Tokens of a text at most: `limit` (None: UNLIMITED_LENGTH), or what its positions or its cache allow."""
    known = likelihood.longest(model, decoding_model.cache_length(model))
    if known is None:
        return limit or UNLIMITED_LENGTH
    return min(limit or known + 1, known + 1)  # The last new token is never read.


def _caches(model: Any) -> list[Any]:
    state = jax.eval_shape(lambda: model.initial_state(1, 1))
    return jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, kv_cache.KeyValueCache))


def _biased(model: Any) -> bool:
    if model.positions is None:
        return False
    module, one = model.positions.build(), jax.ShapeDtypeStruct((1, 1), 'int32')

    def bias(here_BT: jax.Array) -> Any:
        key = jax.random.key(0)
        return module.init_with_output(key, here_BT, here_BT, jax.numpy.float32, method='bias')[0]

    return jax.eval_shape(bias, one) is not None
