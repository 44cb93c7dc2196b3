"""Whole words as tokens."""

import dataclasses

from bigmodel_jax.data import records
from bigmodel_jax.data.text import tokenizer, tokenizers
from bigmodel_jax.data.text.streams import word_tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words(tokenizer.Vocabulary):
    """One id for each word between spaces that occurs in a source, in alphabetical order; the end comes last.

    For texts whose rare words are '<unk>' already, as in the Penn Treebank of Mikolov et al. (2010): of other texts the
    vocabulary is as large as they have words.
    """

    trained_on: records.Source

    def build(self) -> tokenizer.Tokenizer:
        def train(texts: records.TextView) -> tokenizer.Tokenizer:
            seen: set[str] = set()
            for text in tokenizers.read_texts(texts, 'Collecting words'):
                seen.update(text.split())
            return word_tokenizer.WordTokenizer(sorted(seen))

        return tokenizers.trained(self, train)
