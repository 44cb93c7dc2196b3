"""Whole words as tokens, and what becomes of unknown ones."""

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.data.text.streams import words

LINES = sources.Texts(texts=('the cat <unk> the', 'a cat'))


def test_each_line_is_its_words_and_an_end(tmp_path):
    vocabulary = words.Words(trained_on=LINES)
    built = vocabulary.build()
    assert (built.size, built.end) == (5, 4)  # <unk>, a, cat, the; and the end.
    assert built.encode('a dog  the\ncat').tolist() == [1, 0, 3, 2]
    assert built.decode([3, 2, 4]) == 'the cat \n'
    built.save(tmp_path)
    again = tokenizers.load(tmp_path)
    assert again.fingerprint == built.fingerprint
    data = text.Text(source=LINES, tokenizer=vocabulary, batch=1, length=7).open(0)
    batch = data.eval_batch(0)
    assert batch['inputs'].tolist() == [[4, 3, 2, 0, 3, 4, 1]]
    assert batch['targets'].tolist() == [[3, 2, 0, 3, 4, 1, 2]]
    np.testing.assert_array_equal(batch['bytes'], [len('the cat <unk> the \na cat ')])


def test_a_word_that_nothing_stands_for_is_refused():
    built = words.Words(trained_on=sources.Texts(texts=('a cat',))).build()
    with pytest.raises(config.InputError, match=r"The word 'dog' is not among the 2 .* neither is '<unk>'"):
        built.encode('a dog')
