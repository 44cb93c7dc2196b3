import dataclasses
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import tokenizers

# What libraries use inside: SentencePiece's space and boundary, specials, byte pieces, the end of GPT-2's documents.
ODD = ['\u2581', '\u2585', '\u2047', '[SEP]', '</s>', '<unk>', '<0x41>', '<|endoftext|>', '\x00', ' \t\r\n\n  ', '##a']
TEXTS = st.lists(st.one_of(st.text(), st.sampled_from(ODD)), max_size=6).map(''.join)


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    """Every tokenizer, trained on a page of text."""
    folder = tmp_path_factory.mktemp('trained')
    (folder / 'page.txt').write_text('The quick brown fox jumps over the lazy dog.\n    Größe, 世界! 🙂\n' * 30)
    source = sources.TextFile(path=str(folder / 'page.txt'))
    vocabularies = {
        'bytes': tokenizers.Bytes(),
        'characters': tokenizers.Characters(trained_on=source),
        'bpe': tokenizers.Bpe(vocab=300, trained_on=source),
        'word_piece': tokenizers.WordPiece(vocab=300, trained_on=source),
        'unigram': tokenizers.SentencePiece(vocab=300, trained_on=source),
        'sentence_bpe': tokenizers.SentencePiece(vocab=300, trained_on=source, kind='bpe'),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('BIGMODEL_JAX_CACHE', str(folder / 'cache'))
        yield {name: (vocabulary, vocabulary.build()) for name, vocabulary in vocabularies.items()}


EXACT = ['bytes', 'bpe', 'unigram', 'sentence_bpe']
ALL = [*EXACT, 'characters', 'word_piece']


@pytest.mark.parametrize('name', EXACT)
@hypothesis.given(text=TEXTS)
@hypothesis.settings(deadline=None)
def test_any_text_comes_back(built, name, text):
    tokenizer = built[name][1]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert ids.dtype == np.int32
    assert tokenizer.end not in ids
    assert (ids < tokenizer.size).all()
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@pytest.mark.parametrize('name', ALL)
def test_text_of_the_training_comes_back(built, name):
    tokenizer = built[name][1]
    text = 'the lazy fox' if name == 'word_piece' else 'The lazy fox.\n世界 🙂'
    assert tokenizer.decode(np.append(tokenizer.encode(text), tokenizer.end)) == text


@pytest.mark.parametrize('name', ALL)
def test_many_is_one_by_one(built, name):
    tokenizer, texts = built[name][1], ['The fox', '', 'jumps over']
    for one, many in zip(map(tokenizer.encode, texts), tokenizer.encode_many(texts)):
        np.testing.assert_array_equal(one, many)


@pytest.mark.parametrize('name', ALL)
def test_saved_and_loaded_is_the_same(built, name, tmp_path):
    tokenizer = built[name][1]
    tokenizer.save(tmp_path / 'here')
    loaded = tokenizers.load(tmp_path / 'here')
    assert loaded.fingerprint == tokenizer.fingerprint
    assert (loaded.size, loaded.end) == (tokenizer.size, tokenizer.end)
    np.testing.assert_array_equal(loaded.token_bytes, tokenizer.token_bytes)
    np.testing.assert_array_equal(loaded.encode('The lazy dog'), tokenizer.encode('The lazy dog'))


@pytest.mark.parametrize('name', [name for name in ALL if name != 'bytes'])
def test_training_again_gives_the_same(built, name, cache_root):
    vocabulary, tokenizer = built[name]
    assert not cache_root.exists()
    assert vocabulary.build().fingerprint == tokenizer.fingerprint
    assert list(cache_root.iterdir())


def test_other_settings_are_another_tokenizer(built):
    vocabulary, tokenizer = built['bpe']
    assert dataclasses.replace(vocabulary, vocab=280).build().fingerprint != tokenizer.fingerprint


def test_word_piece_bytes_are_near(built):
    tokenizer, text = built['word_piece'][1], 'The quick brown fox jumps over the lazy dog. ' * 20
    assert tokenizer.token_bytes[tokenizer.encode(text)].sum() == pytest.approx(len(text), rel=0.02)


def test_special_tokens_in_a_text_are_text(built):
    tokenizer = built['word_piece'][1]
    assert tokenizer.end not in tokenizer.encode('a [SEP] b')


def test_unseen_character(built):
    with pytest.raises(config.InputError, match=r"'é' \(U\+00E9\).*trained_on"):
        built['characters'][1].encode('café')


def test_characters_take_ids_in_order_and_an_end(tmp_path):
    (tmp_path / 'a.txt').write_text('cab')
    tokenizer = tokenizers.Characters(trained_on=sources.TextFile(path=str(tmp_path / 'a.txt'))).build()
    assert tokenizer.encode('abc').tolist() == [0, 1, 2]
    assert (tokenizer.end, tokenizer.size) == (3, 4)


def test_too_many_pieces_for_the_text(tmp_path):
    (tmp_path / 'a.txt').write_text('ab' * 50)
    vocabulary = tokenizers.SentencePiece(vocab=100_000, trained_on=sources.TextFile(path=str(tmp_path / 'a.txt')))
    assert vocabulary.build().size < 100_000  # Fewer, but no failure: little text has few pieces.


def test_nothing_to_load(tmp_path):
    with pytest.raises(config.InputError, match=r'no tokenizer.*vocabulary\.json'):
        tokenizers.load(tmp_path)


def test_missing_library(tmp_path, monkeypatch):
    (tmp_path / 'a.txt').write_text('text')
    monkeypatch.setitem(sys.modules, 'sentencepiece', None)
    vocabulary = tokenizers.SentencePiece(vocab=300, trained_on=sources.TextFile(path=str(tmp_path / 'a.txt')))
    with pytest.raises(config.InputError, match='pip install sentencepiece'):
        vocabulary.build()


def test_vocabulary_too_small_for_bytes():
    with pytest.raises(config.InputError, match='vocab'):
        config.check(tokenizers.Bpe(vocab=100, trained_on=sources.TextFile(path='a.txt')))


def words_of_a_language(letters, count):
    """Words that are more rare the later they stand in a list, as in any language."""
    numbers = np.random.default_rng(0)
    words = [''.join(numbers.choice(list(letters), size=size)) for size in numbers.integers(2, 9, 300)]
    ranks = np.minimum(numbers.pareto(0.7, count).astype(int), 299)
    return [' ' + words[rank] + ','[rank % 2 :] for rank in ranks]


def learn(*texts, kind):
    return tokenizers.SentencePiece(vocab=400, trained_on=sources.Texts(texts=texts), kind=kind).build()


def pieces(model):
    return {model.decode([i]) for i in range(258, model.size)}


@pytest.mark.parametrize('kind', ['unigram', 'bpe'])
def test_a_long_line_teaches_what_short_lines_teach(kind, cache_root):
    words = words_of_a_language('abcdefgh', 200_000)
    whole = ''.join(words)
    assert len(whole) > 2**20
    lines = [''.join(words[i : i + 2_000]) for i in range(0, len(words), 2_000)]
    other = 'zzz yyy xxx www ' * 2_000
    of_one, of_many = learn(whole + '\n' + other, kind=kind), learn(*lines, '\n' + other, kind=kind)
    assert any('z' in piece for piece in pieces(of_one))
    if kind == 'bpe':
        assert pieces(of_one) == pieces(of_many)
    # A unigram model also counts how often a piece ends a line, so that its pieces may be others, as good as those.
    lengths = [len(model.encode(lines[0])) for model in (of_one, of_many)]
    assert abs(lengths[0] - lengths[1]) < 0.05 * lengths[1] < 0.05 * len(lines[0]) / 2


@pytest.mark.parametrize('space', [' ', ''])
def test_long_lines_are_cut_and_nothing_is_lost(space):
    line = 'wörd' + space
    for count in (2, 20_000, 50_000):
        parts = list(tokenizers.sentences(line * count))
        assert ''.join(parts) == line * count
        assert max(map(len, parts)) <= tokenizers.LONGEST_SENTENCE
        assert all(part.startswith(' ') for part in parts[1:]) or not space


def test_no_line_is_left_out_for_what_it_holds(cache_root):
    odd = ''.join(map(chr, range(0x2580, 0x2590)))
    model = learn('the quick brown fox\n' * 30 + f'zzz yyy {odd}\n' * 30, kind='bpe')
    assert any('z' in piece for piece in pieces(model))


@pytest.mark.parametrize('text', ['word', 'word\n', ' ', '\n', 'wordword ' * 9])
@pytest.mark.parametrize('kind', [tokenizers.Bpe, tokenizers.WordPiece, tokenizers.SentencePiece])
def test_one_line_is_enough_and_none_is_an_error(tmp_path, cache_root, kind, text):
    (tmp_path / 'a.txt').write_text(text)
    vocabulary = kind(vocab=300, trained_on=sources.TextFile(path=str(tmp_path / 'a.txt')))
    if text.strip():
        assert len(vocabulary.build().encode('word')) > 0
    else:
        with pytest.raises(config.InputError, match=r'a\.txt holds no text'):
            vocabulary.build()
