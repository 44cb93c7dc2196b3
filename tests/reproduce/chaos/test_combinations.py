"""Random combinations of guard, retention, checkpoints of time, hosts, stops, failures, kills and anomalies.

One law holds for all: a run that is disturbed ends with the digest, the log and the batches of the run that nothing
disturbed, and what it was to keep is there.

More of them: COMBINATIONS=200 scripts/test tests/reproduce/chaos/test_combinations.py -m slow
"""

import contextlib
import dataclasses
import os
import pathlib
import tempfile
from typing import NamedTuple

import hypothesis
import pytest
from hypothesis import strategies

from bigmodel_jax import config, experiment_file, verbs
from bigmodel_jax.optim import anomaly_policy
from bigmodel_jax.reproduce.chaos import comparison, forks, observer
from bigmodel_jax.train import loop, metrics, prefetch

SMALL = str(pathlib.Path(__file__).with_name('small.py'))
STEPS = 14
GUARDS = (anomaly_policy.Stop(), anomaly_policy.Skip(limit=3), anomaly_policy.RollBack(limit=3))
BEST = 'validation/loss'
COMBINATIONS = int(os.environ.get('COMBINATIONS', '12'))


class Session(NamedTuple):
    """One session but the last."""

    what: str  # 'stop' after `step` with a checkpoint; 'fail' in it; or 'kill' when it was reported.
    step: int
    hosts: int = 1


@dataclasses.dataclass(frozen=True)
class Story:
    """An experiment, and what happens to a run of it."""

    guard: anomaly_policy.AnomalyPolicy
    every_steps: int
    bad_steps: tuple[int, ...]  # Those whose first batch goes wrong, each by one example.
    keep_last: int = 2
    keep_every: int | None = None
    keep_best: bool = False
    every_minutes: float | None = None
    sessions: tuple[Session, ...] = ()

    @property
    def undisturbed(self) -> 'Story':
        """What decides the result."""
        return Story(self.guard, self.every_steps, self.bad_steps)


HERE = [('stop', 1), ('fail', 1)]  # In this process; the others take a second each.
EVERYWHERE = [*HERE, ('kill', 1), ('stop', 2), ('kill', 2)]


@strategies.composite
def stories(draw, kinds):
    sessions = draw(
        strategies.lists(
            strategies.tuples(strategies.sampled_from(kinds), strategies.integers(1, STEPS - 1)), max_size=3
        )
    )
    return Story(
        guard=draw(strategies.sampled_from(GUARDS)),
        every_steps=draw(strategies.integers(2, 6)),
        bad_steps=tuple(sorted(draw(strategies.sets(strategies.integers(2, STEPS), max_size=2)))),
        keep_last=draw(strategies.integers(1, 3)),
        keep_every=draw(strategies.sampled_from([None, 4])),
        keep_best=draw(strategies.booleans()),
        every_minutes=draw(strategies.sampled_from([None, 1e-9])),
        sessions=tuple(
            Session(what, step, hosts) for (what, hosts), step in sorted(sessions, key=lambda each: each[1])
        ),
    )


# Two stops between regular checkpoints, and a roll-back after them.
TWO_STOPS = Story(anomaly_policy.RollBack(limit=3), 4, (11,), sessions=(Session('stop', 9), Session('stop', 10)))


def nan_examples(bad_steps):
    small = experiment_file.load(SMALL)
    data = small.data.build(small.seed)
    return tuple(int(data.ids(step - 1)[0]) for step in bad_steps)


def changes_of(story):
    return {
        'steps': STEPS, 'data.nan_examples': nan_examples(story.bad_steps), 'watch.log_every': 2,
        'watch.anomalies': story.guard, 'checkpoints.every_steps': story.every_steps,
        'checkpoints.keep_last': story.keep_last, 'checkpoints.keep_every': story.keep_every,
        'checkpoints.keep_best': BEST if story.keep_best else None,
        'checkpoints.every_minutes': story.every_minutes, 'mesh.data': 2,
    }  # fmt: skip


def experiment_of(story):
    base = experiment_file.load(f'{SMALL}:evaluated', arguments=[f'every_steps={story.every_steps}'])
    return config.vary(base, changes_of(story))


FILE = """
from bigmodel_jax import config, experiment_file
from bigmodel_jax.optim.anomaly_policy import RollBack, Skip, Stop

def experiment():
    base = experiment_file.load({file!r}, arguments=['every_steps={every_steps}'])
    return config.vary(base, {changes!r})
"""


def processes(zygote, story, workdir, told):
    """A session in processes of its own."""
    file, watch = workdir.parent / 'story.py', observer.ProcessWatch(workdir)
    file.write_text(FILE.format(file=f'{SMALL}:evaluated', every_steps=story.every_steps, changes=changes_of(story)))
    more = ('--stop-after', str(told.step)) if told.what == 'stop' else ()
    arguments = ['train', str(file), '--workdir', str(workdir), *more]
    output = workdir.parent / 'output'
    children = zygote.run(arguments, hosts=told.hosts, devices=2 // told.hosts, output=output)
    while told.what == 'kill' and (watch.reported or 0) < told.step and forks.wait(children[:1], 0.005) == [None]:
        watch.look()
    if told.what == 'kill':
        children[-1].kill()
        forks.wait(children, 1.0)  # The other may save what it can.
        children[0].kill()
    statuses = forks.wait(children, 120)
    # An anomaly may end the run, with status 1.
    assert all(status in (0, 1, -9) for status in statuses), [child.output.read_text() for child in children]


class Planted(Exception):
    """A failure of the data, in the middle of a session."""


def session(story, workdir, told, zygote):
    """One session that is disturbed."""
    if told.hosts > 1 or told.what == 'kill':
        processes(zygote, story, workdir, told)
        return
    experiment = experiment_of(story)
    if told.what == 'stop':
        loop.train(experiment, workdir, stop_after=told.step)
        return
    real = prefetch.read

    def failing(data, index, rows):
        if index >= told.step:
            raise Planted
        return real(data, index, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefetch, 'read', failing)
        loop.train(experiment, workdir)


def ended(story, workdir, zygote):
    """Tells the story; the digest at its end, or the step whose anomaly ended it."""
    try:
        for told in story.sessions:
            with contextlib.suppress(Planted):
                session(story, workdir, told, zygote)
        return loop.train(experiment_of(story), workdir).digest
    except metrics.Anomalous as error:
        return str(error).partition(':')[0]


def check(story, root, zygote):
    ends = {}
    for name, one in (('undisturbed', story.undisturbed), ('disturbed', story)):
        (root / name).mkdir()
        ends[name] = ended(one, root / name / 'run', zygote)
    assert ends['disturbed'] == ends['undisturbed'], story
    if not ends['disturbed'].startswith('step '):
        for read in (comparison.digest, comparison.metrics, comparison.certificates, comparison.fingerprints):
            assert read(root / 'disturbed' / 'run') == read(root / 'undisturbed' / 'run'), story
        check_kept(story, root / 'disturbed' / 'run')


def check_kept(story, workdir):
    """The newest checkpoints are there, every so many steps one, and the best of those that were evaluated."""
    run = verbs.open_run(workdir)
    regular = [step for step in range(1, STEPS + 1) if step % story.every_steps == 0 or step == STEPS]
    expected = set(regular[-1:])
    if story.keep_every is not None:
        expected |= {step for step in regular if step % story.keep_every == 0}
    if story.keep_best:
        values = dict(zip(*(array.tolist() for array in run.metrics(BEST))))
        saved = [step for step in values if step in regular]
        expected.add(min(saved, key=lambda step: (values[step], -step)))
    assert expected <= set(run.checkpoints), (story, run.checkpoints)


def settings(examples):
    return hypothesis.settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )  # fmt: skip


def checked(story, zygote):
    with tempfile.TemporaryDirectory() as root:
        check(story, pathlib.Path(root), zygote)


@pytest.mark.slow
@settings(1)
@hypothesis.given(stories(HERE))
@hypothesis.example(TWO_STOPS)
def test_a_disturbed_run_ends_as_the_undisturbed_one(story):
    checked(story, None)


@pytest.fixture(scope='module')
def zygote():
    with forks.Zygote() as server:
        yield server


@pytest.mark.slow
@settings(COMBINATIONS)
@hypothesis.given(story=stories(EVERYWHERE))
def test_many_disturbed_runs_end_as_the_undisturbed_one(zygote, story):
    checked(story, zygote)
