"""Attention by the best kernel for the mesh in use, and which one that is and why."""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import ad_checkpoint

from bigmodel_jax import config
from bigmodel_jax.kernels import cudnn, exchange, ring, splash
from bigmodel_jax.kernels import kernel as kernels
from bigmodel_jax.kernels.context import Query
from bigmodel_jax.kernels.kernel import Case, Kernel
from bigmodel_jax.parallel import sharding

# The fused kernel of each platform, for whole rows; attention is plain where there is none or it lacks support.
FUSED: dict[str | None, Kernel] = {'tpu': splash.Splash(), 'gpu': cudnn.Cudnn()}
# For rows that are split, the first that supports a case. The all-to-all moves less: each token's vectors once, not
# once per device.
SPLIT_ROWS: tuple[Kernel, ...] = (exchange.AllToAll(), ring.Ring())
NAMES = {'cpu': 'CPU', 'gpu': 'GPU', 'tpu': 'TPU'}


class Path(NamedTuple):
    """The kernel of one layer's attention, and why it was chosen."""

    kernel: Kernel
    text: str  # 'splash (TPU, causal, window 1024)', 'plain, since splash has no bias'.


def attend(query: Query, *, plain: Kernel, forced: Kernel | None = None, layer: str = '') -> jax.Array:
    """The weighted sum of the values, [B, T, H, K], by the best kernel for the mesh in use.

    Args:
      plain: the kernel that supports every case.
      forced: the kernel that the experiment asks for.
      layer: the name of the layer in noted().

    Raises:
      InputError: the forced kernel does not support this call.
    """
    query = _laid_out(query)
    case = kernels.case_of(query)
    path = choose(case, plain, forced)
    note(layer, path)
    with kernels.visible_share(case):  # A name alone; it computes nothing.
        return path.kernel.attend(query)


def _laid_out(query: Query) -> Query:
    """The query with lengths and heads split over the mesh; rematerialisation policies know the three by name."""
    heads = query.q_BTHK.shape[2]
    arrays = (query.q_BTHK, repeat_heads(query.k_BSGK, heads), repeat_heads(query.v_BSGK, heads))
    found = []
    for name, axis, x_BTHK in zip(('query', 'key', 'value'), ('heads', 'kv_heads', 'kv_heads'), arrays):
        length = 'length' if x_BTHK.shape[1] % sharding.shards('length') == 0 else None
        x_BTHK = sharding.constrain(x_BTHK, 'batch', length, axis, None)
        found.append(ad_checkpoint.checkpoint_name(x_BTHK, name))
    q_BTHK, k_BSGK, v_BSGK = found
    return query._replace(q_BTHK=q_BTHK, k_BSGK=k_BSGK, v_BSGK=v_BSGK)


def repeat_heads(k_BSGK: jax.Array, heads: int) -> jax.Array:
    """Keys or values whose heads divide over the mesh axes of 'kv_heads': each is repeated where there are too few.

    Each device of the tensor axis then holds the key/value heads that its query heads attend to, at least one. The
    weights that make them are not split (Pope et al., 2022, arXiv:2211.05102, section 3.3).

    Args:
      heads: the number of query heads, which must divide.
    """
    G, parts = k_BSGK.shape[2], sharding.shards('kv_heads')
    if G % parts == 0 or heads % math.lcm(G, parts):
        return k_BSGK
    return jnp.repeat(k_BSGK, math.lcm(G, parts) // G, axis=2)


def choose(case: Case, plain: Kernel, forced: Kernel | None = None) -> Path:
    """The kernel for a case, and why; see attend()."""
    if forced is not None:
        return _forced(case, plain, forced)
    if case.shards['length'] > 1:
        return _over_split_rows(case, plain)
    fused = FUSED.get(case.platform)
    if fused is None:
        where = 'there is no mesh' if case.platform is None else f'a {NAMES[case.platform]} has no fused kernel'
        return Path(plain, f'{plain.label(case)}, since {where}')
    reason = fused.unsupported_reason(case)
    if reason is not None:
        return Path(plain, f'{plain.label(case)}, since {reason}')
    return Path(fused, f'{fused.label(case)} ({_details(case)})')


def _over_split_rows(case: Case, plain: Kernel) -> Path:
    reasons = []
    for kernel in SPLIT_ROWS:
        reason = kernel.unsupported_reason(case)
        if reason is None:
            because = ''.join(f', since {each}' for each in reasons)
            return Path(*_filled(kernel, case, plain, because))
        reasons.append(reason)
    return Path(plain, f'{plain.label(case)}, since {" and ".join(reasons)}')


def _forced(case: Case, plain: Kernel, forced: Kernel) -> Path:
    reason = forced.unsupported_reason(case)
    if reason is not None:
        raise config.InputError(
            f'attention.kernel={config.format_value(forced)} cannot compute this attention, since {reason}. '
            'Leave attention.kernel out, and `show` says what is used instead and why.'
        )
    return Path(*_filled(forced, case, plain, ', as attention.kernel says'))


def _filled(kernel: Kernel, case: Case, plain: Kernel, because: str) -> tuple[Kernel, str]:
    """The kernel with the local kernel that it uses for whole rows, and the text."""
    if isinstance(kernel, exchange.AllToAll) and kernel.local is None:
        local = choose(case.with_whole_rows(), plain)
        text = f'all-to-all over {case.shards["length"]}, then {local.text}{because}'
        return dataclasses.replace(kernel, local=local.kernel), text
    return kernel, f'{kernel.label(case)} ({_details(case)}){because}'


def _details(case: Case) -> str:
    scores = case.scores
    details = [
        NAMES.get(case.platform or '', 'no mesh'),
        'causal' if scores.causal else 'bidirectional',
        f'window {scores.window}' if scores.window is not None else '',
        f'scale {scores.scale:g}' if scores.scale is not None else '',
        f'soft cap {scores.soft_cap:g}' if scores.soft_cap is not None else '',
        'packed' if case.segments else '',
    ]
    return ', '.join(filter(None, details))


# ---- which layer uses which -----------------------------------------------------------------------------------

_taken: contextvars.ContextVar[dict[str, str] | None] = contextvars.ContextVar('taken', default=None)


@contextlib.contextmanager
def noted() -> Iterator[dict[str, str]]:
    """Collects the choice of each attention that is traced within this context: name of the layer -> text."""
    found: dict[str, str] = {}
    token = _taken.set(found)
    try:
        yield found
    finally:
        _taken.reset(token)


def note(name: str, path: Path) -> None:
    """Records a choice for noted()."""
    found = _taken.get()
    if found is not None:
        found[name] = path.text
