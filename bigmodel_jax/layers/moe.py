"""Mixture of experts: each token is routed to a few of many feed-forward layers. No token is dropped.

How the work is divided. Every device sorts its own tokens by expert and multiplies each group with its expert's
matrices (kernels/grouped.py). The matrices are cast where they are stored, then gathered over the axes that cut 'embed'
(fsdp); their gradients go back the same way, as a sum that is scattered. Over the axes that cut 'experts' and 'hidden'
(expert, tensor) it is the tokens that are gathered: each device computes the experts, or the part of them, that it
owns, and the outputs are summed and scattered back. An all-to-all would move less: of 8 devices with an expert each, a
token that chose 2 needs to reach 2, not 8. But without dropping tokens its buffers must be as large as if all tokens
chose one expert, and moved in full unless the network can send ragged pieces, which only some backends can. For Mixtral
8x7B with expert=8 and 16,384 tokens of 8 KiB on a device, 0.9 GiB arrive and 0.9 GiB leave in each layer, against 2.3
GiB of the other 7 experts' matrices without the axis. Hidden activations have room for the worst case, 3.5 GiB each.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from bigmodel_jax import config, precision
from bigmodel_jax.kernels import grouped
from bigmodel_jax.layers import activations, ffn
from bigmodel_jax.layers.base import intermediates, weights
from bigmodel_jax.parallel import ordering, per_device, sharding

LARGEST = jnp.iinfo(jnp.int32).max  # Up to here an expert and a place are sorted as one number.


def route(logits_BTE: jax.Array, top_k: int) -> tuple[jax.Array, jax.Array]:
    """The experts that each token is routed to, [B, T, C] int32, and the weight of each one's output,
    [B, T, C] in the dtype of the logits.

    These are the `top_k` experts of the largest logits, and the softmax of those logits alone.

    Source: Jiang et al. (2024), arXiv:2401.04088, section 2.1.
    """
    _, chosen_BTC = jax.lax.top_k(jax.lax.stop_gradient(logits_BTE), top_k)
    # A sum over all experts, for the gradient of a lookup would be a scatter, which TPUs and the partitioner do badly.
    is_chosen_BTCE = jax.nn.one_hot(chosen_BTC, logits_BTE.shape[-1], dtype=jnp.bool_)
    logits_BTC = jnp.where(is_chosen_BTCE, logits_BTE[..., None, :], 0.0).sum(axis=-1)
    return chosen_BTC, jax.nn.softmax(logits_BTC, axis=-1)


def load_balancing_loss(logits_BTE: jax.Array, chosen_BTC: jax.Array, counts_BT: jax.Array | None = None) -> jax.Array:
    """E sum_e f_e p_e, [] float32: f_e is the part of all choices that fell on expert e, p_e its mean probability under
    the softmax over all experts. It is 1 if the experts are used alike, E if one is used for everything.

    Args:
      counts_BT: 1 where a token counts, 0 where it is padding; by default all count.

    Source: Fedus et al. (2021), arXiv:2101.03961, equations 4 to 6, there without E's coefficient alpha and for one
    choice; for more, transformers' load_balancing_loss_func() lets f sum to their number and is that times larger.
    """
    E = logits_BTE.shape[-1]
    where_BT1 = None if counts_BT is None else counts_BT[..., None] > 0
    where_BTC1 = None if where_BT1 is None else where_BT1[..., None]
    used_E = jax.nn.one_hot(chosen_BTC, E, dtype=logits_BTE.dtype).mean(axis=(0, 1, 2), where=where_BTC1)
    probability_E = jax.nn.softmax(logits_BTE, axis=-1).mean(axis=(0, 1), where=where_BT1)
    return E * (used_E * probability_E).sum()


class Assignment(NamedTuple):
    """Where the copies of tokens that go to this device's experts lie when they are sorted by expert."""

    choice_N: jax.Array  # Of each copy: which of the N x C choices it stands for.
    copy_NC: jax.Array  # Of each choice of each token: its copy; past the end for another device's expert.
    sizes_E: jax.Array  # Copies for each expert; together they may be less than the room for them.


def sort(chosen_NC: jax.Array, first: jax.Array | int, experts: int) -> Assignment:
    """The order of the copies for experts `first` to `first + experts - 1`."""
    N, C = chosen_NC.shape
    expert = chosen_NC.reshape(-1) - first
    expert = jnp.where((expert >= 0) & (expert < experts), expert, experts)
    copies = N * min(C, experts)  # The choices of one token differ.
    # Counted, for of the two orders the second follows from the first: a sort of pairs takes a TPU 5 s to compile.
    is_for_EN = expert == jnp.arange(experts)[:, None]
    rank_EN = jnp.cumsum(is_for_EN, axis=1, dtype=jnp.int32)
    sizes_E = rank_EN[:, -1]
    copy_EN = jnp.where(is_for_EN, (jnp.cumsum(sizes_E) - sizes_E)[:, None] + rank_EN - 1, 0)
    copy = jnp.where(expert < experts, copy_EN.sum(axis=0), copies)
    choice = _stable_order(expert, experts + 1)
    return Assignment(choice[:copies], copy.reshape(N, C), sizes_E)


def _stable_order(key: jax.Array, keys: int) -> jax.Array:
    """argsort of numbers below `keys`, each sorted as one number with its place if that fits: faster than a pair."""
    size = key.shape[0]
    if keys * size > LARGEST:
        return jnp.argsort(key, stable=True)
    return jax.lax.sort(key.astype(jnp.int32) * size + jnp.arange(size, dtype=jnp.int32), is_stable=False) % size


@jax.custom_vjp
def dispatch(x: jax.Array, token_N: jax.Array, copy_NC: jax.Array) -> jax.Array:
    """The copies, [copies, ...]: copy i is of x[token_N[i]], x being [N, ...].

    The transpose of combine(). Each is a lookup; the gradient that jax would make is a scatter, which is slow on TPUs.
    """
    return x[token_N]


@jax.custom_vjp
def combine(copies: jax.Array, token_N: jax.Array, copy_NC: jax.Array) -> jax.Array:
    """For each token the sum of its copies, [N, ...]; positions past the last copy count as 0. The transpose of
    dispatch()."""
    choices = [precision.raised(copies.at[copy_N].get(mode='fill', fill_value=0)) for copy_N in copy_NC.T]
    return sum(choices[1:], choices[0]).astype(copies.dtype)


Indices = tuple[jax.Array, jax.Array]


def _dispatch_forward(x: jax.Array, token_N: jax.Array, copy_NC: jax.Array) -> tuple[jax.Array, Indices]:
    return dispatch(x, token_N, copy_NC), (token_N, copy_NC)


def _dispatch_backward(indices: Indices, grad: jax.Array) -> tuple[jax.Array, None, None]:
    return combine(grad, *indices), None, None


def _combine_forward(copies: jax.Array, token_N: jax.Array, copy_NC: jax.Array) -> tuple[jax.Array, Indices]:
    return combine(copies, token_N, copy_NC), (token_N, copy_NC)


def _combine_backward(indices: Indices, grad: jax.Array) -> tuple[jax.Array, None, None]:
    return dispatch(grad, *indices), None, None


dispatch.defvjp(_dispatch_forward, _dispatch_backward)
combine.defvjp(_combine_forward, _combine_backward)


class Matrices(NamedTuple):
    """Of the experts' gated feed-forward layers; all of them, or a device's part."""

    gate_EDF: jax.Array
    up_EDF: jax.Array
    down_EFD: jax.Array


def expert_outputs(
    x_ND: jax.Array,
    chosen_NC: jax.Array,
    weights_NC: jax.Array,
    matrices: Matrices,
    *,
    activation: activations.Activation,
    first: jax.Array | int = 0,
    stored: tuple[str, ...] = (),
) -> jax.Array:
    """For each token the weighted sum of the outputs of those of these experts that it chose, [N, D].

    Args:
      first: the number of the first of these experts.
      stored: the mesh axes that cut D of matrices.down_EFD, which is this device's part; the others are whole.
    """
    C, order = chosen_NC.shape[1], sort(chosen_NC, first, matrices.gate_EDF.shape[0])
    copies_ND = dispatch(x_ND, order.choice_N // C, order.copy_NC)
    weights_N = dispatch(weights_NC.reshape(-1), order.choice_N, order.copy_NC.reshape(-1, 1))
    gate_NF = checkpoint_name(grouped.grouped_matmul(copies_ND, matrices.gate_EDF, order.sizes_E), 'gate')
    up_NF = checkpoint_name(grouped.grouped_matmul(copies_ND, matrices.up_EDF, order.sizes_E), 'up')
    # Weighted here and not after `down`, so that the gradient of the weights does not need the experts' outputs again.
    hidden_NF = _weighted(gate_NF, up_NF, weights_N, activation)
    outputs_ND = _narrowed(hidden_NF, matrices.down_EFD, order.sizes_E, stored)
    return combine(outputs_ND, order.choice_N // C, order.copy_NC)


def mixture(
    x_BTD: jax.Array,
    chosen_BTC: jax.Array,
    weights_BTC: jax.Array,
    matrices: Matrices,
    *,
    activation: activations.Activation,
) -> jax.Array:
    """expert_outputs() for a batch [B, T, D] and matrices that are sharded over devices; see the top of the file."""
    batch, length = (sharding.even(logical, size) for logical, size in zip(('batch', 'residual_length'), x_BTD.shape))
    of_tokens = sharding.names(batch, length)
    of_experts, of_matrices = sharding.names('experts'), sharding.names('experts', 'hidden')
    gathered = tuple(axis for axis in of_matrices if axis in of_tokens)
    replicated = tuple(axis for axis in of_matrices if axis not in of_tokens)
    # With a rule table that cuts both sides of a matrix over one axis, the compiler gathers them before part().
    embed = 'embed' if set(sharding.names('embed')).isdisjoint(sharding.names('hidden')) else ''
    stored = tuple(axis for axis in sharding.names(embed) if axis not in of_experts)

    def part(x_btD: jax.Array, chosen_btC: jax.Array, weights_btC: jax.Array, *here: jax.Array) -> jax.Array:
        gate_EDF, up_EDF, down_EFD = here
        matrices = Matrices(_whole(gate_EDF, stored, 1), _whole(up_EDF, stored, 1), down_EFD)
        tokens = [each.reshape(-1, each.shape[-1]) for each in (x_btD, chosen_btC, weights_btC)]
        x_ND, chosen_NC, weights_NC = (
            jax.lax.all_gather(each, gathered, tiled=True) if gathered else each for each in tokens
        )
        first = jax.lax.axis_index(of_experts) * len(matrices.gate_EDF) if of_experts else 0
        y_ND = expert_outputs(x_ND, chosen_NC, weights_NC, matrices, activation=activation, first=first, stored=stored)
        if gathered:
            y_ND = jax.lax.psum_scatter(y_ND, gathered, tiled=True)
        if replicated:
            y_ND = jax.lax.psum(y_ND, replicated)
        return y_ND.reshape(x_btD.shape)

    tokens, wide, narrow = (batch, length, None), ('experts', embed, 'hidden'), ('experts', 'hidden', embed)
    together = per_device.shard_map(part, inputs=(tokens, tokens, tokens, wide, wide, narrow), outputs=tokens)
    return together(x_BTD, chosen_BTC, weights_BTC, *matrices)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _whole(x: jax.Array, axes: tuple[str, ...], dimension: int) -> jax.Array:
    """`x` with the parts of `dimension` that the devices along some mesh axes hold; its transpose sums and scatters."""
    return jax.lax.all_gather(x, axes, axis=dimension, tiled=True) if axes else x


def _whole_forward(x: jax.Array, axes: tuple[str, ...], dimension: int) -> tuple[jax.Array, None]:
    return _whole(x, axes, dimension), None


def _whole_backward(axes: tuple[str, ...], dimension: int, _: None, grad: jax.Array) -> tuple[jax.Array]:
    for axis in axes:
        grad = per_device.psum_scatter(grad, dimension, axis)
    return (grad,)


_whole.defvjp(_whole_forward, _whole_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _weighted(
    gate_NF: jax.Array, up_NF: jax.Array, weights_N: jax.Array, activation: activations.Activation
) -> jax.Array:
    """activation(gate) * up * weights, [N, F].

    In the backward pass the gradient of the weights comes first: the others can then take the memory of what they are
    made of.
    """
    return _plainly_weighted(gate_NF, up_NF, weights_N, activation)


def _plainly_weighted(
    gate_NF: jax.Array, up_NF: jax.Array, weights_N: jax.Array, activation: activations.Activation
) -> jax.Array:
    return (activation(gate_NF) * up_NF * weights_N[:, None]).astype(gate_NF.dtype)


Weighted = tuple[jax.Array, jax.Array, jax.Array]


def _weighted_forward(
    gate_NF: jax.Array, up_NF: jax.Array, weights_N: jax.Array, activation: activations.Activation
) -> tuple[jax.Array, Weighted]:
    return _weighted(gate_NF, up_NF, weights_N, activation), (gate_NF, up_NF, weights_N)


def _weighted_backward(activation: activations.Activation, saved: Weighted, grad_NF: jax.Array) -> Weighted:
    gate_NF, up_NF, weights_N = saved
    plain = functools.partial(_plainly_weighted, activation=activation)
    (of_weights_N,) = jax.vjp(lambda weights_N: plain(gate_NF, up_NF, weights_N), weights_N)[1](grad_NF)
    of_weights_N, grad_NF = ordering.one_by_one(of_weights_N, grad_NF)
    of_gate_NF, of_up_NF = jax.vjp(lambda gate_NF, up_NF: plain(gate_NF, up_NF, weights_N), gate_NF, up_NF)[1](grad_NF)
    return of_gate_NF, of_up_NF, of_weights_N


_weighted.defvjp(_weighted_forward, _weighted_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _narrowed(hidden_NF: jax.Array, down_EFd: jax.Array, sizes_E: jax.Array, stored: tuple[str, ...]) -> jax.Array:
    """grouped_matmul() by matrices of which a device has a part of D.

    In the backward pass their gradient is made and scattered before they are gathered for that of the activations, so
    that neither these nor the whole gradient wait in memory beside the whole matrices.
    """
    return grouped.grouped_matmul(hidden_NF, _whole(down_EFd, stored, 2), sizes_E)


Product = tuple[jax.Array, jax.Array, jax.Array]


def _narrowed_forward(
    hidden_NF: jax.Array, down_EFd: jax.Array, sizes_E: jax.Array, stored: tuple[str, ...]
) -> tuple[jax.Array, Product]:
    return _narrowed(hidden_NF, down_EFd, sizes_E, stored), (hidden_NF, down_EFd, sizes_E)


def _narrowed_backward(
    stored: tuple[str, ...], saved: Product, grad_ND: jax.Array
) -> tuple[jax.Array, jax.Array, None]:
    hidden_NF, down_EFd, sizes_E = saved
    down_EFD = jax.eval_shape(lambda: _whole(down_EFd, stored, 2))
    of_down_EFD = grouped.gradient_of_matrices(hidden_NF, down_EFD, sizes_E, grad_ND)
    (of_down_EFd,) = _whole_backward(stored, 2, None, of_down_EFD)
    of_down_EFd, (down_EFd, grad_ND) = ordering.one_by_one(of_down_EFd, (down_EFd, grad_ND))
    whole_EFD = _whole(down_EFd, stored, 2)
    return grouped.gradient_of_rows(hidden_NF, whole_EFD, sizes_E, grad_ND), of_down_EFd, None


_narrowed.defvjp(_narrowed_forward, _narrowed_backward)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Routed(ffn.Ffn):
    """Mixture of experts that drops no token: each is routed to `top_k`, as in Mixtral (Jiang et al., 2024,
    arXiv:2401.04088).

    `balance` weighs load_balancing_loss(), which is 1 at best, and `z_loss` the mean squared log-normaliser of the
    router (Zoph et al., 2022, arXiv:2202.08906, equation 5: 0.001). Both are added to the objective for each layer.
    They are means over all tokens, padding too, of each microbatch (or of a pipeline's), and so depend a little on how
    many there are.
    """

    experts: config.Positive  # E
    hidden: config.Positive  # F of each expert.
    top_k: config.Positive = 2  # C
    activation: activations.Activation = activations.Silu()
    balance: config.Rate = 0.01  # Fedus et al. (2021), section 2.2.
    z_loss: config.Rate = 0.0
    init: weights.Initializer = weights.FanIn()
    out_init: weights.Initializer | None = None

    def build(self, name: str | None = None) -> nn.Module:
        if self.top_k > self.experts:
            raise config.InputError(
                f'ffn.top_k={self.top_k} is more than ffn.experts={self.experts}; use at most {self.experts}.'
            )
        return RoutedModule(self, name=name)


class RoutedModule(nn.Module):
    """Owns router_DE, gate_EDF, up_EDF and down_EFD; sows its auxiliary losses into 'losses'."""

    config: Routed

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        c, D, E, F = self.config, x_BTD.shape[-1], self.config.experts, self.config.hidden
        draw = functools.partial(weights.weight, self, init=c.init, inputs=('embed',), dtype=x_BTD.dtype)
        wide = {'experts': E, 'embed': D, 'hidden': F}
        gate_EDF, up_EDF = draw('gate', wide), draw('up', wide)
        narrow, out_init = {'experts': E, 'hidden': F, 'embed': D}, c.out_init or c.init
        down_EFD = draw('down', narrow, init=out_init, inputs=('hidden',))
        router_DE = draw('router', {'embed': D, 'experts': E}, dtype=precision.sums(x_BTD.dtype))
        # Small and whole everywhere, so that it takes the tokens as the stream is cut; else these would move.
        router_DE = sharding.constrain(router_DE, None, None)
        x_BTD = sharding.constrain(x_BTD, 'batch', 'residual_length', 'embed')
        # In float32, for an exponential follows (Fedus et al., 2021, section 2.4); TPUs would multiply in bfloat16.
        logits_BTE = jnp.einsum('BTD,DE->BTE', precision.raised(x_BTD), router_DE, precision='highest')
        chosen_BTC, weights_BTC = route(logits_BTE, c.top_k)
        intermediates.sow(self, intermediates.ROUTER_LOGITS, 'logits', logits_BTE)
        self._sow_loss('balance', c.balance, load_balancing_loss(logits_BTE, chosen_BTC))
        self._sow_loss('router_z', c.z_loss, jnp.square(jax.nn.logsumexp(logits_BTE, axis=-1)).mean())
        matrices = Matrices(gate_EDF, up_EDF, down_EFD)
        return mixture(x_BTD, chosen_BTC, weights_BTC, matrices, activation=c.activation)

    def _sow_loss(self, name: str, weight: float, value: jax.Array) -> None:
        # While weights are drawn nothing is minimised, and what is sown would be taken for state of the model.
        if weight and not self.is_initializing():
            collection, dtype = intermediates.LOSSES, value.dtype
            self.sow(collection, name, weight * value, reduce_fn=jnp.add, init_fn=lambda: jnp.zeros((), dtype))
