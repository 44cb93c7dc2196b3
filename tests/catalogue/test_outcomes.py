"""Groups, values that were tried, order, and what is printed."""

import csv
import io
import json
import math

import numpy as np
import pytest
from catalogue import run_folder

from bigmodel_jax import __main__, config, verbs
from bigmodel_jax.catalogue import catalogue, exports, fields, tables

HIDDEN = 'model__block__ffn__hidden'


@pytest.fixture
def command(capfd):
    def run(*arguments):
        status = __main__.main(argv=['runs', *map(str, arguments)])
        printed = capfd.readouterr()
        return status, printed.out, printed.err

    return run


def test_groups_agree_with_numpy(twenty):
    runs = catalogue.find_runs(twenty)
    rows = runs.records()
    found = runs.grouped(['model.width', 'optimizer.schedule.peak'])
    assert len(found) == 4
    for group in found:
        members = [row for row in rows if all(row[name] == value for name, value in group.values.items())]
        losses = np.array([row['validation/loss'] for row in members])
        spread = group.metrics['validation/loss']
        assert (group.runs, group.finished, spread.measured, spread.not_finite) == (5, 5, 5, 0)
        # The sums may be taken in another order.
        np.testing.assert_allclose([spread.mean, spread.sd], [losses.mean(), losses.std(ddof=1)], rtol=1e-12)
        assert spread.best == losses.min()
        assert spread.best_run == members[int(losses.argmin())]['path']
    better = runs.grouped(['model.width'], ['validation/accuracy'])[1].metrics['validation/accuracy']
    assert better.best == max(row['validation/accuracy'] for row in rows if row['model.width'] == 128)


def test_unfinished_runs_and_nan_have_no_part_in_a_mean(tmp_path):
    run_folder.write(tmp_path / 'a', 1.0)
    run_folder.write(tmp_path / 'b', 3.0)
    run_folder.write(tmp_path / 'c', math.nan)
    run_folder.write(tmp_path / 'd', records=run_folder.history(100.0, until=5, end=False))
    (group,) = catalogue.find_runs(tmp_path).grouped(['model.width'])
    spread = group.metrics['validation/loss']
    assert (group.runs, group.finished, spread.measured, spread.not_finite, spread.mean) == (4, 3, 3, 1, 3.0)
    ordered = [run.facts['path'][-1] for run in catalogue.find_runs(tmp_path).sorted('validation/loss')]
    assert ordered == ['a', 'b', 'd', 'c']
    ordered = [run.facts['path'][-1] for run in catalogue.find_runs(tmp_path).sorted('validation/accuracy')]
    assert ordered == ['a', 'b', 'd', 'c']
    ordered = [run.facts['path'][-1] for run in catalogue.find_runs(tmp_path).sorted('best(loss)', reverse=True)]
    assert ordered == ['d', 'b', 'a', 'c']


def test_parts_are_compared_as_wholes(tmp_path):
    mlp, gated = run_folder.ffn('Mlp', 64), run_folder.ffn('Gated', 64)
    for number, (part, loss) in enumerate([(mlp, 2.0), (mlp, 1.0), (gated, 0.5), ({**mlp, 'hidden': 128}, 3.0)]):
        run_folder.write(tmp_path / f'{number}', loss, model__block__ffn=part, seed=number)
    run_folder.write(tmp_path / 'broken')
    (tmp_path / 'broken' / 'experiment.json').write_text('{')
    found = catalogue.find_runs(tmp_path).tried('model.block.ffn')
    assert [(each.value, each.text, each.runs, each.outcome.best_run) for each in found] == [
        (gated, 'Gated(hidden=64)', 1, f'{tmp_path}/2'),
        ({**mlp, 'hidden': 128}, 'Mlp(hidden=128)', 1, f'{tmp_path}/3'),
        (mlp, 'Mlp(hidden=64)', 2, f'{tmp_path}/1'),
    ]
    assert found[2].outcome.mean == 2.5
    assert [(each.value, each.runs) for each in catalogue.find_runs(tmp_path).tried('seed')] == [
        (n, 1) for n in range(4)
    ]
    (everywhere,) = catalogue.find_runs(tmp_path).tried('evaluations')
    assert everywhere.value == fields.part(fields.flatten(run_folder.experiment()), 'evaluations')
    with pytest.raises(config.InputError, match=r"Did you mean 'model.block.ffn'\?"):
        catalogue.find_runs(tmp_path).tried('model.block.fnn')


def test_long_parts_are_told_apart():
    norms = [{'class': f'm:{name}', 'epsilon': 1e-6, 'scaled': True} for name in ('LayerNorm', 'RmsNorm')]
    parts = [{'class': 'm:Pre', 'norm': norm, 'dropout': 0.1} for norm in (*norms, {'class': 'm:NoNorm'})]
    parts += [
        {'class': 'm:Pre', 'norm': {**norms[0], 'epsilon': 1e-5}, 'dropout': 0.1},
        {'class': 'm:Post', 'dropout': 0},
    ]
    assert fields.briefly(parts, 10) == [
        'Pre(norm=LayerNorm(epsilon=1e-06, ...), ...)',
        'Pre(norm=RmsNorm(...), ...)',
        'Pre(norm=NoNorm(), ...)',
        'Pre(norm=LayerNorm(epsilon=1e-05, ...), ...)',
        'Post(dropout=0)',
    ]
    assert fields.briefly(parts, 100)[1] == 'Pre(norm=RmsNorm(epsilon=1e-06, scaled=True), dropout=0.1)'


def test_a_flattened_experiment_is_put_together_again():
    stored = run_folder.experiment()
    flat = fields.flatten(stored)
    assert {name: fields.part(flat, name) for name in stored} == stored


def test_columns_are_those_that_differ(twenty, tmp_path):
    names = catalogue.find_runs(twenty).default_columns()
    assert names[:6] == ['path', 'state', 'step', 'model.width', 'optimizer.schedule.peak', 'seed']
    assert 'validation/loss' in names[6:]
    # Another class, or more entries: the part as a whole.
    run_folder.write(tmp_path / 'a', model__block__ffn=run_folder.ffn('Mlp', 64))
    run_folder.write(tmp_path / 'b', model__block__ffn=run_folder.ffn('Gated', 64), evaluations=[])
    names = catalogue.find_runs(tmp_path).default_columns()
    assert names[3:5] == ['model.block.ffn', 'evaluations']


def test_a_table_fits_the_terminal(twenty, command, monkeypatch):
    for width in (60, 80, 200):
        monkeypatch.setenv('COLUMNS', str(width))
        status, out, _ = command(twenty)
        lines = out.splitlines()
        assert status == 0
        assert lines[-1] == '20 runs'
        shown = [line for line in lines if 'finished' in line]
        assert len(shown) == 20
        assert max(map(len, shown)) <= width
    assert 'validation/loss' not in lines[-2]


def test_the_same_runs_are_the_same_bytes(twenty, tmp_path, command):
    for how in ('csv', 'json'):
        _, first, _ = command(twenty, '--format', how)
        _, again, _ = command(twenty, '--format', how, '--rebuild')
        assert first == again
    rows = json.loads(first)
    assert rows == catalogue.find_runs(twenty).records()
    _, text, _ = command(twenty, '--format', 'csv', '--columns', 'path,seed,best(validation/loss)')
    read = list(csv.DictReader(io.StringIO(text)))
    assert [float(row['best(validation/loss)']) for row in read] == [row['best(validation/loss)'] for row in rows]
    assert [row['path'] for row in read] == [row['path'] for row in rows]


def test_a_cell_is_no_formula_and_no_escape_sequence(tmp_path, command):
    names = ['=cmd|x', '+1', '-1', '@x', '\x1b[31mred', 'a,"b"\nc', '\udc80', '<b>']
    for number, name in enumerate(names[:6] + names[7:]):
        run_folder.write(tmp_path / f'{number}', math.inf if number else math.nan, name=name)
    status, text, _ = command(tmp_path, '--format', 'csv', '--columns', 'name,seed,loss')
    rows = list(csv.reader(io.StringIO(text)))[1:]
    assert status == 0
    assert [row[0] for row in rows[:5]] == ["'=cmd|x", "'+1", "'-1", "'@x", '\\x1b[31mred']
    assert rows[5][0] == names[5]
    assert [row[2] for row in rows[:2]] == ['nan', 'inf']
    _, text, _ = command(tmp_path, '--format', 'json', '--columns', 'name,loss')
    assert json.loads(text, parse_constant=pytest.fail)[0] == {'name': '=cmd|x', 'loss': 'nan'}
    for arguments in ([], ['--columns', 'name'], ['--group', 'name'], ['--tried', 'name']):
        assert '\x1b' not in command(tmp_path, *arguments)[1]
    assert '<b>' not in catalogue.find_runs(tmp_path)._repr_html_()


def test_names_of_files_need_not_be_text(tmp_path, command):
    run_folder.write(tmp_path / 'caf\udce9')
    run_folder.write(tmp_path / 'new\nline')
    for how in ('table', 'csv', 'json'):
        assert command(tmp_path, '--format', how)[0] == 0
        assert command(tmp_path, '--format', how)[2] == ''


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--where', 'model.lyers > 1'], "Did you mean 'model.layers'?"),
        (['--sort', 'validation/los'], "Did you mean 'validation/loss'?"),
        (['--columns', 'path,widht'], "No run has a column 'widht'"),
        (['--group', 'model.wdth'], "Did you mean 'model.width'?"),
        (['--group', 'seed', '--metric', 'validation/los'], "Did you mean 'validation/loss'?"),
        (['--tried', 'model.wdth'], "Did you mean 'model.width'?"),
        (['--tried', 'seed', '--group', 'seed'], '--group has no effect with --tried'),
        (['--group', 'seed', '--sort', 'seed'], '--sort has no effect with --group'),
        (['--metric', 'loss'], '--metric is of --group and --tried'),
    ],
)
def test_wrong_arguments(twenty, command, arguments, message):
    status, out, err = command(twenty, *arguments)
    assert (status, out, message in err, 'Traceback' in err) == (2, '', True, False), err


def test_what_the_verb_prints_is_what_the_calls_give(twenty, command):
    chosen = verbs.find_runs(twenty).where('model.width == 128 and seed < 2').sorted('validation/loss').first(3)
    how = ['--where', 'model.width == 128 and seed < 2', '--sort', 'validation/loss', '--limit', 3]
    _, out, _ = command(twenty, *how)
    assert '3 of 4 runs' in out
    assert json.loads(command(twenty, *how, '--format', 'json')[1]) == chosen.records()
    _, out, _ = command(twenty, '--group', 'model.width', '--format', 'json')
    assert json.loads(out) == exports.group_rows(verbs.find_runs(twenty).grouped(['model.width']))
    _, out, _ = command(twenty, '--tried', 'model.width')
    assert out.splitlines() == tables.tried('model.width', verbs.find_runs(twenty).tried('model.width'))
    assert repr(chosen).endswith('3 runs')
