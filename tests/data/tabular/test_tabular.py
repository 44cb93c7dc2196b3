"""Tables: missing values, categories, splits by group, and the fitted values that a run keeps."""

import json

import numpy as np
import pandas
import pytest

from bigmodel_jax import config, verbs
from bigmodel_jax.config import vary
from bigmodel_jax.data import sources, splits
from bigmodel_jax.data.sources import parquet, scikit_learn
from bigmodel_jax.data.tabular import fitting, tabular
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.models import perceptron
from bigmodel_jax.objectives import classification
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding

TABLE = 'patient,size,age,site,ill\na,1,10,left,0\na,3,,left,1\nb,5,30,right,0\nc,,20,middle,1\n'


def written(folder, text=TABLE, name='table.csv'):
    (folder / name).write_text(text)
    return sources.Csv(path=str(folder / name))


def features(source, **fields):
    given = {'columns': ('size', 'age'), 'label': 'ill', 'batch': 4, 'missing': fitting.Imputed()}
    return tabular.Features(source=source, fitted_on=source, **(given | fields))


def test_missing_numbers_are_the_training_mean_and_flagged_and_unknown_categories_have_a_place(tmp_path):
    train = written(tmp_path)
    data = features(train, categories=(fitting.Category(column='site', size=3),))
    found = data.build(0).eval_batch(0)['features']
    sizes, ages = np.array([1, 3, 5, np.nan]), np.array([10, np.nan, 30, 20])
    scaled = [(each - np.nanmean(each)) / np.nanstd(each) for each in (sizes, ages)]
    np.testing.assert_allclose(found[:, :2], np.nan_to_num(np.stack(scaled, axis=1)), rtol=1e-6)  # Float32.
    np.testing.assert_array_equal(found[:, 2:4], [[0, 0], [0, 1], [0, 0], [1, 0]])
    # The most frequent is the first after the unknown one; of the others the first of the alphabet is known.
    np.testing.assert_array_equal(found[:, 4:], [[0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    other = written(tmp_path, 'patient,size,age,site,ill\nd,NA,20,above,1\n', 'test.csv')
    row = vary(data, {'source': other}).build(0).eval_batch(0)['features'][0]
    np.testing.assert_array_equal(row, [0, 0, 1, 0, 1, 0, 0])


@pytest.mark.parametrize(
    ('old', 'new', 'fields', 'message'),
    [
        ('b,5', 'b,five', {}, r"table\.csv, line 4: 'size' is 'five', .* name it in data\.categories"),
        ('b,5', 'b,1_0', {}, "'size' is '1_0'"),
        ('b,5', 'b,inf', {}, 'line 4: .* not a finite number'),
        ('', '', {'missing': fitting.Refused()}, r"line 3: 'age' is '', .* say data\.missing=Imputed"),
        ('right,0', 'right,2', {}, "line 4: the label '2' is not one of 0 to 1"),
        (',1\n', ',0\n', {}, r'table\.csv: none of the 4 training rows is of class 1'),
        ('', '', {'label': 'age'}, "'age' is to be predicted"),
        ('', '', {'columns': ('size', 'size')}, "'size' is named twice"),
        ('', '', {'fitted_on': None}, r'need data\.fitted_on'),
    ],
)
def test_bad_input_is_named(tmp_path, old, new, fields, message):
    data = vary(features(written(tmp_path, TABLE.replace(old, new) if old else TABLE)), fields)
    with pytest.raises(config.InputError, match=message):
        data.build(0)


def test_no_group_crosses_and_none_moves_when_others_are_added(tmp_path):
    rows = [f'p{i % 40},{i}\n' for i in range(200)]
    more = [f'q{i},{i}\n' for i in range(60)]
    before, after = (
        written(tmp_path, 'who,x\n' + ''.join(each), name) for each, name in ((rows, 'a'), (rows + more, 'b'))
    )
    parts = tuple(map(config.check, splits.by_group('who', shares=(0.5, 0.3, 0.2))))
    groups, counts = [], []
    for part in parts:
        found, later = ([*vary(source, {'part': part}).open()] for source in (before, after))
        groups.append({record['who'] for record in found})
        counts.append(len(found))
        assert groups[-1] == {record['who'] for record in later if record['who'].startswith('p')}
    assert sum(counts) == 200
    assert sum(map(len, groups)) == len(set().union(*groups)) == 40
    empty = written(tmp_path, 'who,x\na,1\n,2\n', 'c')
    with pytest.raises(config.InputError, match="line 3: the group 'who' is empty"):
        vary(empty, {'part': parts[0]}).open()
    with pytest.raises(config.InputError, match='add up to 1'):
        splits.by_group('who', shares=(0.5, 0.6))


def test_a_data_frame_is_a_source_under_the_name_of_its_rows(tmp_path):
    frame = pandas.DataFrame({'size': [1.0, None, 3.0], 'site': ['a', 'b', None], 'ill': [0, 1, 1]})
    source = parquet.from_frame(frame, tmp_path)
    assert source == parquet.from_frame(frame.copy(), tmp_path)
    assert source != parquet.from_frame(frame.fillna({'size': 0}), tmp_path)
    fields = {'columns': ('size',), 'categories': (fitting.Category(column='site', size=3),)}
    found = features(source, **fields).build(0).eval_batch(0)
    np.testing.assert_array_equal(found['features'][:3, 1:], [[0, 0, 1, 0], [1, 0, 0, 1], [0, 1, 0, 0]])
    with pytest.raises(config.InputError, match='dict is no data frame'):
        parquet.from_frame({'a': [1]}, tmp_path)


def test_a_run_is_resumed_and_evaluated_by_the_values_that_it_was_trained_with(tmp_path):
    train, test = written(tmp_path), written(tmp_path, TABLE, 'test.csv')
    data = features(train, categories=(fitting.Category(column='site', size=3),))
    experiment = Experiment(
        name='table',
        steps=2,
        data=data,
        model=perceptron.Perceptron(hidden=(), classes=2),
        objective=classification.Classification(),
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=0.1)),
        mesh=sharding.MeshShape(data=1),
        evaluations=(loss.Loss(data=vary(data, {'source': test}), every_steps=2),),
        checkpoints=Checkpoints(every_steps=1),
    )
    verbs.train(experiment, tmp_path / 'run')
    stored = json.loads((tmp_path / 'run' / 'fitted' / 'values.json').read_text())
    assert fitting.FittedValues.from_json(stored).means.tolist() == [3.0, 20.0]
    assert stored['known'] == [['left', 'middle']]
    first = verbs.open_run(tmp_path / 'run').restore().evaluate()['validation'].metrics['loss'].value
    # The training rows change; those of the evaluation do not.
    written(tmp_path, TABLE.replace('c,,20', 'c,90,99'))
    again = verbs.open_run(tmp_path / 'run').restore().evaluate()['validation'].metrics['loss'].value
    assert first == again
    with pytest.raises(config.InputError, match='was not trained and evaluated on this data'):
        verbs.train(vary(experiment, {'steps': 3}), tmp_path / 'run')
    written(tmp_path)
    assert verbs.train(vary(experiment, {'steps': 3}), tmp_path / 'run').step == 3


def test_the_progression_of_diabetes_is_a_regression():
    datasets = pytest.importorskip('sklearn.datasets')
    source = sources.ScikitLearn(name='diabetes', part=splits.Train(held_out=0.2))
    names = scikit_learn.columns('diabetes')
    data = tabular.Features(source=source, fitted_on=source, columns=names, label='label', classes=1, batch=442)
    found = data.build(0).eval_batch(0)
    of = splits.Train(held_out=0.2).select(range(442), '')
    np.testing.assert_array_equal(found['values'][: len(of)], datasets.load_diabetes().target[of])
    np.testing.assert_allclose(found['features'][: len(of)].std(axis=0), 1, rtol=1e-5)  # Float32.
