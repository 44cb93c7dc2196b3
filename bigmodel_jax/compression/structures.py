"""Which attention heads and feed-forward units stay, and the parameters and the model without the others."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax import config
from bigmodel_jax.layers import attention, ffn

PyTree = Any
HEADS, HIDDEN = 'heads', 'hidden'  # Logical axes.


def kept(params: PyTree, *, axes: PyTree, heads: int | None, hidden: int | None) -> PyTree:
    """The parameters of the heads and units that stay, in their order; each layer chooses its own.

    The score of a head (unit) is the product of the norms of its weights in each matrix of its module: what it reads
    and what it writes both have to be small for it to be removed.

    Args:
      axes: the logical axes of each parameter.
    """
    for axis, count in ((HEADS, heads), (HIDDEN, hidden)):
        if count is not None:
            params = _without(params, axes, axis, count)
    return params


def _without(params: Any, axes: Any, axis: str, count: int) -> Any:
    own = {name: names for name, names in axes.items() if isinstance(names, tuple) and axis in names}
    found = {
        name: params[name] if isinstance(names, tuple) else _without(params[name], names, axis, count)
        for name, names in axes.items()
    }
    if not own:
        return found
    also = {'kv_heads'} if axis == HEADS else set()  # As many as heads; see smaller().
    members = {
        name: next(i for i, each in enumerate(names) if each == axis or each in also)
        for name, names in axes.items()
        if isinstance(names, tuple) and ({axis} | also) & set(names)
    }
    in_layers = next(iter(own.values()))[0] == 'layers'
    chosen = _chosen(params, members, count, in_layers=in_layers)
    for name, index in members.items():
        found[name] = _take(params[name], chosen, index, in_layers=in_layers)
    return found


def _chosen(params: Mapping[str, jax.Array], members: Mapping[str, int], count: int, *, in_layers: bool) -> jax.Array:
    """[L, count] or [count]: the indices that stay, in increasing order."""
    score: Any = 0.0
    for name, index in members.items():
        if name.endswith(('bias', 'scale')):
            continue
        whole = params[name].astype(jnp.float32)
        other = tuple(i for i in range(whole.ndim) if i != index and not (in_layers and i == 0))
        # Sums of logarithms, as products of many norms may leave the range of float32.
        score = score + 0.5 * jnp.log(jnp.square(whole).sum(axis=other) + 1e-30)
    return jnp.sort(jax.lax.top_k(score, count)[1], axis=-1)


def _take(x: jax.Array, chosen: jax.Array, index: int, *, in_layers: bool) -> jax.Array:
    if in_layers:
        return jax.vmap(lambda layer, which: jnp.take(layer, which, axis=index - 1))(x, chosen)
    return jnp.take(x, chosen, axis=index)


def smaller(model: Any, *, heads: int | None, hidden: int | None) -> Any:
    """The config of the model with fewer heads and units in every layer.

    Raises:
      InputError: it has not so many, or several query heads share a key/value head.
    """
    width = getattr(model, 'width', None)
    found = {'heads': False, 'hidden': False}

    def one(node: Any) -> Any:
        if isinstance(node, attention.Attention) and heads is not None:
            found['heads'] = True
            if node.kv_heads not in (None, node.heads):
                raise config.InputError(
                    f'--heads: {node.heads} query heads share {node.kv_heads} key/value heads, of which none is '
                    'without use as long as one of its query heads stays; remove feed-forward units instead.'
                )
            _check_fewer('heads', heads, node.heads)
            own = node.head_width or (math.nan if width is None else node.width_of_head(width))
            return config.vary(node, {'heads': heads, 'kv_heads': None, 'head_width': own})
        if isinstance(node, ffn.Mlp | ffn.Gated) and hidden is not None:
            found['hidden'] = True
            _check_fewer('hidden', hidden, node.hidden)
            return config.vary(node, {'hidden': hidden})
        return config.with_children(node, one)

    result = one(model)
    for name, count in (('heads', heads), ('hidden', hidden)):
        if count is not None and not found[name]:
            raise config.InputError(f'--{name}: {type(model).__name__} has no layers with {name}.')
    return result


def _check_fewer(name: str, count: int, now: int) -> None:
    if count >= now:
        raise config.InputError(f'--{name} {count}: the model has {now}; fewer are to stay.')
