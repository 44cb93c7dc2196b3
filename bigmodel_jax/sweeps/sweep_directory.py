"""The directory of a sweep: sweep.json says what is compared, trials/ holds an ordinary run's directory for each trial.

    sweep.json                        the arms' experiments, the seeds, the metric, and the names of the trials
    trials/ARM-seed0-0123456789ab/    the run of a trial
    logs/ARM-seed0-0123456789ab.log   what its processes printed
    failures/ARM-seed0-....json       how its last attempt failed; deleted when it is tried again
    costs.json                        parameters, FLOPs and data of a trial of each arm

The directories of the trials are the truth: what was measured is read from there each time. A trial that is no longer
part of the sweep, as its arm was changed or left out, stays in trials/ and is not counted.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from bigmodel_jax import __version__, config
from bigmodel_jax.evaluate import metric as metrics
from bigmodel_jax.runs import directory as runs
from bigmodel_jax.storage import durable_files
from bigmodel_jax.sweeps import summaries
from bigmodel_jax.sweeps.statistics import halving as rule
from bigmodel_jax.sweeps.sweep import NAME, Sweep
from bigmodel_jax.sweeps.trials import Trial

FILE, TRIALS, LOGS, FAILURES = 'sweep.json', 'trials', 'logs', 'failures'


@dataclasses.dataclass(frozen=True)
class Invocation:
    """What makes the sweep once more: EXPERIMENT, --set and --arg of the command line."""

    experiment: str  # '' for experiments of the package's own parts that no file defines.
    changes: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class TrialEntry:
    """A trial in sweep.json."""

    arm: str
    seed: int
    name: str  # Of its directory, its log and its failure.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """What sweep.json says; it needs no class of a person's own.

    Attributes:
      arms: the experiment of each arm, as JSON.
      trials: seed by seed.
      source: what was asked for, and the file of the experiments.
    """

    arms: Mapping[str, Mapping[str, Any]]
    baseline: str
    metric: str
    direction: metrics.Direction
    seeds: tuple[int, ...]
    summary: summaries.Summary
    factors: tuple[str, ...]
    columns: Mapping[str, Mapping[str, float]]
    trials: tuple[TrialEntry, ...]
    source: Invocation
    halving: rule.SuccessiveHalving | None = None
    continued: tuple[str, ...] = ()


class SweepDirectory:
    """A sweep's directory and what sweep.json says in it. Made by described(), create() or open_sweep()."""

    def __init__(self, path: epath.Path, description: Description):
        self.path, self.description = path, description

    def write(self) -> None:
        """Writes sweep.json, and makes the directories."""
        self.path.mkdir(parents=True, exist_ok=True)
        for folder in (TRIALS, LOGS, FAILURES):
            (self.path / folder).mkdir(exist_ok=True)
        durable_files.write_json(self.path / FILE, _to_json(self.description))

    def trial(self, entry: TrialEntry) -> epath.Path:
        """The directory of a trial's run, which need not be there."""
        return self.path / TRIALS / entry.name

    def log(self, entry: TrialEntry) -> epath.Path:
        """The file of what a trial's processes printed, which need not be there."""
        return self.path / LOGS / f'{entry.name}.log'

    def failure(self, entry: TrialEntry) -> epath.Path:
        """The file that says how a trial's last attempt failed, which need not be there."""
        return self.path / FAILURES / f'{entry.name}.json'

    def run(self, entry: TrialEntry) -> runs.Run | None:
        """The run of a trial as it is now; None if it has not begun.

        Raises:
          InputError: its directory is damaged.
        """
        path = self.trial(entry)
        return runs.open_run(path) if durable_files.exists(path / durable_files.EXPERIMENT) else None

    def curve(self, run: runs.Run) -> dict[int, float]:
        """Step -> value of the sweep's metric in the run of a trial, as far as it was measured."""
        if self.description.metric not in run.metric_names:
            return {}
        steps, values = run.metrics(self.description.metric)
        return dict(zip(steps.tolist(), values.tolist()))

    def values(self) -> dict[str, dict[int, float]]:
        """Arm -> seed -> the number that stands for the trial, of those that are finished.

        Raises:
          InputError: the directory of a trial is damaged.
        """
        about = self.description
        found: dict[str, dict[int, float]] = {arm: {} for arm in about.arms}
        for entry in about.trials:
            run = self.run(entry)
            curve = self.curve(run) if run is not None and run.finished else {}
            if curve:
                found[entry.arm][entry.seed] = about.summary.of(curve, about.direction)
        return found


def create(path: epath.PathLike, sweep: Sweep, trials: Sequence[Trial], source: Invocation) -> SweepDirectory:
    """Writes sweep.json into a new or empty directory, or into that of a sweep, which then has these trials.

    A trial that is there already, under another arm's name, keeps its directory.

    Raises:
      InputError: the directory holds something else, or cannot be written.
    """
    found = described(path, sweep, trials, source)
    found.write()
    return found


def described(path: epath.PathLike, sweep: Sweep, trials: Sequence[Trial], source: Invocation) -> SweepDirectory:
    """What create() would make; nothing is written.

    Raises:
      InputError: the directory holds something else.
    """
    root = durable_files.directory(path)
    names = durable_files.names_in(root)
    if names and FILE not in names and not all(durable_files.is_partial(name) for name in names):
        raise config.InputError(
            f'{root} is not the directory of a sweep: it has no {FILE}. It holds {", ".join(names[:8])}. Pass a new '
            'directory, or that of a sweep.'
        )
    return SweepDirectory(root, _description(root, sweep, trials, source))


def _description(root: epath.Path, sweep: Sweep, trials: Sequence[Trial], source: Invocation) -> Description:
    """What sweep.json says of a sweep; a trial that is in its directory already keeps its name."""
    there = {name.rpartition('-')[2]: name for name in durable_files.names_in(root / TRIALS)}
    entries = tuple(TrialEntry(each.arm, each.seed, there.get(each.address, each.name)) for each in trials)
    return Description(
        arms={arm: config.to_json(each) for arm, each in sweep.arms.items()},
        baseline=sweep.baseline,
        metric=sweep.metric,
        direction=sweep.direction,
        seeds=sweep.seeds,
        summary=sweep.summary,
        factors=sweep.factors,
        columns=sweep.columns,
        trials=entries,
        source=source,
        halving=sweep.halving,
        continued=sweep.continued,
    )


def open_sweep(path: epath.PathLike) -> SweepDirectory:
    """The sweep in a directory.

    Raises:
      InputError: there is none, or its sweep.json is damaged.
    """
    root = durable_files.directory(path)
    if not durable_files.exists(root / FILE):
        raise config.InputError(f'{root} is not the directory of a sweep: it has no {FILE}.')
    return SweepDirectory(root, _from_json(durable_files.read_json(root / FILE), root / FILE))


def is_sweep(path: epath.PathLike) -> bool:
    """Whether a directory is that of a sweep."""
    return durable_files.exists(durable_files.directory(path) / FILE)


def _to_json(described: Description) -> dict[str, Any]:
    return {
        'version': __version__,
        **{name: getattr(described, name) for name in ('baseline', 'metric', 'direction', 'seeds', 'factors')},
        'summary': config.to_json(described.summary),
        'halving': None if described.halving is None else config.to_json(described.halving),
        'continued': described.continued,
        'columns': described.columns,
        'source': dataclasses.asdict(described.source),
        'trials': [dataclasses.asdict(entry) for entry in described.trials],
        'arms': described.arms,
    }


def _from_json(data: Any, path: epath.Path) -> Description:
    try:
        trials = tuple(TrialEntry(str(each['arm']), int(each['seed']), str(each['name'])) for each in data['trials'])
        source = data['source']
        found = Description(
            arms={str(arm): each for arm, each in data['arms'].items()},
            baseline=str(data['baseline']),
            metric=str(data['metric']),
            direction='higher' if data['direction'] == 'higher' else 'lower',
            seeds=tuple(map(int, data['seeds'])),
            summary=config.from_json(data['summary']),
            factors=tuple(map(str, data['factors'])),
            columns={str(heading): dict(cells) for heading, cells in data['columns'].items()},
            trials=trials,
            source=Invocation(str(source['experiment']), tuple(source['changes']), tuple(source['arguments'])),
            # A directory of an earlier version has neither.
            halving=None if data.get('halving') is None else config.from_json(data['halving']),
            continued=tuple(map(str, data.get('continued', ()))),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise config.InputError(
            f'{path} is damaged: {type(error).__name__}: {error}. Run the sweep once more.'
        ) from error
    # The names become paths: a crafted one must not lead out of the directory.
    wrong = [entry.name for entry in trials if entry.arm not in found.arms or not _is_safe(entry.name)]
    kinds = isinstance(found.summary, summaries.Summary) and isinstance(found.halving, rule.SuccessiveHalving | None)
    if wrong or found.baseline not in found.arms or not kinds:
        raise config.InputError(f'{path} is damaged: {wrong[0] if wrong else found.baseline!r} is not of the sweep.')
    return found


def _is_safe(name: str) -> bool:
    arm, _, rest = name.rpartition('-seed')
    return NAME.fullmatch(arm) is not None and NAME.fullmatch(rest) is not None
