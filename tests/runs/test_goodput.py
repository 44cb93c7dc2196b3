"""Where the time of a run went: the parts add up to all of it."""

import datetime

import pytest

from bigmodel_jax.report import report
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.runs import directory, goodput
from bigmodel_jax.train.monitoring import sessions
from runs import run_maker

START_S = 1_750_000_000.0


def start(step, at_s):
    return {'kind': 'resume' if step else 'start', 'step': step, 'time': START_S + at_s}


def times(step, at_s, **seconds):
    metrics = dict.fromkeys(goodput.PARTS, 0.0) | {f'{phase}_s': value for phase, value in seconds.items()}
    return {'kind': 'time', 'step': step, 'time': START_S + at_s, 'metrics': metrics}


def shares(every, *began):
    """Part -> seconds; checks that the parts add up."""
    environment = [
        {'started': datetime.datetime.fromtimestamp(START_S + at_s, datetime.UTC).isoformat(), 'step': step}
        for step, at_s in began
    ]
    found = goodput.goodput(sessions.sessions(environment, every), every)
    assert sum(part.share for part in found) == pytest.approx(1.0)
    assert sum(part.seconds for part in found) == pytest.approx(every[-1]['time'] - START_S)
    return {part.name: part.seconds for part in found if part.seconds}


def test_an_undisturbed_run():
    every = [
        start(0, 2),
        times(10, 50, compile=20, train=20, data=5, other=3),
        times(20, 100, train=30, evaluation=12, checkpoint=4, other=4),
        {'kind': 'end', 'step': 20, 'time': START_S + 101},
    ]
    assert shares(every, (0, 0)) == {
        'training': 50,
        'compilation': 20,
        'waiting for data': 5,
        'checkpoints': 4,
        'evaluation': 12,
        # 7 were recorded so; 2 before the first record, and 1 after the last.
        'other': 10,
    }


def test_a_killed_session_did_steps_that_were_done_again():
    every = [
        start(0, 0),
        times(10, 20, train=20),
        times(20, 40, train=20),  # Of steps 10 to 20 the first five were saved.
        start(15, 100),
        times(20, 110, train=10),
    ]
    assert shares(every, (0, 0), (15, 100)) == {'training': 40, 'steps done again': 10, 'between sessions': 60}


def test_a_roll_back_is_of_the_same_session():
    every = [
        start(0, 0),
        times(10, 20, train=15, data=5),
        {'kind': 'rollback', 'step': 0, 'time': START_S + 21},
        times(10, 41, train=20, checkpoint=1),
    ]
    assert shares(every, (0, 0)) == {'training': 20, 'steps done again': 20, 'checkpoints': 1}


def test_old_runs_have_recorded_nothing(tmp_path):
    path = run_maker.finished(tmp_path / 'a')
    assert directory.open_run(path).time_spent is None
    assert 'did not record where its time went' in report.write_report(path).read_text()


def test_the_report_shows_table_and_bar(tmp_path):
    path = run_maker.finished(tmp_path / 'a')
    first, *_, last = event_log.read_all(path / event_log.FILE)
    train = (last['time'] - first['time']) / 2
    metrics = {'train_s': train, 'data_s': train / 2, 'checkpoint_s': 0.0}
    event_log.append(
        path / event_log.FILE, {'kind': 'time', 'step': last['step'], 'time': last['time'], 'metrics': metrics}
    )
    shown = report.write_report(path).read_text()
    assert 'part of the result' in shown
    assert 'waiting for data' in shown
    run = directory.open_run(path)
    assert 'train_s' not in run.metric_names
    segments = goodput.bar(run.time_spent, 920.0)
    assert sum(segment.width for segment in segments) == pytest.approx(920.0, abs=0.1)
    assert shown.count('<rect class="shade') == len(segments)
