"""Transforms of text, for sources.Transformed: what is done to a text before it is tokenized."""

import dataclasses
import unicodedata
from typing import ClassVar, Literal

import numpy as np

from bigmodel_jax.data import transforms


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lowercase(transforms.Transform):
    """The text in lower case, as Unicode defines it."""

    reads: ClassVar[str] = 'text'

    def __call__(self, value: str, key: np.ndarray) -> str:
        return value.lower()


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormalizeUnicode(transforms.Transform):
    """The text in a Unicode normalization form, so that equal characters are equal code points."""

    reads: ClassVar[str] = 'text'
    form: Literal['NFC', 'NFD', 'NFKC', 'NFKD'] = 'NFC'

    def __call__(self, value: str, key: np.ndarray) -> str:
        return unicodedata.normalize(self.form, value)
