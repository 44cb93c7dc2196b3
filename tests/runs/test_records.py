import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bigmodel_jax.train import records


def step(step, **metrics):
    return {'kind': 'train', 'step': step, 'time': float(step), 'metrics': metrics}


def same(left, right):
    """Equal, with nan equal to nan and the sign of zero told apart."""
    return repr(left) == repr(right)


@given(st.lists(st.dictionaries(st.text(max_size=5), st.floats(), max_size=4), max_size=6))
def test_metrics_come_back_exactly(rows):
    for row in rows:
        record = {'kind': 'train', 'step': 1, 'time': 0.1, 'metrics': row}
        line = records.encode(record)
        assert '\n' not in line
        assert same(records.decode(line.encode()), record)


def test_not_finite_numbers_are_json_and_come_back():
    record = step(1, loss=math.nan, up=math.inf, down=-math.inf, ok=1)
    line = records.encode(record)
    assert 'NaN' not in line
    assert 'Infinity' not in line
    assert same(records.decode(line.encode()), record | {'metrics': {**record['metrics'], 'ok': 1.0}})
    with pytest.raises(ValueError, match='not JSON compliant'):
        records.encode({'kind': 'evaluation', 'step': 1, 'seconds': math.nan})


def test_float32_is_exact():
    value = np.float32(0.1)
    assert records.decode(records.encode(step(1, loss=value)).encode())['metrics']['loss'] == float(value)


def test_words_outside_metrics_stay_words(tmp_path):
    record = {'kind': 'samples', 'step': 1, 'time': 0.0, 'samples': [{'prompt': 'nan', 'text': 'inf\n\u2028 世界'}]}
    records.append(tmp_path / 'm.jsonl', record)
    assert records.read(tmp_path / 'm.jsonl') == [record]


def test_no_file_is_no_records(tmp_path):
    assert records.read(tmp_path / 'm.jsonl') == []


@pytest.mark.parametrize('cut', [1, 5, 30])
def test_torn_line_is_skipped_and_the_next_writer_goes_on(tmp_path, cut):
    path = tmp_path / 'm.jsonl'
    with records.Writer(path) as writer:
        writer.append(step(1, loss=0.5))
        writer.append(step(2, loss=0.25))
    path.write_bytes(path.read_bytes()[:-cut])
    whole = [1, 2] if cut == 1 else [1]  # Only the newline is lost.
    assert [record['step'] for record in records.read(path)] == whole
    records.append(path, step(3, loss=0.125))
    assert [record['step'] for record in records.read(path)] == [*whole, 3]


def test_record_is_on_disk_before_close(tmp_path):
    writer = records.Writer(tmp_path / 'm.jsonl')
    writer.append({'kind': 'start', 'step': 0})
    (found,) = records.read(tmp_path / 'm.jsonl')
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
    kept = [(record['step'], record['metrics']['loss']) for record in records.current(history) if 'metrics' in record]
    assert kept == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 3.0)]


def test_new_start_takes_back_everything():
    history = [{'kind': 'start', 'step': 0}, step(10, loss=1.0), {'kind': 'start', 'step': 0}]
    assert [record['kind'] for record in records.current(history)] == ['start', 'start']
