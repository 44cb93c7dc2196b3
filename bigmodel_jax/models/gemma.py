"""Gemma 1, 2 and 3 (text): Llamas with gated GELU, embeddings times sqrt(D), and layers with and without a window."""

from typing import Any

from bigmodel_jax import config
from bigmodel_jax.layers import activations, attention, norms, positions
from bigmodel_jax.layers.variants import attentions, residuals
from bigmodel_jax.models import decoder

RMS = norms.OffsetRmsNorm(epsilon=1e-6)


def gemma(
    *, width: int, layers: int, heads: int, kv_heads: int, hidden: int, head_width: int = 256, **changes: Any
) -> decoder.Decoder:
    """Gemma 1. Source: Gemma Team (2024), arXiv:2403.08295, section 2."""
    base = decoder.llama(
        vocab=256_000, width=width, layers=layers, heads=heads, kv_heads=kv_heads, hidden=hidden, rope_base=10_000.0
    )
    own = {
        'block.mixer.head_width': head_width,
        'block.ffn.activation': activations.Gelu(approximate=True),
        'block.residual.norm': RMS,
        'norm': RMS,
        'embedding.tied': True,
        'embedding.scaled': True,
    }
    return config.vary(config.vary(base, own), changes)


def gemma2(
    *, width: int, layers: int, heads: int, kv_heads: int, hidden: int, head_width: int = 256, query_scale: int = 256
) -> decoder.Decoder:
    """Gemma 2: a norm on either side of each sublayer, soft caps, and a window of 4,096 in every other layer.

    Args:
      query_scale: scores are divided by its square root.

    Source: Gemma Team (2024), arXiv:2408.00118, section 2 and table 1.
    """
    sizes = {'width': width, 'layers': layers, 'heads': heads, 'kv_heads': kv_heads, 'hidden': hidden}
    own = {
        'block.residual': residuals.SandwichNorm(norm=RMS, output_norm=RMS),
        'block.mixer.scores': attention.DotProduct(scale=query_scale**-0.5, soft_cap=50.0),
        'embedding.output_soft_cap': 30.0,
    }
    base = config.vary(gemma(**sizes, head_width=head_width), own)
    return config.vary(base, {'block.mixer.window': 4_096, 'interleaved': (base.block,)})


def gemma3(
    *, width: int, layers: int, heads: int, kv_heads: int, hidden: int, window: int, slowed: float | None = None
) -> decoder.Decoder:
    """Gemma 3 of text: normalised queries and keys, and a window in five layers of six; the sixth has slower rotations.

    Args:
      slowed: by how much those of the sixth layer are slower than of the base 1,000,000; None: not at all.

    Source: Gemma Team (2025), arXiv:2503.19786, section 2.
    """
    sizes = {'width': width, 'layers': layers, 'heads': heads, 'kv_heads': kv_heads, 'hidden': hidden}
    own = {
        'block.residual': residuals.SandwichNorm(norm=RMS, output_norm=RMS),
        'block.mixer.scores': attentions.NormedDotProduct(scale=256**-0.5, norm=RMS),
    }
    base = config.vary(gemma(**sizes), own)
    scaling = None if slowed is None else positions.LinearScaling(factor=slowed)
    wide = config.vary(base.block, {'mixer.rotary': positions.Rotary(base=1_000_000.0, scaling=scaling)})
    local = config.vary(base.block, {'mixer.window': window})
    return config.vary(base, {'block': local, 'interleaved': (local,) * 4 + (wide,)})


# The released configurations.
GEMMA_2B = gemma(width=2_048, layers=18, heads=8, kv_heads=1, hidden=16_384)
GEMMA_7B = gemma(width=3_072, layers=28, heads=16, kv_heads=16, hidden=24_576)
GEMMA2_2B = gemma2(width=2_304, layers=26, heads=8, kv_heads=4, hidden=9_216)
GEMMA2_9B = gemma2(width=3_584, layers=42, heads=16, kv_heads=8, hidden=14_336)
GEMMA2_27B = gemma2(
    width=4_608, layers=46, heads=32, kv_heads=16, hidden=36_864, head_width=128, query_scale=144
)  # fmt: skip
GEMMA3_1B = config.vary(
    gemma3(width=1_152, layers=26, heads=4, kv_heads=1, hidden=6_912, window=512), {'vocab': 262_144}
)
GEMMA3_4B = config.vary(
    gemma3(width=2_560, layers=34, heads=8, kv_heads=4, hidden=10_240, window=1_024, slowed=8.0), {'vocab': 262_208}
)
