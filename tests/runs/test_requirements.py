"""What an experiment requires of its run: judged, shown, and no part of what the run is."""

import json

import pytest

import tiny
from bigmodel_jax import compatibility, config, differences
from bigmodel_jax.catalogue import catalogue, columns
from bigmodel_jax.report import report
from bigmodel_jax.requirement import Requirement
from bigmodel_jax.run_directory import lineage
from bigmodel_jax.runs import directory, requirements
from bigmodel_jax.storage import integrity
from bigmodel_jax.train.recovery import continuing
from runs import run_maker

LOSS = 'validation/loss'  # Of a made run it falls to some 1.9 at its last step, 2,000.


@pytest.fixture
def made(tmp_path):
    return run_maker.finished(tmp_path / 'run', every=250)


def requiring(path, *required: Requirement) -> directory.Run:
    """The run in `path` with other requirements."""
    stored = json.loads((path / 'experiment.json').read_text())
    stored['requires'] = [config.to_json(each) for each in required]
    (path / 'experiment.json').write_text(json.dumps(stored))
    return directory.open_run(path)


def test_a_requirement_is_judged_by_the_value_of_the_step(made):
    run = requiring(made, Requirement(LOSS, at_most=2.5), Requirement(LOSS, at_least=2.5))
    last, early = run.metrics(LOSS)[1][-1].item(), run.metrics(LOSS)[1][0].item()
    assert last < 2.5 < early  # So that the verdicts below can come out either way.
    met, not_met = requirements.judge(run)
    assert (met.verdict, met.value, met.step) == (requirements.MET, last, 2_000)
    assert not_met.verdict == requirements.NOT_MET
    assert [each.verdict for each in requirements.judge(run, step=250)] == [requirements.NOT_MET, requirements.MET]
    assert {each.verdict for each in requirements.judge(run, step=300)} == {requirements.NOT_MEASURED}
    assert 'not measured at step 300, but last at step 2,000' in requirements.unmet(run, step=300)[0]
    assert requirements.unmet(run) == [f'{LOSS} >= 2.5 ({not_met.shown})']


@pytest.mark.parametrize(
    ('required', 'verdict'),
    [
        ((), None),
        ((Requirement(LOSS, at_most=2.5),), 'met'),
        ((Requirement(LOSS, at_most=2.5), Requirement('test/bleu', at_least=30.0)), 'not measured'),
        ((Requirement(LOSS, at_most=0.5), Requirement('test/bleu', at_least=30.0)), 'not met'),
    ],
)
def test_reports_and_lists_of_runs_show_the_verdict(made, required, verdict):
    page = report.render(requiring(made, *required))
    assert all(str(each).replace('>', '&gt;').replace('<', '&lt;') in page for each in required)
    found = catalogue.find_runs(made.parent, rebuild=True).runs
    assert [columns.value(each, 'requirements') for each in found] == [verdict]
    assert ('requirements' in columns.defaults(found)) == (verdict is not None)


def test_a_value_that_is_no_number_meets_nothing():
    assert not Requirement('a/b', at_most=1.0).is_met(float('nan'))
    assert not Requirement('a/b', at_least=1.0).is_met(float('nan'))
    assert Requirement('a/b', at_least=1.0).is_met(1.0)
    assert Requirement('a/b', at_most=1.0).is_met(1.0)


def test_what_is_missed_is_refused_in_one_sentence(made):
    missed = requirements.unmet(requiring(made, Requirement(LOSS, at_most=0.5)))
    with pytest.raises(config.InputError, match=rf'^runs/a does not meet .*{LOSS} <= 0.5 \(.* at step 2,000\).*--any'):
        requirements.check('runs/a', missed, verb='export', anyway=False)
    requirements.check('runs/a', missed, verb='export', anyway=True)
    requirements.check('runs/a', [], verb='export', anyway=False)


def test_requirements_are_no_part_of_what_a_run_is(made):
    path = directory.open_run(made).path
    old = json.loads((made / 'experiment.json').read_text())
    del old['requires']  # As a version wrote it that knew none.
    (made / 'experiment.json').write_text(json.dumps(old))
    assert config.normalized(old)['requires'] == []
    before = integrity.fingerprint(old, differences.CIRCUMSTANCES)
    assert lineage.Lineage.of(path).made(path / 'checkpoints' / '2000', before)
    changed = requiring(made, Requirement(LOSS, at_most=0.5))
    assert lineage.Lineage.of(path).made(path / 'checkpoints' / '2000', before)
    changes = differences.between(config.normalized(old), changed.stored)
    assert {each.path for each in changes} == {'requires'}
    continuing.check(path, changes, consent=False)


@pytest.mark.parametrize(
    ('required', 'message'),
    [
        (Requirement('validation/lost', at_most=1.0), "has no metric 'lost'"),
        (Requirement('accuracy', at_least=1.0), 'not of the form evaluation/metric'),
        (Requirement('validation/loss', at_least=1.0), 'a lower value is better.* at_most=1,'),
        (Requirement('validation/accuracy', at_most=0.5), 'a higher value is better.* at_least=0.5,'),
    ],
)
def test_a_requirement_that_no_run_can_be_judged_by_is_refused_before_training(required, message):
    experiment = config.vary(tiny.experiment(), {'requires': (required,)})
    with pytest.raises(config.InputError, match=message):
        compatibility.check_parts(experiment)


@pytest.mark.parametrize('bounds', [{}, {'at_least': 0.0, 'at_most': 1.0}, {'at_most': float('nan')}])
def test_a_requirement_has_one_bound(bounds):
    with pytest.raises(config.InputError, match='needs one bound'):
        Requirement('test/auc', **bounds)
