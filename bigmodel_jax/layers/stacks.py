"""Layers repeated: scanned by default, so that compile time does not grow with depth, or unrolled.

Both keep one set of weights with a leading 'layers' axis, and compute the same numbers from it. The layers may be of
any kind and carry any pytree; see layer.py.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.layers.base import intermediates, layer
from bigmodel_jax.parallel import pipeline, sharding

# What layers name for the backward pass, per token: the residual stream [D] where it enters the layer, and after the
# mixer or cross-attention ('post_mixer'); query, key and value after rotation [H K, G K, G K]; the output of the
# attention kernel [H K]; the inputs of the activation of the feed-forward layer [F each; without a gate 'up' alone].
Name = Literal['residual_stream', 'post_mixer', 'query', 'key', 'value', 'attention', 'gate', 'up']
Policy = Callable[..., Any]
PyTree = Any
Pattern = tuple[layer.Layer, ...]  # The kinds of layers, in turn; mostly one.
State = tuple[PyTree, ...]  # Of each layer of the pattern, and of those that remain; see initial_state().
Call = Callable[..., tuple[PyTree, PyTree]]

_named = jax.checkpoint_policies.save_only_these_names
# What the backward pass keeps from the forward pass beside the input of each layer; the rest is computed again.
POLICIES: dict[str, Policy | None] = {
    'full': jax.checkpoint_policies.nothing_saveable,
    'attention': _named('attention'),
    'heads': _named('attention', 'query', 'key', 'value'),
    'projections': _named('attention', 'query', 'key', 'value', 'post_mixer', 'gate', 'up'),
    'none': None,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'all_dots': jax.checkpoint_policies.dots_saveable,
    'offload': jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=['residual_stream'],
        offload_src='device',
        offload_dst='pinned_host',
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """How the layers are compiled. Changes speed and memory, not the result.

    Rematerialisation (Chen et al., 2016, arXiv:1604.06174), from the least memory to the fewest FLOPs; kept numbers are
    per token and layer (letters as in the legend of the package):

      remat          kept                      computed again
      'offload'      nothing; D on the host    as 'full'; the residual stream is kept in host memory
      'full'         D                         the whole forward pass: a third more FLOPs
      'attention'    D + H K                   every product with weights, but no scores: for long rows
      'heads'        D + 2 (H + G) K           the output of attention, and the feed-forward layer
      'projections'  2 D + 2 (H + G) K + 2 F   norms and activations: no product at all
      'none'         every intermediate        nothing

    'dots' keeps the products with weights, whatever the layers are: for layers that name nothing. 'all_dots' keeps the
    products within attention too: on a CPU, where a scan copies what it keeps, a small scanned model trains 8% faster
    so than with 'none', and needs half the memory (scripts/benchmark/step_time.py). A tuple of names keeps just those.
    """

    scan: bool = True
    remat: (
        Literal['none', 'full', 'attention', 'heads', 'projections', 'dots', 'all_dots', 'offload'] | tuple[Name, ...]
    ) = 'none'

    def build(self, pattern: Pattern, layers: int, name: str | None = None) -> nn.Module:
        """The module of `layers` layers: layer i is the (i mod n)-th of the n layers of `pattern`.

        Where `layers` is no multiple of n, the layers that remain follow the last whole pattern.
        """
        return StackModule(self, pattern=pattern, layers=layers, name=name)

    @property
    def policy(self) -> Policy | None:
        """The rematerialization policy of jax.checkpoint; None to keep everything."""
        return POLICIES[self.remat] if isinstance(self.remat, str) else _named(*self.remat)

    def rematerialized(self, call: Call) -> Call:
        """`call`, rematerialized in the backward pass as the policy says."""
        if self.policy is None:
            return call
        # Inside a scan nothing can be merged across the checkpoint anyway; unrolled, XLA must be kept from it.
        return nn.remat(call, policy=self.policy, prevent_cse=not self.scan)


def _call(module: nn.Module, carry: PyTree, inputs: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
    return module(carry, inputs, state)


class PatternModule(nn.Module):
    """Owns one layer of each kind of an interleaved pattern, 'turn0', 'turn1' ...; the stack repeats all of them."""

    config: Stack
    pattern: Pattern

    @nn.compact
    def __call__(
        self, carry: PyTree, inputs: PyTree, states: tuple[PyTree, ...] | None
    ) -> tuple[PyTree, tuple[PyTree, ...] | None]:
        """As of a layer; `states` has one state for each layer of the pattern."""
        after, call = [], self.config.rematerialized(_call)
        for index, each in enumerate(self.pattern):
            state = None if states is None else states[index]
            carry, state = call(each.build(f'{intermediates.TURN}{index}'), carry, inputs, state)
            after.append(state)
        return carry, None if states is None else tuple(after)


class StackModule(nn.Module):
    """Owns the weights of `layers` layers, stacked along a leading 'layers' axis; of a pattern of n layers each has its
    own, layers / n copies. Layers that remain of a pattern are in 'tail', with a leading axis of 1."""

    config: Stack
    pattern: Pattern
    layers: int

    @nn.compact
    def __call__(self, carry: PyTree, inputs: PyTree, state: State | None = None) -> tuple[PyTree, State | None]:
        """The carry after the last layer, and the state of all layers; see initial_state().

        Where the mesh splits the layers into stages, the batch flows through them as in parallel/pipeline.py. Reading
        in pieces, with a state, does not use the pipeline: a step of one token has nothing to fill it with.
        """
        intermediates.sow(self, intermediates.RESIDUAL_STREAM, 'before', carry)
        place = sharding.current()
        if place is not None and place.shards('layers') > 1 and state is None and not self.is_initializing():
            return self._pipelined(place, carry, inputs), None
        kinds, repeats, rest = len(self.pattern), *divmod(self.layers, len(self.pattern))
        scanned, repeated = self._scanned(self._repeated_call(), repeats), self._repeated(name='layers')
        if kinds == 1:
            carry, after = scanned(repeated, carry, inputs, None if state is None else state[0])
            return carry, None if state is None else (after,)
        carry, after = scanned(repeated, carry, inputs, None if state is None else state[:kinds])
        if not rest:
            return carry, after
        tail = PatternModule(self.config, self.pattern[:rest], name=intermediates.TAIL)
        carry, last = self._scanned(_call, 1)(tail, carry, inputs, None if state is None else state[kinds:])
        return carry, None if state is None else (*after, *last)

    def _scanned(self, call: Call, repeats: int) -> Call:
        """`call` of a module that is repeated so often, each time with weights of its own."""
        scanned: Call = nn.scan(
            call,
            variable_axes={True: 0},
            split_rngs={True: True},
            in_axes=(nn.broadcast, 0),
            length=repeats,
            unroll=1 if self.config.scan else repeats,
            metadata_params={nn.PARTITION_NAME: 'layers'},
        )
        return scanned

    def _repeated(self, name: str | None) -> nn.Module:
        """The module that is repeated: a layer, or one layer of each kind."""
        if len(self.pattern) > 1:
            return PatternModule(self.config, self.pattern, name=name)
        return self.pattern[0].build(name)

    def _repeated_call(self) -> Call:
        """How it is called: the layers of a pattern are rematerialized one by one."""
        return _call if len(self.pattern) > 1 else self.config.rematerialized(_call)

    def _pipelined(self, place: sharding.ShardingContext, x_BTD: jax.Array, inputs: PyTree) -> jax.Array:
        """The residual stream after all layers, each stage of them on its own devices."""
        if self.layers % len(self.pattern):
            raise config.InputError(
                f'The {self.layers} layers are no multiple of the {len(self.pattern)} of the interleaved pattern, and '
                'cannot be split into stages of a pipeline; use mesh.pipeline=1.'
            )
        if any(intermediates.requested(self, collection) for collection in intermediates.COLLECTIONS):
            raise config.InputError(
                f'{", ".join(intermediates.COLLECTIONS)} are not available with a pipeline of layers; '
                'use mesh.pipeline=1.'
            )
        repeated, policy = self._repeated(name=None).clone(parent=None), self.config.policy
        kept = [intermediates.LOSSES] if self.is_mutable_collection(intermediates.LOSSES) else []

        def apply(weights: PyTree, x_BTD: jax.Array, inputs: PyTree, key: jax.Array | None) -> tuple[jax.Array, Any]:
            rngs = {} if key is None else {'dropout': key}
            (x_BTD, _), sown = repeated.apply({'params': weights}, x_BTD, inputs, None, rngs=rngs, mutable=kept)
            return x_BTD, sown.get(intermediates.LOSSES, {})

        if policy is not None and len(self.pattern) == 1:  # A pattern does so for each of its layers.
            apply = jax.checkpoint(apply, policy=policy, prevent_cse=False)
        weights = self.variables['params']['layers']
        key = self.make_rng('dropout') if self.has_rng('dropout') else None
        x_BTD, sown = pipeline.run(apply, weights, x_BTD, inputs, place=place, key=key)
        if sown:
            # Where, and in the form in which, the scan above leaves them.
            self.put_variable(intermediates.LOSSES, 'layers', sown)
        return x_BTD


def initial_state(pattern: Pattern, layers: int, rows: int, length: int, *, width: int, dtype: str) -> State:
    """The state of all layers before the first token of `rows` sequences of up to `length` tokens.

    One tree for each layer of the pattern, whose arrays have a leading axis of layers / n, then the rows; and one for
    each layer that remains, with a leading axis of 1.
    """
    repeats, rest = divmod(layers, len(pattern))

    def of(some: Pattern, repeats: int) -> State:
        states = tuple(each.initial_state(rows, length, width=width, dtype=dtype) for each in some)
        repeated: State = jax.tree.map(lambda leaf: jnp.repeat(leaf[None], repeats, axis=0), states)
        return repeated

    return of(pattern, repeats) + of(pattern[:rest], 1)


def check(pattern: Pattern, layers: int, *, width: int, length: int) -> None:
    """Raises InputError where `layers` layers of a model of this width, for inputs of this length, cannot be these."""
    if layers < len(pattern):
        raise config.InputError(
            f'layers={layers} is less than the {len(pattern)} layers of the interleaved pattern; '
            f'use at least {len(pattern)} layers, or a shorter pattern.'
        )
    for each in pattern:
        each.check(width, length)
