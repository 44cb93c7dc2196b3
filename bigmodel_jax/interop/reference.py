"""Inputs and outputs under the names of the reference implementations: masks, labels, hidden states and losses."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.layers import activations, attention, blocks, positions
from bigmodel_jax.layers.base import intermediates

IGNORED = -100  # A label that does not count.
ACTIVATIONS: dict[str, activations.Activation] = {
    'gelu_new': activations.Gelu(approximate=True),
    'gelu_pytorch_tanh': activations.Gelu(approximate=True),
    'gelu': activations.Gelu(approximate=False),
    'quick_gelu': activations.QuickGelu(),
    'relu': activations.Relu(),
    'silu': activations.Silu(),
    'swish': activations.Silu(),
}


def activation_name(activation: activations.Activation | None) -> str:
    """What a config.json calls an activation.

    Raises:
      InputError: it has no name for it.
    """
    found = [name for name, each in ACTIVATIONS.items() if each == activation]
    if not found:
        raise config.InputError(f'A config.json has no name for the activation {config.format_value(activation)}.')
    return found[0]


def need(value: Any, kind: type, what: str) -> Any:
    """`value`, if it is of the class that a family has in this place.

    Raises:
      InputError: it is not.
    """
    if not isinstance(value, kind):
        raise config.InputError(f'{what} should be a {kind.__name__}, not {config.format_value(value)}.')
    return value


def block_of(model: Any) -> blocks.Block:
    """The block that a model's layers are, in every family."""
    found: blocks.Block = need(model.block, blocks.Block, 'model.block')
    return found


def attention_of(model: Any) -> attention.Attention:
    """The attention of a model's layers, which every family has."""
    mixer: attention.Attention = need(block_of(model).mixer, attention.Attention, 'model.block.mixer')
    return mixer


def windows(model: Any) -> list[int]:
    """The widths of the bands of attention of a model's layers, where they have any."""
    mixers = [getattr(each, 'mixer', None) for each in (block_of(model), *getattr(model, 'interleaved', ()))]
    return [each.window for each in mixers if isinstance(each, attention.Attention) and each.window is not None]


def without_windows(model: Any) -> Any:
    """The model whose layers attend to all earlier positions."""
    dense = config.vary(model, {'block.mixer.window': None})
    others = getattr(model, 'interleaved', ())
    if not others:
        return dense
    return config.vary(dense, {'interleaved': tuple(config.vary(each, {'mixer.window': None}) for each in others)})


def learned_length(known: Any) -> int:
    """How many positions are learned."""
    return need(known, positions.Learned, 'model.positions').length


# ---- inputs -------------------------------------------------------------------------------------------------------


def batch_of(
    inputs: Mapping[str, np.ndarray], names: Mapping[str, str], *, vocab: int, needs: tuple[str, ...] = ('input_ids',)
) -> dict[str, np.ndarray]:
    """Our batch of the reference's inputs.

    Args:
      names: name there -> name here; those that are the same in both keep theirs.
      vocab: below which every token is.
      needs: inputs that must be there.

    Raises:
      InputError: an input is unknown or missing, or is not an array of integers in its range.
    """
    missing = [name for name in needs if name not in inputs]
    if missing:
        raise config.InputError(f'The inputs lack {", ".join(missing)}; there are {", ".join(inputs) or "none"}.')
    found = {}
    for name, value in inputs.items():
        if name not in names:
            raise config.InputError(f'The model has no input {name!r}.{config.nearest(name, names)}')
        array = np.asarray(value)
        if array.dtype.kind not in 'iub':
            raise config.InputError(f'The input {name} should be of integers, not {array.dtype}.')
        _check_range(name, array, vocab)
        found[names[name]] = _shaped(name, array, inputs).astype(np.int32)
    return found


def _shaped(name: str, array: np.ndarray, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
    """An input in the shape of the tokens that it goes with.

    Raises:
      InputError: it has another, which a computation might stretch, or read otherwise than the reference does.
    """
    paired = 'decoder_input_ids' in inputs
    of = 'decoder_input_ids' if paired and (name.startswith('decoder') or name == 'labels') else 'input_ids'
    tokens: tuple[int, ...] = np.shape(inputs[of])
    if len(tokens) != 2 or 0 in tokens:
        raise config.InputError(f'The input {of} has shape {list(tokens)}; it should be [rows, tokens], neither 0.')
    wanted = tokens[:1] if name == 'next_sentence_label' else tokens
    if name == 'position_ids' and array.shape == (1, *tokens[1:]):
        array = np.broadcast_to(array, tokens)  # One row of positions stands for all, as in the reference.
    if array.shape != wanted:
        raise config.InputError(
            f'The input {name} has shape {list(array.shape)}; with {of} of {list(tokens)} it should be {list(wanted)}.'
        )
    return array


def _check_range(name: str, array: np.ndarray, vocab: int) -> None:
    """Raises InputError where a computation would go on with a number that stands for nothing."""
    two = name.endswith('mask') or name == 'next_sentence_label'
    below = vocab if name.endswith('input_ids') or name == 'labels' else 2 if two else 2**31
    counted = array[array != IGNORED] if 'label' in name else array
    if not counted.size:
        return
    if counted.min() < 0 or counted.max() >= below:
        raise config.InputError(
            f'The input {name} holds {counted.min()} to {counted.max()}; it should be 0 to {below - 1}.'
        )


def pair_of(
    inputs: Mapping[str, np.ndarray], names: Mapping[str, str], *, vocab: int, tokens: tuple[int, int]
) -> dict[str, np.ndarray]:
    """As batch_of(), for an encoder and a decoder, whose inputs are those of the labels unless they are given.

    Args:
      tokens: the one that the decoder's inputs begin with, and that of padding.
    """
    if 'decoder_input_ids' not in inputs and 'labels' in inputs:
        labels_BT, (first, padding) = np.asarray(inputs['labels']), tokens
        if labels_BT.ndim != 2 or labels_BT.dtype.kind not in 'iub':
            raise config.InputError(
                f'The input labels is {labels_BT.dtype}{list(labels_BT.shape)}; it should be integers [rows, tokens].'
            )
        shifted_BT = shifted_right(labels_BT.astype(np.int64), start=first, padding=padding)
        inputs = {**inputs, 'decoder_input_ids': shifted_BT}
    return batch_of(inputs, names, vocab=vocab, needs=('input_ids', 'decoder_input_ids'))


def shifted_right(labels_BT: np.ndarray, *, start: int, padding: int) -> np.ndarray:
    """The decoder's inputs [B, T] that go with labels: one to the right, behind the start token."""
    first_B1 = np.full((len(labels_BT), 1), start, labels_BT.dtype)
    inputs_BT = np.concatenate([first_B1, labels_BT[:, :-1]], axis=1)
    return np.where(inputs_BT == IGNORED, padding, inputs_BT)


# ---- outputs ------------------------------------------------------------------------------------------------------


class ReferenceRun(NamedTuple):
    """What a method of a module gives, and what the module shows of its inside."""

    found: Any
    streams: dict[str, jax.Array]  # Of every stack, [L + 1, B, T, D].
    routers: dict[str, jax.Array]  # Of every stack that has any, their logits [L, B, T, E].


def run(module: Any, params: Any, batch: Mapping[str, Any], method: Any) -> ReferenceRun:
    """Runs `method` of a module on a batch."""
    found, kept = module.apply(
        {'params': params}, batch, method=method, mutable=[intermediates.RESIDUAL_STREAM, intermediates.ROUTER_LOGITS]
    )
    return ReferenceRun(
        found,
        intermediates.residual_streams(kept[intermediates.RESIDUAL_STREAM]),
        intermediates.router_logits(kept.get(intermediates.ROUTER_LOGITS, {})),
    )


def hidden_states(name: str, stream_LBTD: jax.Array, last_BTD: jax.Array) -> dict[str, jax.Array]:
    """name/0 is the embedding, name/i the stream after layer i; the last one after the final norm.

    Args:
      stream_LBTD: one more than the layers.
      last_BTD: after the final norm, if there is one.
    """
    states = [*stream_LBTD[:-1], last_BTD]
    return {f'{name}/{i}': state for i, state in enumerate(states)}


def mean_nll(logits_BTV: jax.Array, labels_BT: jax.Array) -> jax.Array:
    """The mean negative log-likelihood in nats of the labels that count; those of IGNORED do not."""
    counts_BT = labels_BT != IGNORED
    chosen_BT1 = jnp.where(counts_BT, labels_BT, 0)[..., None]
    nll_BT = -jnp.take_along_axis(jax.nn.log_softmax(logits_BTV), chosen_BT1, axis=-1)[..., 0]
    return jnp.where(counts_BT, nll_BT, 0.0).sum() / counts_BT.sum()
