"""Pairs of sentences: whole, on the same row, told apart, and aligned whatever is blank or too long."""

import gzip

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.text import packing, pairs, tokenizers

SOURCE = ('a', 'bcd', '', 'efghij', 'kl', 'x' * 40, 'mno', 'p')
TARGET = ('AB', 'C', 'DE', '', 'FGHIJKL', 'X', 'M' * 9, 'Q')


def built(source=SOURCE, target=TARGET, *, length=12, batch=2):
    sides = (sources.Texts(texts=side) for side in (source, target))
    data = pairs.Pairs(source=next(sides), target=next(sides), tokenizer=tokenizers.Bytes(), batch=batch, length=length)
    return data, data.build(seed=0)


def read(batch):
    """The pairs of a batch as texts, from the arrays that a model sees."""
    decode, found = tokenizers.Bytes().build().decode, []
    for row in range(len(batch['source'])):
        for segment in range(1, batch['segments'][row].max() + 1):
            ours = batch['source_segments'][row] == segment
            theirs = batch['segments'][row] == segment
            assert batch['source'][row][ours][-1] == batch['targets'][row][theirs][-1] == 256
            assert batch['inputs'][row][theirs][0] == 256
            np.testing.assert_array_equal(batch['inputs'][row][theirs][1:], batch['targets'][row][theirs][:-1])
            for name, mask in (('source_positions', ours), ('positions', theirs)):
                np.testing.assert_array_equal(batch[name][row][mask], np.arange(mask.sum()))
            found.append((decode(batch['source'][row][ours]), decode(batch['targets'][row][theirs])))
    return found


def test_every_pair_is_there_once_and_whole():
    _, rows = built()
    found = [pair for index in range(rows.steps_per_pass) for pair in read_once(rows, index)]
    assert sorted(found) == sorted(pair for pair in zip(SOURCE, TARGET) if len(pair[0]) < 12)
    assert rows.examples.left_out == 1
    assert {name: (array.shape[1:], array.dtype) for name, array in rows.training(0).items()} == {
        name: (field.shape, field.dtype) for name, field in rows.fields.items()
    }


def read_once(rows, index):
    batch = rows.eval_batch(index)
    kept = batch['example_weights'] > 0
    return read({name: array[kept] for name, array in batch.items()})


def test_bytes_are_those_of_the_targets():
    _, rows = built()
    whole = [rows.eval_batch(index) for index in range(rows.steps_per_pass)]
    total = sum(batch['bytes'] @ batch['example_weights'] for batch in whole)
    assert total == sum(len(text) for text, source in zip(TARGET, SOURCE) if len(source) < 12)


def test_packing_wastes_little():
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.normal(16, 6, (2, 3_000)), 2, 60).astype(np.int64)
    rows = packing.best_fit_pairs(lengths, capacity=96)
    used = np.stack([np.bincount(rows, weights=side) for side in lengths])
    assert used.max() <= 96
    assert used.mean() > 0.9 * 96


def test_sides_that_do_not_match_are_refused():
    with pytest.raises(config.InputError, match=r'8 sentences and the target 2'):
        built(target=('a', 'b'))


def test_rows_shorter_than_every_pair_are_refused():
    with pytest.raises(config.InputError, match=r'None of the 2 pairs has at most length=3 tokens'):
        built(source=('abcdef', 'b'), target=('a', 'cdefgh'), length=3)


def test_lines_keep_blank_ones_and_unpack(tmp_path):
    (tmp_path / 'a.txt').write_bytes(b'one\r\n\nthree')
    assert list(records.texts(sources.Lines(path=str(tmp_path / 'a.txt')))) == ['one', '', 'three']
    (tmp_path / 'a.txt.gz').write_bytes(gzip.compress(b'eins\n\ndrei\n'))
    packed = sources.Lines(path=str(tmp_path / 'a.txt.gz'))
    assert list(records.texts(packed)) == ['eins', '', 'drei']
    joined = records.texts(sources.Joined(parts=(packed, sources.Texts(texts=('vier',)))))
    assert list(joined) == ['eins', '', 'drei', 'vier']
    assert joined.read(1, 4) == ['', 'drei', 'vier']


def test_a_torn_gzip_file_is_refused(tmp_path):
    whole = gzip.compress(b'one\ntwo\n' * 100)
    (tmp_path / 'torn.gz').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(config.InputError, match='is not a whole compressed file'):
        records.texts(sources.Lines(path=str(tmp_path / 'torn.gz')))
