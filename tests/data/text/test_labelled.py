"""Labelled sentences: tables as they are read, rows as BERT reads them."""

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.text import bert_format, labelled, tokenizers

WORDS = 'a good film with no plot but fine actors who mumble on and on'
VOCAB = tokenizers.WordPiece(vocab=300, trained_on=sources.Texts(texts=(WORDS,)))
TABLE = 'id\tscore\tone\tother\nx\t1\ta good film\tno plot\ny\t0\twith fine actors who mumble on and on\ta film\n'


@pytest.fixture
def path(tmp_path):
    file = tmp_path / 'table.tsv'
    file.write_text(TABLE)
    return str(file)


def data(path, **changes):
    source, fields = sources.Tsv(path=path, header=True), {'sentences': (2, 3), 'label': 1}
    return config.vary(labelled.Labelled(source=source, tokenizer=VOCAB, batch=2, length=32, **fields), changes)


def test_rows_hold_both_sentences_and_the_label(path):
    built = data(path).build(0)
    batch, tokenizer = built.eval_batch(0), built.examples.tokenizer
    assert batch['labels'].tolist() == [1, 0]
    assert batch['example_weights'].tolist() == [1, 1]
    real, types = batch['segments'][0] > 0, batch['types'][0]
    assert tokenizer.decode(batch['inputs'][0][real & (types == 0)]) == 'a good film'
    assert tokenizer.decode(batch['inputs'][0][real & (types == 1)]) == 'no plot'


def test_one_sentence_has_one_separator(path):
    built = data(path, sentences=(2,)).build(0)
    batch, special = built.eval_batch(0), bert_format.specials(built.examples.tokenizer)
    assert ((batch['inputs'] == special.separator).sum(axis=1) == 1).all()
    assert not batch['types'].any()


def test_long_pairs_are_cut_to_the_row(path):
    batch = data(path, length=8).build(0).eval_batch(0)
    assert batch['inputs'].shape == (2, 8)
    assert (batch['segments'].sum(axis=1) == 8).all()


def test_numbers_are_values(path):
    batch = data(path, classes=1).build(0).eval_batch(0)
    np.testing.assert_array_equal(batch['values'], np.array([1.0, 0.0], np.float32))


def test_the_columns_of_a_table_are_sources_of_text(path):
    table = data(path).source
    texts = records.texts(sources.Joined(parts=tuple(sources.TextField(source=table, field=field) for field in (2, 3))))
    assert list(texts) == ['a good film', 'with fine actors who mumble on and on', 'no plot', 'a film']


@pytest.mark.parametrize(
    ('changes', 'words'),
    [
        ({'source.path': 'nowhere.tsv'}, 'There is no file .*nowhere.tsv'),
        ({'label': 4}, "line 2 has no field '4'"),
        ({'label': 0}, "label 'x' is not one of 0 to 1"),
        ({'label': 0, 'classes': 1}, "label 'x' is not a number"),
        ({'source.header': False}, "label 'score'"),
        ({'length': 3}, 'leaves no room'),
        ({'tokenizer': tokenizers.Bytes()}, 'use tokenizers.WordPiece'),
    ],
)
def test_wrong_tables_are_refused(path, changes, words):
    with pytest.raises(config.InputError, match=words):
        data(path, **changes).build(0)
