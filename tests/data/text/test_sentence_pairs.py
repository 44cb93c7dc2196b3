"""The rows that BERT is pretrained on: what is masked how often, and where the second sentence comes from."""

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import bert_format, masking, sentence_pairs, tokenizers

WORDS = (
    'alpha', 'beta', 'gamma', 'delta', 'epsilon', 'zeta', 'eta', 'theta', 'iota', 'kappa', 'lamda', 'mu', 'nu', 'xi',
    'omicron', 'pi', 'rho', 'sigma', 'tau',
)  # fmt: skip
# Each document has words of its own, so that a token tells where it is from.
DOCUMENTS = tuple(
    ' '.join(f'{word}{number}' for word in WORDS[: 3 + 4 * number] for _ in range(3)) for number in range(5)
)
SOURCE = sources.Texts(texts=DOCUMENTS)
VOCAB = tokenizers.WordPiece(vocab=500, trained_on=SOURCE)
LENGTH, MOST = 24, 4
NOTHING = masking.Masking(max_predictions=MOST, mask=0.0, same=1.0, random=0.0)


def data(**changes):
    pairs = sentence_pairs.SentencePairs(
        source=SOURCE, tokenizer=VOCAB, batch=8, length=LENGTH, masking=masking.Masking(max_predictions=MOST)
    )
    return config.vary(pairs, changes)


def many(built, seed=0, epochs=40):
    """Every example in so many passes."""
    count = len(built.examples)
    indices, passes = np.tile(np.arange(count), epochs), np.repeat(np.arange(epochs), count)
    return built.examples.gather(indices, passes, seed)


@pytest.fixture(scope='module')
def plain():
    """Rows without a mask."""
    built = data(masking=NOTHING).build(0)
    return built, many(built)


def sentences(built, batch, row):
    special = bert_format.specials(built.examples.tokenizer)
    tokens, types = batch['inputs'][row], batch['types'][row]
    real = (batch['segments'][row] > 0) & ~np.isin(tokens, [special.start, special.separator])
    return tokens[real & (types == 0)].tolist(), tokens[real & (types == 1)].tolist()


def find(document, part):
    places = range(len(document) - len(part) + 1)
    return {place for place in places if document[place : place + len(part)] == part}


def test_the_second_sentence_follows_or_is_from_another_document(plain):
    built, batch = plain
    documents = [built.examples.tokenizer.encode(text).tolist() for text in DOCUMENTS]
    for row in range(len(batch['inputs'])):
        first, second = sentences(built, batch, row)
        owners = [number for number, document in enumerate(documents) if find(document, first)]
        if batch['is_random_next'][row]:
            others = [number for number, document in enumerate(documents) if find(document, second)]
            assert set(owners).isdisjoint(others)
            assert others
        else:
            assert any(find(documents[owner], first + second) for owner in owners)
        assert first
        assert second


def test_half_of_the_second_sentences_follow(plain):
    is_random = plain[1]['is_random_next']
    assert abs(is_random.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(is_random))  # Four standard deviations.


def test_rows_are_laid_out_as_bert_reads_them(plain):
    built, batch = plain
    special = bert_format.specials(built.examples.tokenizer)
    count = batch['segments'].sum(axis=1)
    assert (batch['inputs'][:, 0] == special.start).all()
    assert (batch['inputs'][np.arange(len(count)), count - 1] == special.separator).all()
    assert ((batch['inputs'] == special.separator).sum(axis=1) == 2).all()
    assert (batch['inputs'][batch['segments'] == 0] == special.pad).all()


def test_what_is_masked_and_how_often(plain):
    how = masking.Masking(max_predictions=LENGTH, rate=0.3, mask=0.6, same=0.3, random=0.1)
    built = data(masking=how).build(0)
    batch, before = many(built), plain[1]['inputs']
    special, there = bert_format.specials(built.examples.tokenizer), batch['loss_weights'] > 0
    row = np.nonzero(there)[0]
    at = batch['masked_positions'][there]
    np.testing.assert_array_equal(batch['targets'][there], before[row, at])
    assert not np.isin(batch['targets'][there], [special.pad, special.start, special.separator]).any()
    assert (np.diff(np.where(there, batch['masked_positions'], LENGTH + np.arange(LENGTH)), axis=1) > 0).all()
    np.testing.assert_array_equal(there.sum(axis=1), np.rint(0.3 * batch['segments'].sum(axis=1)))
    untouched = np.ones(before.shape, bool)
    untouched[row, at] = False
    np.testing.assert_array_equal(batch['inputs'][untouched], before[untouched])
    seen = batch['inputs'][row, at]
    size, by_chance = len(seen), 1 / built.examples.tokenizer.size
    for share, wanted in (((seen == special.mask).mean(), 0.6), ((seen == before[row, at]).mean(), 0.3)):
        bound = 4 * np.sqrt(wanted * (1 - wanted) / size) + 0.1 * by_chance  # A random token may be the one there was.
        assert abs(share - wanted) < bound


def test_no_more_places_than_asked_for(plain):
    assert plain[1]['masked_positions'].shape[1] == MOST
    assert plain[1]['loss_weights'].sum(axis=1).max() <= MOST


def test_a_row_depends_on_seed_pass_and_example_alone():
    examples = data().build(0).examples
    indices, passes = np.array([0, 3, 1]), np.array([0, 1, 2])
    whole = examples.gather(indices, passes, 7)
    for row in range(3):
        alone = examples.gather(indices[row : row + 1], passes[row : row + 1], 7)
        for name, array in whole.items():
            np.testing.assert_array_equal(array[row], alone[name][0])
    other_pass, other_seed = examples.gather(indices, passes + 1, 7), examples.gather(indices, passes, 8)
    assert (other_pass['inputs'] != whole['inputs']).any(axis=1).all()
    assert (other_seed['inputs'] != whole['inputs']).any(axis=1).all()


def test_the_fields_are_those_of_a_batch():
    built = data().build(0)
    batch = built.training(0)
    assert {name: (array.shape[1:], array.dtype) for name, array in batch.items()} == {
        name: (field.shape, field.dtype) for name, field in built.fields.items()
    }


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'source': sources.Texts(texts=DOCUMENTS[1:2])}, 'at least two documents'),
        ({'tokenizer': tokenizers.Bytes()}, 'use tokenizers.WordPiece'),
        ({'length': 4}, 'too short'),
    ],
)
def test_wrong_data_are_refused(changes, words):
    with pytest.raises(config.InputError, match=words):
        data(**changes).build(0)


def test_shares_must_sum_to_one():
    with pytest.raises(config.InputError, match='must sum to 1'):
        masking.Masking(max_predictions=4, mask=0.8, same=0.1, random=0.2)


@pytest.mark.parametrize(
    ('first', 'second', 'room', 'kept'), [(3, 4, 10, (3, 4)), (9, 2, 8, (6, 2)), (2, 9, 8, (2, 6)), (9, 9, 7, (4, 3))]
)
def test_the_longer_sentence_is_cut(first, second, room, kept):
    assert bert_format.truncate(first, second, room) == kept
