"""Running a sweep: whatever interrupts it, the same call ends with the same values, and no trial is run twice."""

import contextlib
import os
import pathlib
import signal

import in_process
import pytest

import tiny
from bigmodel_jax import config, experiment_file
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.sweeps import (
    arms,
    reporting,
    running,
    standings,
    sweep,
    sweep_directory,
    sweeping,
    trials,
)
from bigmodel_jax.sweeps.engines import devices, local
from bigmodel_jax.train.together import kept_programs

SMALL = {'steps': 12, 'evaluations.0.every_steps': 6, 'checkpoints.every_steps': 8, 'model.layers': 1}
BASE = config.vary(tiny.experiment(), SMALL)
ENGINE = in_process.InProcess()
SOURCE = sweep_directory.Invocation(tiny.__file__)


def made(**fields: object) -> sweep.Sweep:
    described = {'baseline': {}, 'fast': {'optimizer.schedule.peak': 2e-2}}
    return sweep.complete(sweep.Sweep(arms=arms.named(BASE, described), seeds=(0,), **fields))


def run(workdir: pathlib.Path, how: in_process.InProcess = ENGINE, **options) -> running.SweepEnd:
    return sweeping.sweep(options.pop('of', made()), workdir, engine=how, source=SOURCE, **options)


def sessions(workdir: pathlib.Path) -> dict[str, list[tuple[int, int]]]:
    """Trial -> first and last step of each session."""
    opened = sweep_directory.open_sweep(workdir)
    runs = {entry.name: opened.run(entry) for entry in opened.description.trials}
    return {name: [(each.first_step, each.last_step) for each in found.sessions] for name, found in runs.items()}


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A sweep that nothing interrupted."""
    workdir = tmp_path_factory.mktemp('sweeps') / 'whole'
    assert run(workdir).finished
    return workdir


def test_an_interrupted_sweep_is_continued_to_the_same_values_and_repeats_no_step(
    whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, in_process.InProcess(interrupt_at=2))
    assert run(tmp_path).finished
    assert sweep_directory.open_sweep(tmp_path).values() == sweep_directory.open_sweep(whole).values()
    assert list(sessions(tmp_path).values()) == [[(0, 12)], [(0, 8), (8, 12)]]


def test_what_is_finished_is_not_run_again_and_a_new_arm_alone_is(whole: pathlib.Path) -> None:
    before = sessions(whole)
    assert run(whole).finished
    assert sessions(whole) == before
    changes = {'baseline': {}, 'quick': {'optimizer.schedule.peak': 2e-2}}  # Another name, and the same trial.
    renamed = sweep.Sweep(arms=arms.named(BASE, changes), seeds=(0,))
    assert run(whole, of=renamed).finished
    assert sessions(whole) == before


@pytest.mark.slow
def test_a_trial_that_fails_is_told_with_its_last_lines_and_stops_no_other(tmp_path: pathlib.Path) -> None:
    described = sweep_directory.create(tmp_path, made(), trials.trials(made()), SOURCE).description
    broken, other = (tmp_path / 'trials' / each.name for each in described.trials)
    broken.mkdir()
    (broken / 'thesis.tex').write_text('')
    end = run(tmp_path)
    assert [failure.entry.arm for failure in end.failed] == ['baseline']
    assert any('thesis.tex' in line for line in end.failed[0].lines), end.failed
    assert event_log.read(other / event_log.FILE)[-1]['kind'] == 'end'
    again = run(tmp_path)
    assert again.failed == end.failed, 'it is remembered, and not tried again'
    (broken / 'thesis.tex').unlink()
    assert run(tmp_path, retry=True).finished


def test_every_process_keeps_to_cores_of_its_own() -> None:
    none = devices.Accelerators('cpu')
    found = devices.shares(3, none, chips=0, mine=(2, 3, 5, 7, 11, 13, 17))
    assert [share.cores for share in found] == [(2, 3), (5, 7), (11, 13)]
    assert {share.environment['OMP_NUM_THREADS'] for share in found} == {'2'}
    crowded = devices.shares(3, none, chips=0, mine=(0, 1))
    assert [share.cores for share in crowded] == [(0,), (1,), (0,)]


def test_accelerators_are_shared_out_by_the_variable_that_hides_the_others() -> None:
    four = devices.Accelerators('cuda', ('3', '5', '6', '7'))
    found = devices.shares(2, four, chips=2, mine=())
    assert [dict(share.environment) for share in found] == [
        {'CUDA_VISIBLE_DEVICES': '3,5'},
        {'CUDA_VISIBLE_DEVICES': '6,7'},
    ]


def test_a_mesh_that_does_not_fit_this_machine_is_refused_before_anything_starts(tmp_path: pathlib.Path) -> None:
    large = sweep.Sweep(arms=arms.named(BASE, {'baseline': {'mesh.data': 2}}), seeds=(0,))
    directory = sweep_directory.create(tmp_path, sweep.complete(large), trials.trials(sweep.complete(large)), SOURCE)
    with pytest.raises(config.InputError, match='needs 2 devices, but there are 1'):
        running.check(directory, local.Local())
    with local.Local(processes=1, simulate_devices=2).jobs(directory) as jobs:
        assert jobs.room() == 1


@pytest.mark.slow
def test_a_signal_stops_the_processes_with_a_checkpoint_and_a_kill_leaves_none(tmp_path: pathlib.Path) -> None:
    base = config.vary(experiment_file.load(tiny.__file__), SMALL)  # Its classes are those that a process loads.
    long = config.vary(base, {'steps': 100_000, 'checkpoints.every_steps': 100_000})
    described = sweep.complete(sweep.Sweep(arms={'baseline': long}, seeds=(0,)))
    directory = sweep_directory.create(tmp_path, described, trials.trials(described), SOURCE)
    entry = directory.description.trials[0]

    def train(stop) -> list[int]:
        with local.Local().jobs(directory) as jobs:
            jobs.submit([entry])
            while (run_now := directory.run(entry)) is None or run_now.step < 50:
                assert not jobs.ended(), directory.log(entry).read_text()
            stop(jobs)
            while not (over := jobs.ended()):
                pass
        return [job.status for job in over]

    assert train(lambda jobs: jobs.stop([entry])) == [128 + signal.SIGTERM]
    assert directory.run(entry).checkpoints


@pytest.mark.slow
def test_trials_of_one_process_end_as_in_processes_of_their_own_and_one_that_is_killed_loses_no_other(
    tmp_path: pathlib.Path,
) -> None:
    base = config.vary(experiment_file.load(tiny.__file__), SMALL)  # Its classes are those that a process loads.
    long = config.vary(base, {'steps': 600, 'checkpoints.every_steps': 200, 'evaluations.0.every_steps': 200})
    changes = {'baseline': {}, 'fast': {'optimizer.schedule.peak': 2e-2}, 'wide': {'model.width': 24}}
    described = sweep.complete(sweep.Sweep(arms=arms.named(long, changes), seeds=(0, 1)))
    assert kept_programs.groups(described.arms) == [('baseline', 'fast'), ('wide',)]
    alone, together = tmp_path / 'alone', tmp_path / 'together'
    assert run(alone, local.Local(processes=2, together=False), of=described).finished
    killed: list[int] = []

    class Killing(local.LocalJobs):
        """Kills the process of the third trial once it has a checkpoint."""

        def ended(self):
            entry = self._directory.description.trials[2]
            if not killed and entry in self._running and list(self._directory.trial(entry).glob('checkpoints/200')):
                killed.append(self._running[entry]._process.pid)
                os.kill(killed[0], signal.SIGKILL)
            return super().ended()

    class Local(local.Local):
        @contextlib.contextmanager
        def jobs(self, directory):
            with super().jobs(directory) as jobs:
                jobs.__class__ = Killing
                yield jobs

    end = run(together, Local(processes=1, together=True), of=described)
    assert [(failure.entry.arm, failure.reason[:17]) for failure in end.failed] == [('wide', 'killed by SIGKILL')]
    assert [each.state for each in end.standings.all()].count(standings.State.FINISHED) == 5
    assert run(together, local.Local(processes=1), of=described, retry=True).finished
    for workdir in (alone, together):
        reporting.write(sweep_directory.open_sweep(workdir))
    for name in ('table.md', 'results.json', 'results.csv', 'figure.svg'):
        assert (together / name).read_bytes() == (alone / name).read_bytes(), name
    opened = sweep_directory.open_sweep(together)
    sessions = [opened.run(entry).environment for entry in opened.description.trials]
    assert {each[0]['together']['runs'] for each in sessions} == {4, 2}
