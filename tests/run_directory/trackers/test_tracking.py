"""Which run of Weights & Biases a work directory is; and the names of curves, of which no two metrics share one."""

import json
import sys
import types

import pytest
from etils import epath

from bigmodel_jax import config
from bigmodel_jax.evaluate import evaluation, metric
from bigmodel_jax.run_directory.trackers import series, tracking
from bigmodel_jax.train import metrics


class Recorded:
    """A run of Weights & Biases that only remembers."""

    def __init__(self, **options):
        self.options, self.logged = options, []

    def log(self, shown, step):
        self.logged.append((step, shown))

    def finish(self):
        pass


@pytest.fixture
def runs(monkeypatch):
    """The runs that are begun, in the place of the package, which need not be installed."""
    begun = []

    def init(**options):
        begun.append(Recorded(**options))
        return begun[-1]

    class UsageError(Exception):
        pass

    errors = types.SimpleNamespace(Error=Exception, UsageError=UsageError)
    monkeypatch.setitem(sys.modules, 'wandb', types.SimpleNamespace(init=init, errors=errors))
    return begun


def begin(directory):
    directory.mkdir(parents=True, exist_ok=True)
    return tracking.Tracker('p', epath.Path(directory), {})


def test_runs_of_equal_leaf_names_are_two_runs_and_a_resumed_one_is_the_same(tmp_path, runs):
    for name in ('a/seed0', 'b/seed0', 'a/seed0'):
        begin(tmp_path / name)
    ids = [run.options['id'] for run in runs]
    assert ids[0] == ids[2] != ids[1]
    assert [run.options['name'] for run in runs] == ['a/seed0', 'b/seed0', 'a/seed0']
    assert runs[1].options['dir'] == str(tmp_path / 'b/seed0')  # Beside the user's code they would count as changes.


def test_a_directory_that_was_moved_is_the_same_run_and_a_name_used_anew_another(tmp_path, runs):
    begin(tmp_path / 'a')
    (tmp_path / 'a').rename(tmp_path / 'moved')
    begin(tmp_path / 'moved')
    begin(tmp_path / 'a')
    first, moved, anew = (run.options['id'] for run in runs)
    assert first == moved != anew


def test_the_working_directory_and_odd_names_have_a_valid_id(tmp_path, monkeypatch, runs):
    odd = tmp_path / 'lr:1;s,#?%'
    odd.mkdir()
    monkeypatch.chdir(odd)
    tracking.Tracker('p', epath.Path('.'), {})
    assert tracking.ID.fullmatch(runs[0].options['id'])
    assert runs[0].options['name'].endswith('/lr:1;s,#?%')


def test_a_damaged_id_is_told(tmp_path):
    (tmp_path / tracking.FILE).write_text(json.dumps({'id': '../x'}))
    with pytest.raises(config.InputError, match='Remove the file to begin a new chart'):
        tracking.identity(epath.Path(tmp_path))


@pytest.mark.parametrize('project', ['', 'a/b', 'a#b', 'x' * 129, 'a\nb'])
def test_a_name_that_no_project_can_have_is_refused(project):
    with pytest.raises(config.InputError, match='cannot be the name of a project'):
        tracking.check(project)


# ---- names of curves ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['train', 'speed', 'evaluation', 'time', 'validation'])
def test_an_evaluation_of_any_name_has_curves_of_its_own(tmp_path, runs, name):
    with metrics.MetricsWriter(epath.Path(tmp_path), start=0, wandb='p', details={}) as writer:
        writer.scalars('train', 10, {'loss': 3.0})
        writer.scalars('speed', 10, {'loss': 4.0})
        writer.evaluation(10, name, evaluation.EvaluationResult({'loss': metric.Metric(2.0, 'lower')}))
    shown = {key: value for _, values in runs[0].logged for key, value in values.items()}
    assert sorted(shown.values()) == [2.0, 3.0, 4.0]
    assert shown['train/loss'] == 3.0


def test_no_two_curves_share_a_tag():
    curves = [series.name('evaluation', where, metric) for where in ('a', 'train') for metric in ('x y', 'x_y', 'x?y')]
    curves.append(series.name('train', None, 'x y'))
    tags = series.Tags()
    assert len({tags.tag(curve) for curve in curves}) == len(curves)
    assert tags.tag(curves[1]) == tags.tag(curves[1])


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (['a', 'a'], "'a' is used twice"),
        (['a b', 'a_b'], 'are one name on TensorBoard'),
        (['a/b'], "holds '/'"),
        ([''], 'is empty'),
    ],
)
def test_evaluations_that_cannot_be_told_apart_are_refused(names, message):
    with pytest.raises(config.InputError, match=message):
        evaluation.check_names(names)
