"""Attention on NVIDIA GPUs that never writes the scores to memory: cuDNN's, on each device's own heads."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

import jax

from bigmodel_jax.kernels.context import PositionOrder, Query, Scores, visible
from bigmodel_jax.kernels.kernel import Case, Kernel, not_fused, rows, uneven
from bigmodel_jax.parallel import per_device

HALF = ('bfloat16', 'float16')
LARGEST_HEAD = 128  # cuDNN has 256 too, on Hopper and later.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cudnn(Kernel):
    """cuDNN's fused attention; by 'xla' JAX computes the same from the same arguments, for tests."""

    implementation: Literal['cudnn', 'xla'] = 'cudnn'

    def unsupported_reason(self, case: Case) -> str | None:
        return next(self._reasons(case), None)

    def _reasons(self, case: Case) -> Iterator[str]:
        if self.implementation == 'cudnn' and case.platform != 'gpu':
            yield 'cudnn needs an NVIDIA GPU'
        if self.implementation == 'cudnn' and case.q.dtype.name not in HALF:
            yield f'cudnn computes in {" or ".join(HALF)}, not {case.q.dtype.name}'
        yield from not_fused('cudnn', case)
        head_width = case.q.shape[-1]
        if case.scores.soft_cap is not None:
            yield 'cudnn has no soft cap'
        if head_width % 8 or head_width > LARGEST_HEAD:
            yield f'cudnn needs heads of a multiple of 8 channels up to {LARGEST_HEAD}, not {head_width}'
        if case.scores.window is not None and not case.scores.causal:
            yield 'cudnn has a window for causal attention only'
        if not case.positions_are_indices or case.segments:
            lengths = (case.q.shape[1], case.k.shape[1])
            if any(length % 2 for length in lengths):
                yield f'cudnn needs even lengths where segments mask keys, not {" and ".join(map(str, lengths))}'
        if case.shards['length'] > 1:
            yield 'cudnn needs whole rows, but the length is split'
        yield from uneven(case)

    def attend(self, query: Query) -> jax.Array:
        context, scores = query.context, query.scores
        by_index = context.order is PositionOrder.CONTIGUOUS or context.segments is not None
        by_index = by_index and query.q_BTHK.shape[1] == query.k_BSGK.shape[1]
        # What cuDNN masks by array index it skips; the mask hides the rest.
        masked = Scores() if by_index else scores
        mask_BTS = visible(context, causal=masked.causal, window=masked.window)
        indexed = scores if by_index else Scores()
        window = None if indexed.window is None else (indexed.window - 1, 0 if indexed.causal else indexed.window - 1)

        def local(q_bThK: jax.Array, k_bSgK: jax.Array, v_bSgK: jax.Array, mask_bTS: jax.Array | None) -> jax.Array:
            return jax.nn.dot_product_attention(
                q_bThK,
                k_bSgK,
                v_bSgK,
                mask=None if mask_bTS is None else mask_bTS[:, None],
                scale=scores.scale,
                is_causal=indexed.causal,
                local_window_size=window,
                implementation=self.implementation,
            )

        axes = ('batch', None, query.heads, None)
        run = per_device.shard_map(local, inputs=(axes, axes, axes, rows(mask_BTS, None)), outputs=axes)
        return run(*query[:3], mask_BTS)
