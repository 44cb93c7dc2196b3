"""What is followed is what is read: a log that is read on in any pieces gives what the whole one gives."""

import json
import os
import pathlib

import numpy as np
import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from bigmodel_jax.report import sections
from bigmodel_jax.report.live import log_tail
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.runs import directory
from runs import run_maker

NUMBERS = st.one_of(st.floats(), st.integers(-5, 5))
RECORDS = st.one_of(
    st.builds(
        lambda kind, step, value: {'kind': kind, 'step': step, 'time': 1.0, 'metrics': value},
        st.sampled_from(['train', 'speed']),
        st.integers(0, 9),
        st.dictionaries(st.sampled_from(['loss', 'a']), NUMBERS),
    ),
    st.builds(
        lambda step, value: {'kind': 'evaluation', 'name': 'v', 'step': step, 'time': 2.0, 'metrics': {'loss': value}},
        st.integers(0, 9),
        NUMBERS,
    ),
    st.builds(
        lambda step, data_s: {'kind': 'time', 'step': step, 'time': 3.0, 'metrics': {'train_s': 1.0, 'data_s': data_s}},
        st.integers(0, 9),
        st.floats(0, 10),
    ),
    st.builds(
        lambda kind, step: {'kind': kind, 'step': step, 'time': 4.0},
        st.sampled_from(['start', 'resume', 'rollback']),
        st.integers(0, 9),
    ),
    st.builds(lambda step: {'kind': 'warning', 'step': step, 'time': 5.0, 'text': 'beware'}, st.integers(0, 9)),
)


def same(tail: log_tail.LogTail, run: directory.Run) -> None:
    """Asserts that both hold the same."""
    assert set(tail.points) == set(run.metric_names)
    for name, points in tail.points.items():
        for mine, theirs in zip(points.arrays(), run.metrics(name), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert {name for name, points in tail.shares.items() if len(points)} == set(run.time_shares)
    for name, (steps, shares) in run.time_shares.items():
        np.testing.assert_array_equal(tail.shares[name].arrays()[0], steps)
        np.testing.assert_array_equal(tail.shares[name].arrays()[1], shares)
    assert tail.step == run.step
    assert tail.messages[::-1] == sections.messages(run.records)


@settings(max_examples=60, deadline=None)
@given(st.lists(RECORDS, max_size=25), st.integers(1, 400))
def test_pieces_of_any_length_give_the_whole(tmp_path_factory, history, piece):
    path = tmp_path_factory.mktemp('run')
    (path / 'experiment.json').write_text(json.dumps({'name': 'x', 'steps': 9}))
    text = ''.join(f'{event_log.encode(record)}\n' for record in history).encode()
    tail = log_tail.LogTail(epath.Path(path / event_log.FILE))
    for end in range(0, len(text) + piece, piece):  # The writer's pieces end within lines, and so do the reader's.
        (path / event_log.FILE).write_bytes(text[:end])
        tail.read_on(piece)
    while tail.read_on(piece):
        pass
    same(tail, directory.Run(epath.Path(path)))


def test_a_run_that_was_killed_and_resumed_is_as_it_is_read(tmp_path):
    path = run_maker.finished(tmp_path / 'a', steps=400)
    tail = log_tail.LogTail(epath.Path(path / event_log.FILE))
    while tail.read_on(1_000):
        pass
    run = directory.open_run(path)
    same(tail, run)
    assert tail.resumptions == run.resumptions


@pytest.mark.parametrize('how', ['shorter', 'replaced', 'rewritten'])
def test_another_file_of_the_same_name_is_read_from_its_start(tmp_path, how):
    path = tmp_path / event_log.FILE
    for step in (1, 2, 3):
        event_log.append(path, {'kind': 'train', 'step': step, 'metrics': {'loss': 1.0}})
    tail = log_tail.LogTail(epath.Path(path))
    tail.read_on()
    new = [event_log.encode({'kind': 'train', 'step': step, 'time': 9.0, 'metrics': {'loss': 2.0}}) for step in (5, 6)]
    content = ('\n'.join([*new[: 1 if how == 'shorter' else 2], *['x' * 400] * (how == 'rewritten')]) + '\n').encode()
    if how == 'replaced':
        (tmp_path / 'new').write_bytes(content)
        os.replace(tmp_path / 'new', path)
    else:
        path.write_bytes(content)
    tail.read_on()
    assert tail.points['loss'].arrays()[0].tolist() == ([5] if how == 'shorter' else [5, 6])
    assert tail.damage == (how == 'rewritten')


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / event_log.FILE)
    secret = tmp_path / 'secret'
    event_log.append(secret, {'kind': 'train', 'step': 1, 'metrics': {'loss': 1.0}})
    (tmp_path / 'link').symlink_to(secret)
    for path in (tmp_path / event_log.FILE, tmp_path / 'link', tmp_path, pathlib.Path('missing')):
        tail = log_tail.LogTail(epath.Path(path))
        assert not tail.read_on()
        assert not tail.points
