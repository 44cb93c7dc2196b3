import json
import subprocess
import sys

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.runs import directory
from runs import run_maker


def test_finished_run(tmp_path):
    run = directory.open_run(run_maker.finished(tmp_path / 'a'))
    assert run.experiment == run_maker.example()
    assert (run.name, run.step, run.steps, run.finished, run.state) == (
        'shakespeare_char',
        2_000,
        2_000,
        True,
        'finished',
    )
    assert run.digest.startswith('c0ffee')
    assert run.checkpoints == [1_000, 2_000]
    steps, values = run.metrics('loss')
    np.testing.assert_array_equal(steps, np.arange(10, 2_001, 10))
    assert values.dtype == np.float64
    np.testing.assert_array_equal(run.metrics('validation/loss')[0], np.arange(250, 2_001, 250))
    assert [group.step for group in run.artifacts] == [500, 1_000, 1_500, 2_000]
    assert run.summary()['validation/loss'] == run.metrics('validation/loss')[1][-1]
    assert 'finished' in repr(run)
    assert json.loads(json.dumps(run.summary())) == run.summary()


def test_sessions_tell_what_was_done_twice(tmp_path):
    first, second = directory.open_run(run_maker.finished(tmp_path / 'a')).sessions
    assert (first.first_step, first.last_step, first.void_steps, first.ending) == (0, 1_200, 200, None)
    assert (second.first_step, second.last_step, second.void_steps, second.ending) == (1_000, 2_000, 0, 'finished')
    assert second.seconds == 100.0


def test_stopped_run_goes_on(tmp_path):
    path = run_maker.unfinished(tmp_path / 'a', 30)
    assert directory.open_run(path).state == 'running or interrupted'
    event_log.append(path / event_log.FILE, {'kind': 'stop', 'step': 30, 'reason': 'SIGTERM', 'digest': 'ab'})
    event_log.append(
        path / event_log.FILE, {'kind': 'evaluation', 'name': 'test', 'step': 30, 'metrics': {'loss': 1.0}}
    )
    stopped = directory.open_run(path)
    assert (stopped.state, stopped.finished, stopped.digest) == ('stopped by SIGTERM', False, None)
    assert [session.ending for session in stopped.sessions] == ['stopped by SIGTERM']
    event_log.append(path / event_log.FILE, {'kind': 'resume', 'step': 30})
    assert directory.open_run(path).state == 'running or interrupted'


def test_run_that_has_only_begun(tmp_path):
    run = directory.open_run(run_maker.write(tmp_path / 'a', [], sessions=[]))
    assert (run.step, run.finished, run.state, run.sessions, run.checkpoints) == (0, False, 'not started', [], [])
    assert run.metric_names == []
    assert run.summary()['parameters'] is None


def test_html_of_a_notebook_is_escaped(tmp_path):
    path = run_maker.unfinished(tmp_path / 'a', 10)
    experiment = config.to_json(config.vary(run_maker.example(), {'name': '<b>x'}))
    (path / 'experiment.json').write_text(json.dumps(experiment))
    assert '&lt;b&gt;x' in directory.open_run(path)._repr_html_()


def test_errors_say_what_to_do(tmp_path):
    with pytest.raises(config.InputError, match='no such directory'):
        directory.open_run(tmp_path / 'absent')
    (tmp_path / 'notes.txt').touch()
    with pytest.raises(config.InputError, match=r'not the directory of a run.*It holds notes\.txt'):
        directory.open_run(tmp_path)
    run = directory.open_run(run_maker.unfinished(tmp_path / 'a', 10))
    with pytest.raises(config.InputError, match=r"no metric 'lost'\. Did you mean 'loss'"):
        run.metrics('lost')
    (tmp_path / 'a' / 'experiment.json').write_text('{')
    with pytest.raises(config.InputError, match='is damaged'):
        directory.open_run(tmp_path / 'a')


def test_parts_of_an_experiment_file_need_the_file(tmp_path):
    path = run_maker.unfinished(tmp_path / 'a', 10)
    file = tmp_path / 'own_parts_of_runs.py'
    file.write_text(
        'import dataclasses\nfrom bigmodel_jax.objectives import objective\n'
        '@dataclasses.dataclass(frozen=True, kw_only=True)\nclass Own(objective.Objective):\n    weight: float = 1.0\n'
    )
    experiment = config.to_json(run_maker.example()) | {
        'objective': {'class': 'experiments.own_parts_of_runs:Own', 'weight': 2.0}
    }
    (path / 'experiment.json').write_text(json.dumps(experiment))
    with pytest.raises(config.InputError, match='name that file too'):
        _ = directory.open_run(path).experiment
    assert directory.open_run(path, file).experiment.objective.weight == 2.0
    sys.modules.pop('experiments.own_parts_of_runs')


def test_opening_imports_no_jax(tmp_path):
    path = run_maker.finished(tmp_path / 'a')
    code = (
        'import sys; from bigmodel_jax.runs import directory; run = directory.open_run(sys.argv[1]); run.summary();'
        'assert run.sessions; assert not {"jax", "flax", "grain"} & sys.modules.keys()'
    )
    done = subprocess.run([sys.executable, '-c', code, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
