"""`diff` names what was planted, and says what the runs themselves show of it."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tiny
from bigmodel_jax import __main__, config, experiment
from bigmodel_jax.data import batches
from bigmodel_jax.reproduce import diff, diff_view, verdict
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.runs import directory, traces
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train import loop, state, step
from runs import quick

BF16 = {'model.dtype': 'bfloat16'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored(batches.Data):
    """The rows of a file, which may change between two runs."""

    path: str
    batch: config.Positive = 8

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return tiny.Counting(batch=self.batch).fields

    def build(self, seed: int) -> batches.Batches:
        rows = np.load(self.path)
        arrays = {'inputs': rows[:, :-1], 'targets': rows[:, 1:]}
        arrays['loss_weights'] = np.ones(arrays['inputs'].shape, np.float32)
        examples = batches.ArrayExamples(arrays, self.fields, fingerprint={'name': 'stored'})
        return batches.Batches(examples, rows=self.batch, seed=seed)


@pytest.fixture(scope='module', autouse=True)
def no_repository(tmp_path_factory):
    """Runs record the repository around the working directory; here there is none."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp('elsewhere'))
        yield


def trained(path, changes=(), stops=()):
    varied = config.vary(quick.experiment(), dict(changes))
    for stop in stops:
        loop.train(varied, path, stop_after=stop)
    loop.train(varied, path)
    return path


@pytest.fixture(scope='module')
def base(tmp_path_factory):
    return trained(tmp_path_factory.mktemp('base'))


@pytest.fixture(scope='module')
def on_eight(tmp_path_factory):
    return trained(tmp_path_factory.mktemp('eight'), {'mesh.data': 8})


def compared(left, right):
    return diff.compare(directory.open_run(left), directory.open_run(right))


def names(found, title):
    return [finding.what for finding in found.section(title).findings]


def edited(run, target, file, change):
    """A copy of a run of which one JSON file was changed."""
    shutil.copytree(run, target)
    content = json.loads((target / file).read_text())
    change(content)
    (target / file).write_text(json.dumps(content))
    (target / durable_files.SUMS).unlink()  # It would tell the edit.
    return target


# ---- nothing is planted -----------------------------------------------------------------------------------------


def test_a_repeated_run_is_identical(base, tmp_path):
    found = compared(base, trained(tmp_path / 'again'))
    assert found.identical
    assert not any(section.findings for section in found.sections)
    assert all(section.compared for section in found.sections)
    assert 'bit for bit to step 6' in found.verdict.reason


def test_a_resumed_run_is_identical(base, tmp_path):
    found = compared(base, trained(tmp_path / 'resumed', stops=(3,)))
    assert found.identical
    assert 'resumed at 3' in diff.about(found.runs[1])


def test_of_a_shorter_run_the_common_steps_are_compared(base, tmp_path):
    loop.train(quick.experiment(), tmp_path, stop_after=4)
    found = compared(base, tmp_path)
    assert found.identical
    assert 'to step 4' in found.verdict.reason


# ---- eight causes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'field'),
    [({'seed': 1}, 'seed'), (BF16, 'model.dtype'), ({'optimizer.eps': 1e-6}, 'optimizer.eps')],
    ids=['seed', 'dtype', 'eps'],
)
def test_a_field_of_the_experiment(base, tmp_path, changes, field):
    found = compared(base, trained(tmp_path / 'run', changes))
    assert (found.verdict.word, names(found, 'experiment')) == ('different experiment', [field])
    assert found.verdict.cause.startswith(f'{field}: ')
    assert names(found, 'metrics')[0] == 'step 2 loss'
    assert bool(found.section('initial').findings) == (field == 'seed')


def test_another_key_of_dropout(base, tmp_path, monkeypatch):
    original = step.key
    monkeypatch.setattr(step, 'key', lambda seed, number: jax.random.fold_in(original(seed, number), 1))
    found = compared(base, trained(tmp_path / 'run'))
    assert (found.verdict.word, names(found, 'keys')) == ('different code', ['step 1 key'])
    assert 'the code that makes keys differs' in found.verdict.reason
    assert not found.section('data').findings
    assert not found.section('initial').findings


def test_another_key_from_a_later_step_on_explains_nothing_before_it(base, tmp_path, monkeypatch):
    original = step.key
    late = lambda seed, number: jax.random.fold_in(original(seed, number), jnp.where(number < 4, 0, 1))  # noqa: E731
    runs = []
    for name, key in (('first', lambda seed, number: jax.random.fold_in(original(seed, number), 0)), ('late', late)):
        monkeypatch.setattr(step, 'key', key)
        runs.append(trained(tmp_path / name))
    found = compared(*runs)
    assert (found.verdict.word, names(found, 'keys')) == ('different code', ['step 6 key'])
    assert 'step 6 (metrics, equal to step 4)' in found.verdict.reason


def test_one_swapped_example(tmp_path):
    path = tmp_path / 'rows.npy'
    rows = np.random.default_rng(0).integers(0, tiny.VOCAB, (100, tiny.LENGTH + 1)).astype(np.int32)
    np.save(path, rows)
    changes = {'data': Stored(path=str(path))}
    left = trained(tmp_path / 'left', changes)
    used = Stored(path=str(path)).build(0).ids(2)[3]  # The fourth row of the batch of step 3.
    rows[used] = rows[used][::-1]
    np.save(path, rows)
    found = compared(left, trained(tmp_path / 'right', changes))
    assert (found.verdict.word, names(found, 'data')) == ('different data', ['step 3 content'])
    assert '1 of 6 steps' in found.verdict.cause
    assert not found.section('experiment').findings
    assert names(found, 'metrics')[0] == 'step 4 loss'  # The report of steps 3 and 4.


def test_another_order_of_the_data(base, tmp_path, monkeypatch):
    original = batches.Batches.ids
    monkeypatch.setattr(batches.Batches, 'ids', lambda self, number, rows=None: original(self, number ^ 1, rows))
    found = compared(base, trained(tmp_path / 'run'))
    assert (found.verdict.word, names(found, 'data')) == ('different data', ['step 1 ids'])


def test_another_mesh(base, on_eight):
    found = compared(base, on_eight)
    assert found.verdict.word == verdict.REASSOCIATION
    assert 'mesh: one device -> data=8' in found.verdict.cause
    assert 'float32 rounding explains' in found.verdict.reason
    assert (names(found, 'devices'), names(found, 'experiment')) == (['mesh'], ['mesh.data'])


@pytest.mark.slow
def test_another_mesh_in_bfloat16(tmp_path):
    found = compared(trained(tmp_path / 'one', BF16), trained(tmp_path / 'eight', {'mesh.data': 8, **BF16}))
    assert found.verdict.word == verdict.REASSOCIATION
    assert 'bfloat16 rounding explains' in found.verdict.reason


def another_version(sessions):
    for session in sessions:
        session['versions']['jax'] = '9.9'


def test_another_version_that_changed_nothing(base, tmp_path):
    found = compared(base, edited(base, tmp_path / 'run', 'environment.json', another_version))
    assert (found.verdict.word, names(found, 'versions'), found.verdict.also) == ('identical', ['jax'], 'jax')


def test_another_version_that_changed_last_bits(base, on_eight, tmp_path):
    """The last bits are another mesh's, which the copy hides."""

    def hide(sessions):
        another_version(sessions)
        for session in sessions:
            session['mesh']['data'] = 1

    run = edited(on_eight, tmp_path / 'run', 'environment.json', hide)
    shutil.copy(base / 'experiment.json', run)
    found = compared(base, run)
    assert found.verdict.word == verdict.REASSOCIATION
    assert found.verdict.cause.startswith('jax: ')


# ---- and more ---------------------------------------------------------------------------------------------------


def test_a_parameter_off_by_one_bit_is_unexplained(base, tmp_path, monkeypatch):
    original = state.specify

    def specify(*arguments):
        made = original(*arguments)

        def init_from(key_data):
            current = made.init_from(key_data)
            table = current.params['table']
            nudged = table.at[0, 0].set(jnp.nextafter(table[0, 0], 2.0))
            return current._replace(params=current.params | {'table': nudged})

        return dataclasses.replace(made, init_from=init_from)

    monkeypatch.setattr(state, 'specify', specify)
    found = compared(base, trained(tmp_path / 'run'))
    assert (found.verdict.word, names(found, 'initial')) == (verdict.UNEXPLAINED, ['step 0 parameters'])
    assert '1 of 3 pieces differ: table' in found.section('initial').findings[0].text


def test_too_much_for_rounding_is_unexplained(base, on_eight, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(on_eight, run)
    log = run / 'metrics.jsonl'
    written = event_log.read_all(log)
    for record in written:
        if record['kind'] == 'train':
            record['metrics']['loss'] *= 1.001
    log.write_text('\n'.join(map(event_log.encode, written)) + '\n')
    found = compared(base, run)
    assert found.verdict.word == verdict.UNEXPLAINED
    assert 'mesh: one device -> data=8' in found.verdict.reason


def test_nan_is_nan(base, tmp_path):
    poisoned = {'data.nan_example': 3, 'watch.anomalies': experiment.anomaly_policy.Skip()}
    runs = [trained(tmp_path / name, poisoned) for name in ('left', 'right')]
    assert compared(*runs).identical
    found = compared(base, runs[1])
    assert found.verdict.word == 'different experiment'
    json.dumps(found.to_json(), allow_nan=False)


def test_a_run_without_a_trace_says_so(base, tmp_path):
    shutil.copytree(base, tmp_path / 'old')
    (tmp_path / 'old' / durable_files.TRACE).unlink()
    found = compared(base, tmp_path / 'old')
    assert found.identical
    assert not found.section('layers').compared
    assert 'B has no trace.jsonl' in found.section('keys').otherwise


def test_a_session_under_other_conditions_acts_from_its_first_step_on(base, tmp_path):
    trained(tmp_path / 'resumed', stops=(4,))

    def newer(sessions):
        sessions[1]['versions']['jax'] = '9.9'
        sessions[1]['xla_flags'] = '--xla_cpu_fast=true'

    run = edited(tmp_path / 'resumed', tmp_path / 'run', 'environment.json', newer)
    found = compared(base, run)
    assert found.identical
    version, flag = (found.section(title).findings for title in ('versions', 'XLA flags'))
    assert (version[0].step, flag[-1].step, flag[-1].what) == (5, 5, '--xla_cpu_fast')
    assert 'from step 5 on' in version[0].text
    assert 'went on after step 4 with another jax' in diff.about(found.runs[1])


def test_what_code_differs(base, tmp_path):
    patch = 'diff --git a/{0} b/{0}\nindex 1..2\n--- a/{0}\n+++ b/{0}\n@@ -1 +1 @@\n-{1}\n+{2}\n'

    def repository(commit, diff):
        def change(sessions):
            sessions[0]['git'] = {'commit': commit, 'branch': 'main', 'dirty': bool(diff), 'diff': diff}

        return change

    same, other = patch.format('same.py', 1, 2), patch.format('step.py', 1, 2)
    left = edited(base, tmp_path / 'left', 'environment.json', repository('a' * 40, same))
    right = edited(base, tmp_path / 'right', 'environment.json', repository('b' * 40, same + other))
    code = compared(left, right).section('code')
    assert [finding.what for finding in code.findings] == ['commit', 'uncommitted changes']
    assert code.findings[1].text == 'step.py (only B)'


def test_the_bound_holds_what_was_measured_and_not_more_than_a_changed_field():
    """The measured differences of losses of about 4: float32 and bfloat16, 20 steps, meshes of 1 and 8 devices."""
    assert 2.9e-6 / 4 < verdict.bound(20, 'float32', 16) < 1e-5
    assert 9.6e-4 / 4 < verdict.bound(20, 'bfloat16', 16 * 64) < 1e-2


# ---- the command ------------------------------------------------------------------------------------------------


def command(*arguments, columns=80):
    """Runs the command in a process of its own; returns status, output, errors."""
    environment = {**os.environ, 'COLUMNS': str(columns), 'PYTHONPATH': str(pathlib.Path(__main__.__file__).parents[1])}
    words = [sys.executable, '-X', 'importtime', '-m', 'bigmodel_jax', 'diff', *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, env=environment)
    return done.returncode, done.stdout, done.stderr


def test_the_command_starts_without_jax_and_answers_first(base, on_eight, tmp_path):
    status, out, err = command(base, on_eight, '--json', tmp_path / 'diff.json')
    assert status == 1
    assert out.splitlines()[0].startswith('float reassociation of the expected size  mesh: one device -> data=8')
    assert out.strip().splitlines()[-3].startswith('float reassociation of the expected size: ')
    assert max(map(len, out.splitlines())) <= 80
    assert not [line for line in err.splitlines() if line.rpartition('|')[2].strip() in ('jax', 'grain', 'flax')]
    assert json.loads((tmp_path / 'diff.json').read_text())['verdict']['word'] == verdict.REASSOCIATION


def test_the_command_refuses_what_is_no_run(base, tmp_path, capsys):
    assert __main__.main(argv=['diff', str(base), str(base)]) == 0
    assert __main__.main(argv=['diff', str(base), str(tmp_path)]) == 2
    assert 'is not the directory of a run' in capsys.readouterr().err


def test_the_screen_of_identical_runs_has_a_line_for_each_section(base, capsys):
    import rich.console

    rich.console.Console(width=100).print(diff_view.render(compared(base, base)))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 + 1 + 11 + 1 + 1 + sum(len(str(base)) + 40 > 100 for _ in range(2))


def test_content_that_an_older_version_took_of_other_arrays_is_not_compared():
    def trace(content, fields):
        return traces.RunTrace({1: traces.StepCertificate('a', content, 0, fields)}, {})

    older = diff.data(trace('b', None), trace('c', ('x', 'y')), ({}, {}))
    assert (older.findings, 'not their content' in older.otherwise) == ((), True)
    assert diff.data(trace('b', None), trace('b', None), ({}, {})).otherwise == 'the same ids and content at 1 step'
    assert diff.data(trace('b', ('x',)), trace('c', ('x', 'y')), ({}, {})).findings
