import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmodel_jax.run_directory import event_log


def step(step, **metrics):
    return {'kind': 'train', 'step': step, 'time': float(step), 'metrics': metrics}


def same(left, right):
    """Equal, with nan equal to nan and the sign of zero told apart."""
    return repr(left) == repr(right)


@given(st.lists(st.dictionaries(st.text(max_size=5), st.floats(), max_size=4), max_size=6))
def test_metrics_come_back_exactly(rows):
    for row in rows:
        record = {'kind': 'train', 'step': 1, 'time': 0.1, 'metrics': row}
        line = event_log.encode(record)
        assert '\n' not in line
        assert same(event_log.decode(line.encode()), record)


def test_not_finite_numbers_are_json_and_come_back():
    record = step(1, loss=math.nan, up=math.inf, down=-math.inf, ok=1)
    line = event_log.encode(record)
    assert 'NaN' not in line
    assert 'Infinity' not in line
    assert same(event_log.decode(line.encode()), record | {'metrics': {**record['metrics'], 'ok': 1.0}})
    with pytest.raises(ValueError, match='not JSON compliant'):
        event_log.encode({'kind': 'evaluation', 'step': 1, 'seconds': math.nan})


def test_float32_is_exact():
    value = np.float32(0.1)
    assert event_log.decode(event_log.encode(step(1, loss=value)).encode())['metrics']['loss'] == float(value)


def test_words_outside_metrics_stay_words(tmp_path):
    record = {
        'kind': 'samples',
        'step': 1,
        'time': 0.0,
        'name': 's',
        'samples': [{'prompt': 'nan', 'text': 'inf\n\u2028 世界'}],
    }
    event_log.append(tmp_path / 'm.jsonl', record)
    assert event_log.read(tmp_path / 'm.jsonl') == [record]


def test_no_file_is_no_records(tmp_path):
    assert event_log.read(tmp_path / 'm.jsonl') == []


@pytest.mark.parametrize('cut', [1, 5, 30])
def test_torn_line_is_skipped_and_the_next_writer_goes_on(tmp_path, cut):
    path = tmp_path / 'm.jsonl'
    with event_log.EventWriter(path) as writer:
        writer.append(step(1, loss=0.5))
        writer.append(step(2, loss=0.25))
    path.write_bytes(path.read_bytes()[:-cut])
    whole = [1, 2] if cut == 1 else [1]  # Only the newline is lost.
    assert [record['step'] for record in event_log.read(path)] == whole
    event_log.append(path, step(3, loss=0.125))
    assert [record['step'] for record in event_log.read(path)] == [*whole, 3]


def test_record_is_on_disk_before_close(tmp_path):
    writer = event_log.EventWriter(tmp_path / 'm.jsonl')
    writer.append({'kind': 'start', 'step': 0})
    (found,) = event_log.read(tmp_path / 'm.jsonl')
    writer.close()
    assert found['time'] > 0


def test_resumed_session_takes_back_what_it_does_again():
    history = [
        {'kind': 'start', 'step': 0},
        *[step(k, loss=1.0) for k in (10, 20, 30, 40)],
        {'kind': 'resume', 'step': 20},
        *[step(k, loss=2.0) for k in (30, 40)],
        {'kind': 'resume', 'step': 30},
        step(40, loss=3.0),
    ]
    kept = [(record['step'], record['metrics']['loss']) for record in event_log.current(history) if 'metrics' in record]
    assert kept == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 3.0)]


def test_new_start_takes_back_everything():
    history = [{'kind': 'start', 'step': 0}, step(10, loss=1.0), {'kind': 'start', 'step': 0}]
    assert [record['kind'] for record in event_log.current(history)] == ['start', 'start']


def log(path):
    """The bytes of a log with a record of each important kind."""
    with event_log.EventWriter(path) as writer:
        writer.append({'kind': 'start', 'step': 0, 'time': 1.0})
        writer.append(step(1, loss=0.5))
        writer.append({'kind': 'certificates', 'step': 1, 'time': 2.0, 'ids': ['0a'], 'content': ['f'], 'skipped': 0})
        writer.append({'kind': 'end', 'step': 1, 'time': 3.0, 'digest': 'c0ffee'})
    return path.read_bytes()


def test_a_flipped_bit_is_named_as_damage_and_never_read_as_a_value(tmp_path):
    path = tmp_path / 'm.jsonl'
    whole, written = log(path), event_log.read_all(path)
    for at in range(len(whole) - 1):  # But for the last newline.
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        found = event_log.scan(path)
        assert all(record in written for record in found.records), at
        assert len(found.records) == len(written) or found.damage, f'byte {at}: a record went missing without a word'
        assert all(f'{path}, line ' in sentence for sentence in found.damage)


def test_lines_of_older_versions_have_no_checksum_and_are_read(tmp_path):
    path = tmp_path / 'm.jsonl'
    path.write_text('{"kind": "start", "step": 0, "time": 1.0}\n')
    event_log.append(path, step(1, loss=0.5))
    found = event_log.scan(path)
    assert ([each['step'] for each in found.records], found.damage) == ([0, 1], [])


@pytest.mark.parametrize(
    ('line', 'what'),
    [
        ('{"kind": "train", "step": 1, "time": 1.0}', 'metrics'),
        ('{"kind": "train", "step": "1", "time": 1.0, "metrics": {}}', 'step'),
        ('{"kind": "train", "step": 1, "tine": 1.0, "metrics": {}}', 'time'),
        ('{"kind": "train", "step": 1, "time": 1e999, "metrics": {}}', 'time'),
        ('{"kind": "train", "step": 1, "time": 1.0, "metrics": {"loss": [1]}}', 'metrics.loss'),
        ('{"kind": "train", "step": 1, "time": 1.0, "metrics": {"loss": 1' + '0' * 400 + '}}', 'metrics.loss'),
        ('{"kind": "train", "step": ' + '1' * 5_000 + '}', 'not JSON'),
        ('{"kind": "end", "step": 1, "time": 1.0}', 'digest'),
        ('{"kind": ["train"], "step": 1, "time": 1.0}', 'kind'),
        ('{"kind": "evaluation", "step": 1, "time": 1.0, "name": "\\ud800", "metrics": {}}', 'surrogate'),
        ('{"kind": ' + '[' * 100_000 + ']' * 100_000 + '}', 'nested'),
        ('[]', 'not a JSON object'),
    ],
)  # fmt: skip
def test_a_record_of_another_form_is_named_with_its_line_and_field(tmp_path, line, what):
    path = tmp_path / 'm.jsonl'
    path.write_text(f'{line}\n{{"kind": "start", "step": 0, "time": 1.0}}\n')
    found = event_log.scan(path)
    assert [record['kind'] for record in found.records] == ['start']
    (sentence,) = found.damage
    assert f'{path}, line 1 is damaged' in sentence
    assert what in sentence
