"""Qwen 2, 2.5 and 3: Llamas with biases on queries, keys and values, or with norms on the heads."""

import dataclasses
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.layers import attention, norms
from bigmodel_jax.layers.variants import attentions
from bigmodel_jax.models import decoder

RMS = norms.RmsNorm(epsilon=1e-6)
NORMS = {'block.residual.norm': RMS, 'norm': RMS}


def qwen2(
    *, vocab: int, width: int, layers: int, heads: int, kv_heads: int, hidden: int, tied: bool, **changes: Any
) -> decoder.Decoder:
    """Qwen 2 and 2.5: queries, keys and values have biases, and the small models' output matrix is the table.

    Source: Yang et al. (2024), arXiv:2407.10671, section 2.2.1; Qwen2.5 is of the same architecture
    (arXiv:2412.15115, section 2).
    """
    base = decoder.llama(
        vocab=vocab, width=width, layers=layers, heads=heads, kv_heads=kv_heads, hidden=hidden, rope_base=1_000_000.0
    )
    plain: attention.Attention = base.block.mixer  # type: ignore[attr-defined]  # Of llama().
    fields = {each.name: getattr(plain, each.name) for each in dataclasses.fields(plain)}
    own = {'block.mixer': attentions.QkvBiasAttention(**fields | {'bias': True}), 'embedding.tied': tied}
    return config.vary(config.vary(base, NORMS | own), changes)


def qwen3(*, width: int, layers: int, heads: int, hidden: int, tied: bool, **changes: Any) -> decoder.Decoder:
    """Qwen 3: heads of 128 channels, whose queries and keys are normalised.

    Source: Yang et al. (2025), arXiv:2505.09388, section 2.
    """
    base = decoder.llama(
        vocab=151_936, width=width, layers=layers, heads=heads, kv_heads=8, hidden=hidden, rope_base=1_000_000.0
    )
    own = {
        'block.mixer.head_width': 128,
        'block.mixer.scores': attentions.NormedDotProduct(norm=RMS),
        'embedding.tied': tied,
    }
    return config.vary(config.vary(base, NORMS | own), changes)


# The released configurations.
QWEN25_500M = qwen2(vocab=151_936, width=896, layers=24, heads=14, kv_heads=2, hidden=4_864, tied=True)
QWEN25_1500M = qwen2(vocab=151_936, width=1_536, layers=28, heads=12, kv_heads=2, hidden=8_960, tied=True)
QWEN25_3B = qwen2(vocab=151_936, width=2_048, layers=36, heads=16, kv_heads=2, hidden=11_008, tied=True)
QWEN25_7B = qwen2(vocab=152_064, width=3_584, layers=28, heads=28, kv_heads=4, hidden=18_944, tied=False)
QWEN3_600M = qwen3(width=1_024, layers=28, heads=16, hidden=3_072, tied=True)
QWEN3_1700M = qwen3(width=2_048, layers=28, heads=16, hidden=6_144, tied=True)
QWEN3_4B = qwen3(width=2_560, layers=36, heads=32, hidden=9_728, tied=True)
QWEN3_8B = qwen3(width=4_096, layers=36, heads=32, hidden=12_288, tied=False)
