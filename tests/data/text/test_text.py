import dataclasses
import json

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import batches as schema
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers

PACKINGS = [text.Windows(), text.Documents()]
LENGTH = 48


@pytest.fixture(params=PACKINGS, ids=['windows', 'documents'])
def data(request, stories):
    source = sources.JsonLines(pattern=stories[0])
    return text.Text(source=source, tokenizer=tokenizers.Bytes(), batch=8, length=LENGTH, packing=request.param)


@pytest.fixture
def batches(data):
    return data.build(seed=3)


def one_pass(batches):
    """The batches of one pass in order, joined; rows past the end left out."""
    parts = [batches.eval_batch(i) for i in range(batches.steps_per_pass)]
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: array[: len(batches.examples)] for name, array in joined.items()}


def test_batches_are_as_declared(data, batches):
    batch = batches.training(0)
    assert set(batch) == set(batches.fields)
    assert schema.batch_fields(data.fields) == batches.fields
    for name, field in batches.fields.items():
        assert (batch[name].shape, batch[name].dtype) == ((8, *field.shape), field.dtype), name
        assert field.upper_bound is None or batch[name].max() < field.upper_bound


def test_an_epoch_sees_each_row_once(batches):
    count = len(batches.examples)
    ids = np.concatenate([batches.ids(step) for step in range(count)])[: 2 * count]
    for epoch in (ids[:count], ids[count:]):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(count))
    assert (ids[:count] != ids[count:]).any()


@pytest.mark.parametrize('readers', [2, 4])
@pytest.mark.parametrize('method', ['training', 'eval_batch'])
def test_readers_of_slices_get_the_same_batch(batches, readers, method):
    rows = [slice(i * 8 // readers, (i + 1) * 8 // readers) for i in range(readers)]
    for step in (0, 7, batches.steps_per_pass - 1):
        whole = getattr(batches, method)(step)
        parts = [getattr(batches, method)(step, each) for each in rows]
        for name, array in whole.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)


def test_batches_depend_on_the_seed_and_nothing_else(data, batches):
    first, again, other = (data.build(seed).training(9) for seed in (3, 3, 4))
    for name, array in batches.training(9).items():
        np.testing.assert_array_equal(first[name], array)
        np.testing.assert_array_equal(again[name], array)
    assert (other['inputs'] != first['inputs']).any()


def test_a_pass_in_order_predicts_each_token_once(batches, stories):
    rows = one_pass(batches)
    corpus = batches.examples.corpus
    seen = np.bincount(rows['targets'][rows['loss_weights'] > 0], minlength=257)
    np.testing.assert_array_equal(seen, np.bincount(corpus.tokens[1:], minlength=257))
    assert rows['bytes'].sum() == sum(len(story.encode()) for story in stories[1])


def test_rows_past_the_end_count_for_nothing(batches):
    last = batches.eval_batch(batches.steps_per_pass - 1)
    padding = last['example_weights'] == 0
    assert padding.sum() == batches.steps_per_pass * 8 - len(batches.examples) > 0


def test_the_next_input_is_the_target(batches):
    for batch in (one_pass(batches), batches.training(0)):
        segments = batch.get('segments', (batch['loss_weights'] > 0).astype(np.int32))
        joined = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
        np.testing.assert_array_equal(batch['inputs'][:, 1:][joined], batch['targets'][:, :-1][joined])


def test_packed_rows_hold_the_documents_exactly(stories):
    path, texts = stories
    source = sources.JsonLines(pattern=path)
    whole = text.Text(source=source, tokenizer=tokenizers.Bytes(), batch=4, length=600, packing=text.Documents())
    batches = whole.build(seed=0)
    end, found = batches.examples.tokenizer.end, []
    rows = one_pass(batches)
    for inputs, targets, segments in zip(rows['inputs'], rows['targets'], rows['segments']):
        for segment in range(1, segments.max() + 1):
            here = segments == segment
            assert inputs[here][0] == targets[here][-1] == end
            found.append(batches.examples.tokenizer.decode(targets[here]))
    assert sorted(found) == sorted(texts)


def test_padding_is_marked_everywhere(stories):
    data = text.Text(
        source=sources.JsonLines(pattern=stories[0]),
        tokenizer=tokenizers.Bytes(),
        batch=4,
        length=500,
        packing=text.Documents(),
    )
    rows = one_pass(data.build(seed=0))
    np.testing.assert_array_equal(rows['loss_weights'] > 0, rows['segments'] > 0)
    assert (rows['loss_weights'] == 0).any()
    for name in ('inputs', 'targets', 'positions'):
        assert not rows[name][rows['loss_weights'] == 0].any()


def test_later_passes_of_windows_begin_elsewhere(stories):
    source = sources.JsonLines(pattern=stories[0])
    batches = text.Text(source=source, tokenizer=tokenizers.Bytes(), batch=8, length=LENGTH).build(seed=0)
    examples, rows = batches.examples, np.arange(len(batches.examples))
    stream = np.asarray(examples.corpus.tokens, np.int32)
    beginnings = set()
    for epoch in range(4):
        batch = examples.gather(rows, np.full(len(rows), epoch), 0)
        beginnings.add(batch['inputs'][0].tobytes())
        covered = np.bincount(batch['targets'][batch['loss_weights'] > 0], minlength=257)
        assert (covered >= np.bincount(stream[1:], minlength=257)).all()
        assert covered.sum() <= len(stream) - 1 + LENGTH
    assert len(beginnings) == 4


def test_fingerprint_tells_data_apart(data, batches):
    assert json.loads(json.dumps(batches.examples.fingerprint)) == batches.examples.fingerprint
    changed = dataclasses.replace(data, length=LENGTH // 2).build(3)
    assert changed.examples.fingerprint != batches.examples.fingerprint
    assert len(batches.examples.fingerprint['sha256']) == 64


@pytest.mark.parametrize('packing', PACKINGS)
def test_too_little_text(tmp_path, packing):
    (tmp_path / 'a.txt').write_text('short')
    data = text.Text(
        source=sources.TextFile(path=str(tmp_path / 'a.txt')),
        tokenizer=tokenizers.Bytes(),
        batch=1,
        length=7,
        packing=packing,
    )
    with pytest.raises(config.InputError, match='6 tokens, too few for one row of length=7'):
        data.build(0)
    assert len(dataclasses.replace(data, length=6).build(0).examples) == 1


def test_nothing_but_empty_documents(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"text": ""}\n' * 3)
    source = sources.JsonLines(pattern=str(tmp_path / 'a.jsonl'))
    with pytest.raises(config.InputError, match='holds no text: its 3 documents give no token'):
        text.Text(source=source, tokenizer=tokenizers.Bytes(), batch=1, length=7).build(0)


def test_unigram_entropy_against_the_definition(tmp_path):
    (tmp_path / 'a.txt').write_text('aaab' * 50)
    (tmp_path / 'b.txt').write_text('aabé' * 10)
    train, held_out = (
        text.Text(
            source=sources.TextFile(path=str(tmp_path / name)), tokenizer=tokenizers.Bytes(), batch=2, length=16
        ).build(0)
        for name in ('a.txt', 'b.txt')
    )
    probability = {'a': 151, 'b': 51, 'end': 2, 'other': 1}
    counts = {'a': 20, 'b': 10, 'end': 1, 'other': 20}  # Two bytes of é, ten times.
    nats = -sum(n * np.log(probability[token] / (201 + 257)) for token, n in counts.items())
    entropy = text.unigram_entropy(train, held_out)
    assert entropy.nats_per_token == pytest.approx(nats / 51, rel=1e-12)
    assert entropy.bits_per_byte == pytest.approx(nats / np.log(2) / 50, rel=1e-12)


def test_config_is_valid_and_survives_json(data):
    assert config.from_json(config.to_json(config.check(data))) == data
