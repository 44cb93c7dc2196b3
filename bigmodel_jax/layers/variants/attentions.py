"""Attention with norms on queries and keys, or with biases on its inputs alone."""

import dataclasses

from bigmodel_jax.layers import attention, norms


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormedDotProduct(attention.DotProduct):
    """The score of a query and a key that are normalised in each head, before rotary positions (Qwen 3, Gemma 3).

    Source: Dehghani et al. (2023), arXiv:2302.05442, section 2, for the idea.
    """

    norm: norms.RmsNorm = norms.RmsNorm()  # type: ignore[misc]  # A field, where DotProduct has a constant.


@dataclasses.dataclass(frozen=True, kw_only=True)
class QkvBiasAttention(attention.Attention):
    """Attention with a bias on queries, keys and values, and none on the output projection (Qwen 2).

    Source: Yang et al. (2024), arXiv:2407.10671, section 2.2.1.
    """

    bias: bool = True

    @property
    def out_bias(self) -> bool:
        return False
