"""Attention on TPU that never writes the scores to memory: JAX's splash attention, on each device's own heads.

Source: Dao et al. (2022), arXiv:2205.14135, for the method; jax.experimental.pallas.ops.tpu.splash_attention.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bigmodel_jax import config
from bigmodel_jax.kernels.context import Query, Scores
from bigmodel_jax.kernels.kernel import Case, Kernel, not_fused, rows, uneven
from bigmodel_jax.parallel import per_device

LANES = 128  # Of a TPU's vector registers; blocks are multiples of it.
# Up to here one kernel makes all gradients, of which those of the queries are kept once for each block of keys. That
# memory grows with the square of the length: 32 heads of 32k tokens do not fit a v5e. Beyond, two kernels.
FUSED_BACKWARD_TOKENS = 8_192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Splash(Kernel):
    """Splash attention. `block` queries and keys are multiplied at a time, fewer where the length requires it."""

    block: config.Positive | None = None  # None: see largest_block().
    interpret: bool = False  # Runs the kernel step by step on any platform, for tests.

    def unsupported_reason(self, case: Case) -> str | None:
        return next(self._reasons(case), None)

    def _reasons(self, case: Case) -> Any:
        if case.platform != 'tpu' and not self.interpret:
            yield 'splash needs a TPU'
        if self.block is not None and self.block % LANES:
            yield f'blocks of splash are multiples of {LANES}, not {self.block}'
        yield from not_fused('splash', case)
        lengths = (case.q.shape[1], case.k.shape[1])
        if any(length % LANES for length in lengths):
            yield f'splash needs lengths that are multiples of {LANES}, not {" and ".join(map(str, lengths))}'
        if not case.positions_are_indices:
            yield 'splash masks the future by array index, but positions are given without segments'
        if case.shards['length'] > 1:
            yield 'splash needs whole rows, but the length is split'
        yield from uneven(case)

    def attend(self, query: Query) -> jax.Array:
        def local(q_bThK: jax.Array, k_bSgK: jax.Array, v_bSgK: jax.Array, *segments: jax.Array) -> jax.Array:
            kernel = self._kernel(q_bThK.shape, k_bSgK.shape[1], query.scores)
            q_bhTK = query.scores.scaled(q_bThK).swapaxes(1, 2)
            k_bgSK, v_bgSK = k_bSgK.swapaxes(1, 2), v_bSgK.swapaxes(1, 2)
            if not segments:
                return jax.vmap(kernel)(q_bhTK, k_bgSK, v_bgSK).swapaxes(1, 2)
            y_bhTK = jax.vmap(lambda q, k, v, *of: kernel(q, k, v, _segment_ids(*of)))(
                q_bhTK, k_bgSK, v_bgSK, *(jnp.broadcast_to(each, (q_bhTK.shape[0], each.shape[1])) for each in segments)
            )
            return y_bhTK.swapaxes(1, 2)

        axes, segments = ('batch', None, query.heads, None), query.context.segments or ()
        run = per_device.shard_map(
            local, inputs=(axes, axes, axes, *(rows(each, None) for each in segments)), outputs=axes
        )
        return run(*query[:3], *segments)

    def _kernel(self, shape: tuple[int, ...], keys: int, scores: Scores) -> Any:
        """The kernel for one row, with q [H, T, K] of `shape` [.., T, H, K] and `keys` keys."""
        splash = _library()
        _, queries, heads, width = shape
        block = self.block or largest_block(max(queries, keys), width)
        mask = _mask(queries, keys, scores)
        return splash.make_splash_mha(
            splash.MultiHeadMask([mask] * heads),
            block_sizes=_block_sizes(queries, keys, block),
            head_shards=1,
            q_seq_shards=1,
            attn_logits_soft_cap=scores.soft_cap,
            # The name goes on what the backward pass needs, inside of the kernel's own differentiation rule: a name
            # outside does not spare the forward kernel its second run.
            residual_checkpoint_name='attention',
            interpret=self.interpret,
        )


def _library() -> Any:
    # Not at the top: it imports Pallas, which takes a second that no other path should pay.
    from jax.experimental.pallas.ops.tpu import splash_attention

    return splash_attention


def _segment_ids(query_segments_T: jax.Array, key_segments_S: jax.Array) -> Any:
    return _library().SegmentIds(q=query_segments_T, kv=key_segments_S)


def _mask(queries: int, keys: int, scores: Scores) -> Any:
    """The mask of the kernel, which skips blocks that are masked completely; segments are masked in addition."""
    splash = _library()
    if scores.window is not None:
        before = scores.window - 1
        after = 0 if scores.causal else before
        return splash.LocalMask((queries, keys), window_size=(before, after), offset=0)
    if scores.causal:
        return splash.CausalMask((queries, keys))
    return splash.FullMask((queries, keys))


def largest_block(length: int, width: int) -> int:
    """Queries and keys that are multiplied at a time, for rows of `length` tokens and heads of `width` channels.

    Twice the block halves the gradients of the queries that wait in memory to be added, but computes more scores on the
    diagonal that the mask then hides: a ninth more at 4,096 tokens, less in longer rows. Of wider heads 1,024 at a time
    do not fit the vector memory of a v5e or v5p.
    """
    return 1_024 if length >= 8_192 and width <= LANES else 512


def block_length(length: int, most: int) -> int:
    """The longest multiple of 128 that divides `length` and is at most `most`."""
    return next(block for block in range(min(most, length) // LANES * LANES, 0, -LANES) if length % block == 0)


def _block_sizes(queries: int, keys: int, most: int) -> Any:
    q, kv = block_length(queries, most), block_length(keys, most)
    is_fused = max(queries, keys) <= FUSED_BACKWARD_TOKENS
    separate = {} if is_fused else {'block_q_dq': q, 'block_kv_dq': kv}
    return _library().BlockSizes(
        block_q=q,
        block_kv=kv,
        block_kv_compute=kv,
        block_q_dkv=q,
        block_kv_dkv=kv,
        block_kv_dkv_compute=kv,
        use_fused_bwd_kernel=is_fused,
        **separate,
    )
