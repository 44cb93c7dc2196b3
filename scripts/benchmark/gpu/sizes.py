"""The models that both sides train, in the sizes of a GPU and, for --dry, in toy sizes."""

import dataclasses
from typing import NamedTuple

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """A decoder and its batch.

    Attributes:
      kv_heads: None for the GPT block (LayerNorm, GELU, learned positions); else Llama's (RMSNorm, SwiGLU, rotary).
    """

    vocab: int
    width: int
    layers: int
    heads: int
    hidden: int
    length: int
    rows: int
    kv_heads: int | None = None

    @property
    def tokens(self) -> int:
        return self.rows * self.length

    @property
    def toy(self) -> 'Size':
        small = {'vocab': 128, 'width': 32, 'layers': 2, 'heads': 4, 'hidden': 64, 'length': 32, 'rows': 4}
        return dataclasses.replace(self, **small, kv_heads=None if self.kv_heads is None else 2)


class Recipe(NamedTuple):
    """The optimizer of both sides."""

    rate: float = 3e-4
    b1: float = 0.9
    b2: float = 0.95
    decay: float = 0.1
    clip: float = 1.0


SIZES = {
    # GPT-2's of table 2, its vocabulary rounded up to a multiple of 128, without biases as in nanoGPT.
    'gpt2_124m': Size(vocab=50_304, width=768, layers=12, heads=12, hidden=3_072, length=1_024, rows=32),
    'gpt2_1558m': Size(vocab=50_304, width=1_600, layers=48, heads=25, hidden=6_400, length=1_024, rows=16),
    # Llama 3.2 1B, without the scaling of its rotations.
    'llama_1b': Size(vocab=128_256, width=2_048, layers=16, heads=32, kv_heads=8, hidden=8_192, length=2_048, rows=8),
    'llama_1b_8k': Size(vocab=128_256, width=2_048, layers=16, heads=32, kv_heads=8, hidden=8_192, length=8_192,
                        rows=2),
    # nanoGPT's model of characters, for a GPU.
    'char': Size(vocab=128, width=384, layers=6, heads=6, hidden=1_536, length=256, rows=64),
}  # fmt: skip


def tokens(size: Size) -> np.ndarray:
    """[B, T] int32, drawn at random."""
    return np.random.default_rng(0).integers(0, size.vocab, (size.rows, size.length), np.int32)
