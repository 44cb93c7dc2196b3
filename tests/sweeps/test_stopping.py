"""Early stopping in a sweep: what is stopped, that it is told, that a restart decides the same, and how it goes on."""

import pathlib

import in_process
import pytest

import tiny
from bigmodel_jax import config
from bigmodel_jax.sweeps import arms, reporting, running, standings, stopping, sweep, sweep_directory, sweeping, trials
from bigmodel_jax.sweeps.reporting import answer, screen, tables
from bigmodel_jax.sweeps.statistics import halving

SMALL = {'steps': 16, 'evaluations.0.every_steps': 4, 'checkpoints.every_steps': 16, 'model.layers': 1}
BASE = config.vary(tiny.experiment(), SMALL)
RULE = halving.SuccessiveHalving(looks=(0.5,), error=0.2)
CHANGES = {'baseline': {}, 'slow': {'optimizer.schedule.peak': 1e-9}}  # The second one learns nothing.
SOURCE = sweep_directory.Invocation(tiny.__file__)


def made(rule: halving.SuccessiveHalving | None = RULE, **fields: object) -> sweep.Sweep:
    about = {'arms': arms.named(BASE, CHANGES), 'seeds': (0, 1), 'halving': rule, **fields}
    return sweep.complete(sweep.Sweep(**about))


def run(workdir: pathlib.Path, of: sweep.Sweep, how: in_process.InProcess | None = None) -> running.SweepEnd:
    return sweeping.sweep(of, workdir, engine=how or in_process.InProcess(), source=SOURCE)


def steps(workdir: pathlib.Path) -> dict[str, list[int]]:
    """Arm -> the last step of each of its trials."""
    opened = sweep_directory.open_sweep(workdir)
    found: dict[str, list[int]] = {}
    for entry in opened.description.trials:
        run_now = opened.run(entry)
        found.setdefault(entry.arm, []).append(0 if run_now is None else run_now.step)
    return found


@pytest.fixture(scope='module')
def stopped(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A sweep with an arm that was stopped."""
    workdir = tmp_path_factory.mktemp('sweeps') / 'stopped'
    end = run(workdir, made())
    assert {entry.arm for entry in end.held} == {'slow'}
    assert not end.failed
    reporting.write(sweep_directory.open_sweep(workdir))
    return workdir


@pytest.mark.slow
def test_an_arm_that_cannot_win_is_trained_to_the_look_alone_and_never_compared(stopped: pathlib.Path) -> None:
    assert steps(stopped) == {'baseline': [16, 16], 'slow': [8, 8]}
    found = answer.collect(sweep_directory.open_sweep(stopped))
    ((arm, why),) = found.stopped
    assert (arm.arm, arm.comparison, arm.values, why.step, why.against) == ('slow', None, {}, 8, 'baseline')
    assert found.state == '2 of 4 trials are finished, 2 were stopped early.'
    assert found.complete
    row = {each[0].text: [cell.text for cell in each] for each in tables.comparisons(found).rows}['slow']
    assert row[1:3] == ['0/2', '\N{EN DASH}']
    assert row[-1] == 'stopped early'
    assert f'slow: stopped early, {why}.' in tables.comparisons(found).notes
    assert any('stopped early' in str(part) for part in screen.shown(found).renderables)
    assert 'stopped early, at step 8' in (stopped / 'report.html').read_text()


@pytest.mark.slow
def test_a_sweep_that_was_interrupted_decides_the_same(stopped: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, made(), in_process.InProcess(interrupt_at=3))
    before = steps(tmp_path)
    run(tmp_path, made())
    assert before != steps(tmp_path) == steps(stopped)
    reporting.write(sweep_directory.open_sweep(tmp_path))
    for name in ('results.json', 'results.csv', 'table.md', 'table.tex', 'figure.svg'):
        assert (tmp_path / name).read_bytes() == (stopped / name).read_bytes(), name
    again = run(tmp_path, made())
    assert {entry.arm for entry in again.held} == {'slow'}
    assert steps(tmp_path) == steps(stopped)
    ended = run(tmp_path, made(continued=('slow',)))  # Changes the directory, so it comes last.
    assert ended.finished
    assert answer.collect(sweep_directory.open_sweep(tmp_path)).compared[0][1].finding == 'worse'


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'seeds': (0,)}, '2 arms and 2 seeds or more'),
        ({'arms': arms.named(BASE, {'baseline': {}, 'long': {'steps': 32}})}, 'equal steps, but they have 16, 32'),
        (
            {'arms': arms.named(config.vary(BASE, {'evaluations.0.every_steps': 8}), CHANGES)},
            'up to step 8 of 16, but arm baseline measures it every 8 steps',
        ),
    ],
)
def test_arms_that_cannot_be_compared_early_are_refused_before_anything_is_written(
    tmp_path: pathlib.Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(config.InputError, match=message):
        run(tmp_path / 's', made(**fields))
    assert not (tmp_path / 's').exists()


def test_an_arm_is_continued_only_where_arms_are_stopped() -> None:
    with pytest.raises(config.InputError, match='without halving every arm is trained to its end'):
        made(None, continued=('slow',))
    with pytest.raises(config.InputError, match=r'--continue slwo: there is no such arm.*slow'):
        made(continued=('slwo',))


@pytest.mark.slow
def test_a_trial_that_was_killed_is_waited_for_and_one_that_failed_by_itself_is_not(
    stopped: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    described = made(seeds=(0, 1, 2))  # Seed 2 has not begun.
    directory = sweep_directory.described(stopped, described, trials.trials(described), SOURCE)
    new = [entry for entry in directory.description.trials if entry.seed == 2]
    limit = stopping.limit(described, directory)

    def looks(status: int | None) -> int:
        for entry in new:
            directory.failure(entry).unlink(missing_ok=True)
            if status is not None:
                directory.failure(entry).write_text(f'{{"status": {status}, "reason": "r", "lines": []}}')
        now = standings.Standings(directory)
        first = directory.description.trials[1]  # Of the arm that is slow, at step 8.
        assert (limit.allows(now, first, []) is None) == (status == 1)
        return stopping.held(directory, now).looks

    assert [looks(None), looks(-9), looks(1)] == [0, 0, 1]
    assert looks(None) == 0
