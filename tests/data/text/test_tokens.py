"""A long document is tokenized in parts, and has the tokens that it has as a whole."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import tokenizer, tokenizers, tokens

PAGE = "The quick brown fox doesn't jump over 99 lazy dogs.\n\n    Größe, 世界! 🙂\tand so  on \n" * 20
PIECES = [
    'a',
    "don't",
    ' ',
    '  ',
    '\n',
    '\n\n',
    '\t',
    '\r\n',
    '\x1c',
    '\x85',
    '\xa0',
    '\u0301',
    '7',
    '.',
    '世',
    '##a',
    '[SEP]',
]
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=30).map(''.join)
KINDS = {
    'bytes': tokenizers.Bytes(),
    'characters': tokenizers.Characters(trained_on=sources.Texts(texts=(PAGE,))),
    'bpe': tokenizers.Bpe(vocab=300, trained_on=sources.Texts(texts=(PAGE,))),
    'word_piece': tokenizers.WordPiece(vocab=300, trained_on=sources.Texts(texts=(PAGE,))),
    'unigram': tokenizers.SentencePiece(vocab=300, trained_on=sources.Texts(texts=(PAGE,))),
}


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('BIGMODEL_JAX_CACHE', str(tmp_path_factory.mktemp('cache')))
        yield {name: vocabulary.build() for name, vocabulary in KINDS.items()}


@pytest.mark.parametrize('name', ['bytes', 'bpe', 'word_piece', 'unigram'])
@hypothesis.given(text=TEXTS, long=st.integers(1, 9))
@hypothesis.settings(deadline=None, max_examples=150)
def test_the_parts_of_a_text_have_its_ids(built, name, text, long):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, 'LONG_TEXT', long)
        parts = list(built[name].parts(text))
    assert ''.join(parts) == text
    joined = [ids for part in parts for ids in built[name].encode(part)]
    np.testing.assert_array_equal(joined, built[name].encode(text))


def stream(corpus):
    return np.array(corpus.tokens), corpus.starts


@pytest.mark.parametrize('name', KINDS)
def test_a_document_that_is_cut_gives_the_same_stream(cache_root, monkeypatch, name):
    texts = ('short', PAGE, '', 'The last.')
    if name == 'characters':
        texts = ('hot', PAGE, '', 'The last.')
    expected = stream(tokens.tokenized(sources.Texts(texts=texts), KINDS[name]))
    monkeypatch.setattr(tokenizer, 'LONG_TEXT', 20)
    monkeypatch.setenv('BIGMODEL_JAX_CACHE', str(cache_root / 'other'))
    parts = list(KINDS[name].build().parts(PAGE))
    assert (len(parts) > 9) == (name != 'unigram')
    for found, wanted in zip(stream(tokens.tokenized(sources.Texts(texts=texts), KINDS[name])), expected):
        np.testing.assert_array_equal(found, wanted)


def test_ids_beyond_the_size_of_a_tokenizer_are_refused(cache_root, monkeypatch):
    monkeypatch.setattr(tokenizers.ByteTokenizer, 'size', 100)
    with pytest.raises(config.InputError, match='its ids stay below 100, but gives 97 to 122'):
        tokens.tokenized(sources.Texts(texts=('az',)), tokenizers.Bytes())
