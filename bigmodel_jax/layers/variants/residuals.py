"""Residual connections with a norm on either side of a sublayer."""

import dataclasses

from bigmodel_jax.layers import blocks, norms


@dataclasses.dataclass(frozen=True, kw_only=True)
class SandwichNorm(blocks.PreNorm):
    """x + norm(f(norm(x))), with norms of their own, as in Gemma 2 and 3; the model ends with a norm.

    Source: Ding et al. (2021), arXiv:2105.13290, section 2.4.
    """

    output_norm: norms.Norm = norms.RmsNorm()
