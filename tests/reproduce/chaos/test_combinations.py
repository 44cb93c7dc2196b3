"""Random combinations of guard, retention, checkpoints of time, stops, failures and anomalies: one law holds for all.

A run that is disturbed ends with the digest, the log and the batches of the run that nothing disturbed.

More of them: COMBINATIONS=200 scripts/test tests/reproduce/chaos/test_combinations.py -m slow
"""

import contextlib
import dataclasses
import os
import pathlib
import tempfile

import hypothesis
import pytest
from hypothesis import strategies

from bigmodel_jax import config, experiment_file
from bigmodel_jax.optim import anomaly_policy
from bigmodel_jax.reproduce.chaos import comparison
from bigmodel_jax.train import loop, metrics, prefetch

SMALL = str(pathlib.Path(__file__).with_name('small.py'))
STEPS = 14
GUARDS = (anomaly_policy.Stop(), anomaly_policy.Skip(limit=3), anomaly_policy.RollBack(limit=3))
COMBINATIONS = int(os.environ.get('COMBINATIONS', '12'))


@dataclasses.dataclass(frozen=True)
class Story:
    """An experiment, and what happens to a run of it."""

    guard: anomaly_policy.AnomalyPolicy
    every_steps: int
    bad_steps: tuple[int, ...]  # Those whose first batch goes wrong, each by one example.
    keep_last: int = 2
    keep_every: int | None = None
    every_minutes: float | None = None
    # (what, step) of each session but the last: it stops after the step with a checkpoint, or fails in it.
    sessions: tuple[tuple[str, int], ...] = ()

    @property
    def undisturbed(self) -> 'Story':
        """What decides the result."""
        return Story(self.guard, self.every_steps, self.bad_steps)


@strategies.composite
def stories(draw):
    sessions = draw(
        strategies.lists(
            strategies.tuples(strategies.sampled_from(['stop', 'fail']), strategies.integers(1, STEPS - 1)), max_size=3
        )
    )
    return Story(
        guard=draw(strategies.sampled_from(GUARDS)),
        every_steps=draw(strategies.integers(2, 6)),
        bad_steps=tuple(sorted(draw(strategies.sets(strategies.integers(2, STEPS), max_size=2)))),
        keep_last=draw(strategies.integers(1, 3)),
        keep_every=draw(strategies.sampled_from([None, 4])),
        every_minutes=draw(strategies.sampled_from([None, 1e-9])),
        sessions=tuple(sorted(sessions, key=lambda each: each[1])),
    )


# Two stops between regular checkpoints, and a roll-back after them.
TWO_STOPS = Story(anomaly_policy.RollBack(limit=3), 4, (11,), sessions=(('stop', 9), ('stop', 10)))


def nan_examples(bad_steps):
    small = experiment_file.load(SMALL)
    data = small.data.build(small.seed)
    return tuple(int(data.ids(step - 1)[0]) for step in bad_steps)


def experiment_of(story):
    changes = {
        'steps': STEPS, 'data.nan_examples': nan_examples(story.bad_steps), 'watch.log_every': 2,
        'watch.anomalies': story.guard, 'checkpoints.every_steps': story.every_steps,
        'checkpoints.keep_last': story.keep_last, 'checkpoints.keep_every': story.keep_every,
        'checkpoints.every_minutes': story.every_minutes, 'mesh.data': 1,
    }  # fmt: skip
    return config.vary(experiment_file.load(SMALL), changes)


class Planted(Exception):
    """A failure of the data, in the middle of a session."""


def session(story, workdir, what, step):
    """One session that is disturbed; how the run ended if it did."""
    experiment = experiment_of(story)
    if what == 'stop':
        return loop.train(experiment, workdir, stop_after=step)
    real = prefetch.read

    def failing(data, index, rows):
        if index >= step:
            raise Planted
        return real(data, index, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefetch, 'read', failing)
        return loop.train(experiment, workdir)


def told(story, workdir):
    """Tells the story; the digest at its end, or the step whose anomaly ended it."""
    try:
        for what, step in story.sessions:
            with contextlib.suppress(Planted):
                session(story, workdir, what, step)
        return loop.train(experiment_of(story), workdir).digest
    except metrics.Anomalous as error:
        return str(error).partition(':')[0]


def check(story, root):
    ends = {}
    for name, one in (('undisturbed', story.undisturbed), ('disturbed', story)):
        ends[name] = told(one, root / name)
    assert ends['disturbed'] == ends['undisturbed'], story
    if not ends['disturbed'].startswith('step '):
        for read in (comparison.digest, comparison.metrics, comparison.certificates, comparison.fingerprints):
            assert read(root / 'disturbed') == read(root / 'undisturbed'), story


def settings(examples):
    return hypothesis.settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
    )  # fmt: skip


def checked(story):
    with tempfile.TemporaryDirectory() as root:
        check(story, pathlib.Path(root))


@settings(1)
@hypothesis.given(stories())
@hypothesis.example(TWO_STOPS)
def test_a_disturbed_run_ends_as_the_undisturbed_one(story):
    checked(story)


@pytest.mark.slow
@settings(COMBINATIONS)
@hypothesis.given(stories())
def test_many_disturbed_runs_end_as_the_undisturbed_one(story):
    checked(story)
