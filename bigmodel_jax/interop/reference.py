"""Inputs and outputs under the names of the reference implementations: masks, labels, hidden states and losses."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bigmodel_jax import config
from bigmodel_jax.layers import activations, inside, positions

IGNORED = -100  # A label that does not count.
ACTIVATIONS: dict[str, activations.Activation] = {
    'gelu_new': activations.Gelu(approximate=True),
    'gelu_pytorch_tanh': activations.Gelu(approximate=True),
    'gelu': activations.Gelu(approximate=False),
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
        found[names[name]] = array.astype(np.int32)
    return found


def _check_range(name: str, array: np.ndarray, vocab: int) -> None:
    """Raises InputError where a computation would go on with a number that stands for nothing."""
    below = vocab if name.endswith('input_ids') or name == 'labels' else 2 if name.endswith('mask') else None
    counted = array[array != IGNORED] if 'label' in name else array
    if not counted.size:
        return
    if counted.min() < 0 or (below is not None and counted.max() >= below):
        wanted = 'at least 0' if below is None else f'0 to {below - 1}'
        raise config.InputError(f'The input {name} holds {counted.min()} to {counted.max()}; it should be {wanted}.')


def pair_of(
    inputs: Mapping[str, np.ndarray], names: Mapping[str, str], *, vocab: int, values: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """As batch_of(), for an encoder and a decoder, whose inputs are those of the labels unless they are given.

    Args:
      values: config.json.
    """
    labels_BT = inputs.get('labels')
    if 'decoder_input_ids' not in inputs and labels_BT is not None:
        padding = int(values.get('pad_token_id') or 0)
        start = values.get('decoder_start_token_id')
        first = padding if start is None else int(start)
        inputs = {**inputs, 'decoder_input_ids': shifted_right(np.asarray(labels_BT), start=first, padding=padding)}
    return batch_of(inputs, names, vocab=vocab, needs=('input_ids', 'decoder_input_ids'))


def shifted_right(labels_BT: np.ndarray, *, start: int, padding: int) -> np.ndarray:
    """The decoder's inputs [B, T] that go with labels: one to the right, behind the start token."""
    first_B1 = np.full((len(labels_BT), 1), start, labels_BT.dtype)
    inputs_BT = np.concatenate([first_B1, labels_BT[:, :-1]], axis=1)
    return np.where(inputs_BT == IGNORED, padding, inputs_BT)


# ---- outputs ------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """What a method of a module gives, and what the module shows of its inside."""

    found: Any
    streams: dict[str, jax.Array]  # Of every stack, [L + 1, B, T, D].
    routers: dict[str, jax.Array]  # Of every stack that has any, their logits [L, B, T, E].


def run(module: Any, params: Any, batch: Mapping[str, Any], method: Any) -> Run:
    """Runs `method` of a module on a batch."""
    found, kept = module.apply({'params': params}, batch, method=method, mutable=[inside.STREAMS, inside.ROUTERS])
    return Run(found, inside.streams(kept[inside.STREAMS]), inside.routers(kept.get(inside.ROUTERS, {})))


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
