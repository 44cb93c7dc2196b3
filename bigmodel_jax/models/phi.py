"""Phi-3 and Phi-4, which are Llamas; their released files hold fused matrices (interop/families/phi.py).

Source: Abdin et al. (2024), arXiv:2404.14219, section 2, and arXiv:2412.08905, section 3; the released configurations.
"""

from bigmodel_jax.models import decoder

PHI3_MINI_4K = decoder.llama(
    vocab=32_064, width=3_072, layers=32, heads=32, kv_heads=32, hidden=8_192, rope_base=10_000.0,
    **{'block.mixer.window': 2_047},
)  # fmt: skip
PHI4_14B = decoder.llama(
    vocab=100_352, width=5_120, layers=40, heads=40, kv_heads=10, hidden=17_920, rope_base=250_000.0
)
