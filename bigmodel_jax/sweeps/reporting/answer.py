"""What a sweep's directory answers: for each arm its runs, their mean, and the comparison with the baseline."""

import dataclasses
import itertools
import math
import pathlib
import statistics
from collections.abc import Iterable, Mapping
from typing import Literal

from bigmodel_jax import config
from bigmodel_jax.runs import directory as runs
from bigmodel_jax.sweeps import failures, pairing, standings, stopping
from bigmodel_jax.sweeps.planning import recorded_costs
from bigmodel_jax.sweeps.reporting import fields
from bigmodel_jax.sweeps.statistics import comparison, halving
from bigmodel_jax.sweeps.sweep_directory import Description, SweepDirectory, TrialEntry

# 'stopped': early, by halving.
TrialState = Literal['finished', 'stopped', 'failed', 'unfinished', 'not started', 'damaged']
Curve = Mapping[int, float]  # Step -> value.


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialResult:
    """A trial as its directory says it. None of it depends on when or how often the trial was started.

    Attributes:
      value: what stands for it; None unless it is finished.
      curve: of the sweep's metric, as far as it was measured.
      others: the last value of each metric that the paper's columns name, if it is finished.
      digest: of its final state.
      commit: of the code that ended it; '' where that is not known. `uncommitted`: with changes beside it.
      signature: how the sweep's metric was measured, where that is recorded.
      reason, lines: why it failed, and the last lines that it printed.
    """

    entry: TrialEntry
    state: TrialState
    value: float | None = None
    curve: Curve = dataclasses.field(default_factory=dict)
    others: Mapping[str, float] = dataclasses.field(default_factory=dict)
    digest: str | None = None
    commit: str = ''
    uncommitted: bool = False
    parameters: int | None = None
    signature: str = ''
    reason: str = ''
    lines: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArmResult:
    """An arm with its trials, and how it compares with the baseline; None of the baseline and of a lone arm.

    Attributes:
      changes: fields in which it differs from the baseline, path -> (there, here).
      stopped: why it was stopped early. Then it is not compared, and none of its trials counts: those that were
        finished before would stand beside means over all seeds.
    """

    arm: str
    trials: tuple[TrialResult, ...]
    changes: Mapping[str, tuple[object, object]]
    comparison: comparison.ArmComparison | None
    stopped: halving.EarlyStop | None = None
    cost: recorded_costs.RecordedCost | None = None  # Of one trial; None before the sweep has run.

    @property
    def values(self) -> dict[int, float]:
        """Seed -> value of the finished trials; of none if the arm was stopped early."""
        if self.stopped is not None:
            return {}
        return {each.entry.seed: each.value for each in self.trials if each.value is not None}

    @property
    def finite(self) -> list[float]:
        """The values that are numbers: the others diverged."""
        return [value for value in self.values.values() if math.isfinite(value)]

    @property
    def mean(self) -> float:
        """Of the finite values; nan where there are none."""
        return statistics.fmean(self.finite) if self.finite else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation of the finite values; nan of fewer than two."""
        return statistics.stdev(self.finite) if len(self.finite) > 1 else math.nan

    @property
    def parameters(self) -> int | None:
        """How many numbers its parameters are; None before its first trial has begun."""
        return next((each.parameters for each in self.trials if each.parameters is not None), None)

    @property
    def runs(self) -> tuple[str, ...]:
        """Names of the finished trials, from which its numbers are."""
        return tuple(each.entry.name for each in self.trials if each.entry.seed in self.values)

    def mean_of(self, metric: str) -> tuple[float, float]:
        """Mean and standard deviation of another metric, over the trials that measured a finite value; nan if none."""
        counted = [each for each in self.trials if each.entry.seed in self.values]
        found = [each.others[metric] for each in counted if math.isfinite(each.others.get(metric, math.nan))]
        mean = statistics.fmean(found) if found else math.nan
        return mean, statistics.stdev(found) if len(found) > 1 else math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class SweepAnswer:
    """All that a report of a sweep says."""

    directory: SweepDirectory
    arms: tuple[ArmResult, ...]
    pairing: str  # What the certificates of the batches say of it; '' of a lone arm.

    @property
    def about(self) -> Description:
        """What is compared."""
        return self.directory.description

    @property
    def trials(self) -> list[TrialResult]:
        """Of all arms, arm by arm."""
        return [each for arm in self.arms for each in arm.trials]

    def count(self, *states: TrialState) -> int:
        """How many trials are in one of the states."""
        return sum(each.state in states for each in self.trials)

    @property
    def complete(self) -> bool:
        """Whether every trial is finished, or was stopped early, so that no number can change."""
        return self.count('finished', 'stopped') == len(self.trials)

    @property
    def stopped(self) -> list[tuple[ArmResult, halving.EarlyStop]]:
        """The arms that were stopped early, and why."""
        return [(each, each.stopped) for each in self.arms if each.stopped is not None]

    @property
    def baseline(self) -> ArmResult:
        """With which the others are compared."""
        return next(each for each in self.arms if each.arm == self.about.baseline)

    @property
    def compared(self) -> list[tuple[ArmResult, comparison.ArmComparison]]:
        """The arms that are compared with the baseline."""
        return [(each, each.comparison) for each in self.arms if each.comparison is not None]

    @property
    def metric(self) -> str:
        """'final validation/loss (lower is better)'."""
        return f'{self.about.summary} {self.about.metric} ({self.about.direction} is better)'

    @property
    def question(self) -> str:
        """A sentence on what is compared."""
        seeds = len(self.about.seeds)
        counted = f'{seeds} seeds' if seeds > 1 else '1 seed'
        return (
            f'{self.metric[0].upper()}{self.metric[1:]} of {len(self.arms)} arms with {counted} each; differences from '
            f'{self.about.baseline}, paired by seed.'
        )

    @property
    def state(self) -> str:
        """A sentence on how much of it is finished."""
        total, done, failed = len(self.trials), self.count('finished'), self.count('failed', 'damaged')
        if done == total:
            return f'All {total} trials are finished.' if total > 1 else 'Its one trial is finished.'
        ended = f', {self.count("stopped")} were stopped early' if self.stopped else ''
        if self.complete:
            return f'{done} of {total} trials are finished{ended}.'
        lost = f', {failed} failed' if failed else ''
        return f'Unfinished: {done} of {total} trials are finished{ended}{lost}. Every number can still change.'

    @property
    def pairing_gain(self) -> str:
        """A sentence on the variance of the difference of two runs, with the same seed against different ones."""
        gains = [each.measured.pairing for _, each in self.compared if each.measured.pairing is not None]
        gains = [gain for gain in gains if math.isfinite(gain.ratio)]
        if not gains:
            return 'What pairing by seed gains is not known from so few runs.'
        ratios = sorted(gain.ratio for gain in gains)
        paired, unpaired = (statistics.fmean(each) for each in zip(*gains))
        return (
            f'The difference of two runs with the same seed has a variance of {paired:.2g}, and with different seeds '
            f'one of {unpaired:.2g}, on average over the arms: a ratio of {unpaired / paired:.2g} '
            f'({ratios[0]:.2g} to {ratios[-1]:.2g}). From so few seeds it is known only roughly.'
        )

    @property
    def code(self) -> str:
        """A sentence on the code that the finished trials were made with."""
        commits = sorted({each.commit for each in self.trials if each.state == 'finished'} - {''})
        if not commits:
            return 'The commit of the code is not known.'
        changed = sum(each.uncommitted for each in self.trials if each.state == 'finished')
        beside = f' In {changed} trials there were uncommitted changes beside it.' if changed else ''
        made = f'commit {commits[0]}' if len(commits) == 1 else f'{len(commits)} commits: {", ".join(commits)}'
        return f'Made with {made}.{beside}'

    @property
    def title(self) -> str:
        """The experiment file, without the folder where it was: 'norms.py:sweep'."""
        path, ending, function = self.about.source.experiment.partition('.py')
        return f'{pathlib.PurePath(path).name}{ending}{function}' or 'a sweep'

    def experiment(self, arm: str) -> str:
        """What trains an arm: 'experiments/norms.py:sweep/no_norm'."""
        named = self.about.source.experiment.partition('/' if '.py:' in self.about.source.experiment else '\0')[0]
        return f'{named}/{arm}' if '.py:' in named else f'{named}:sweep/{arm}'


def collect(directory: SweepDirectory) -> SweepAnswer:
    """What a sweep's directory says now.

    Raises:
      InputError: the trials measured the sweep's metric in different ways.
    """
    about = directory.description
    stops = {} if about.halving is None else stopping.held(directory, standings.Standings(directory)).stops
    by_arm: dict[str, list[TrialResult]] = {arm: [] for arm in about.arms}
    for entry in about.trials:
        found = _trial(directory, entry)
        is_stopped = entry.arm in stops and found.state != 'finished'
        by_arm[entry.arm].append(dataclasses.replace(found, state='stopped') if is_stopped else found)
    _check_signatures(about.metric, itertools.chain.from_iterable(by_arm.values()))
    values = {
        arm: {each.entry.seed: each.value for each in found if each.value is not None and arm not in stops}
        for arm, found in by_arm.items()
    }
    compared = (
        comparison.compare(values, about.baseline, direction=about.direction) if len(values) > 1 else {}
    )  # A sweep of one arm has nothing to compare. Holm's correction counts the arms that were stopped, too.
    costs = recorded_costs.read(directory)
    arms = tuple(
        ArmResult(
            arm=arm,
            trials=tuple(found),
            changes=fields.changes(about.arms[about.baseline], about.arms[arm]),
            comparison=None if arm in stops else compared.get(arm),
            stopped=stops.get(arm),
            cost=costs.get(arm),
        )
        for arm, found in by_arm.items()
    )
    return SweepAnswer(directory=directory, arms=arms, pairing=_pairing(directory))


def _trial(directory: SweepDirectory, entry: TrialEntry) -> TrialResult:
    try:
        run, failure = directory.run(entry), failures.read(directory, entry)
        curve = {} if run is None else directory.curve(run)
    except config.InputError as error:
        return TrialResult(entry=entry, state='damaged', reason=str(error))
    if run is not None and run.finished:
        return _finished(directory, entry, run, curve)
    state: TrialState = 'failed' if failure else 'unfinished' if run is not None else 'not started'
    git = _git(run)
    return TrialResult(
        entry=entry,
        state=state,
        curve=curve,
        reason='' if failure is None else failure.reason,
        lines=() if failure is None else failure.lines,
        parameters=None if run is None else run.parameters,
        commit=str(git.get('commit') or ''),
        uncommitted=bool(git.get('dirty')),
    )


def _finished(directory: SweepDirectory, entry: TrialEntry, run: runs.Run, curve: Curve) -> TrialResult:
    about, git = directory.description, _git(run)
    others = [name for name in about.columns if name in run.metric_names]
    return TrialResult(
        entry=entry,
        state='finished',
        value=about.summary.of(curve, about.direction) if curve else math.nan,
        curve=curve,
        others={name: run.metrics(name)[1][-1].item() for name in others},
        digest=run.digest,
        commit=str(git.get('commit') or ''),
        uncommitted=bool(git.get('dirty')),
        parameters=run.parameters,
        signature=run.measured(about.metric).signature if curve else '',
    )


def _check_signatures(metric: str, found: Iterable[TrialResult]) -> None:
    """Raises InputError if trials measured the metric in different ways, so that its values cannot be compared."""
    trials: dict[str, str] = {}
    for each in found:
        if each.state == 'finished' and each.curve:
            trials.setdefault(each.signature, each.entry.name)
    if len(trials) > 1:
        listed = '\n'.join(f'  {trial}: {signature or "not recorded"}' for signature, trial in trials.items())
        raise config.InputError(
            f'{metric} was measured in different ways, and its values cannot be compared; the signatures are\n'
            f'{listed}\n'
            'Measure all arms alike: the trials keep their runs, which `evaluate` can measure again.'
        )


def _git(run: runs.Run | None) -> Mapping[str, object]:
    return (run.environment[-1].get('git') or {}) if run is not None and run.environment else {}


def _pairing(directory: SweepDirectory) -> str:
    """Sentences on what the traces prove: equal batches in all arms, and equal arrays of initial weights."""
    if len(directory.description.arms) < 2:
        return ''
    try:
        return str(pairing.pairing(directory))
    except config.InputError:  # The trial that is damaged is among the runs, with the reason.
        return 'The directory of a trial is damaged, so that the pairing of the arms is not known.'
