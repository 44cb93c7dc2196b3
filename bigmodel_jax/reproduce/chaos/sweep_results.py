"""What a sweep of faults found, a line of JSON for each fault, so that a sweep can be run in portions.

The first line says what is swept and lists every fault that is planned; each later line is what came of one of them.
A portion that is killed leaves at most a torn last line, and its fault is run again. The results of a file are of one
version of the code: what another version would do is not known from it.
"""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import rich.table

from bigmodel_jax import config
from bigmodel_jax.reproduce.chaos import faults
from bigmodel_jax.storage import appending, lines

FILE = 'faults.jsonl'
FAILURES_SHOWN = 1_000  # Characters of what is said of each broken law.

Facts = Mapping[str, Any]  # What is swept: the command and the options that decide the plan.


@dataclasses.dataclass(frozen=True)
class FaultTrial:
    """What came of one fault."""

    fault: faults.Fault
    met: str | None  # The path of the call; None if the session did not come so far.
    statuses: tuple[int | None, ...]  # Of the hosts of the disturbed session; None: it hung.
    problems: tuple[str, ...]  # How it broke the law.
    seconds: float = 0.0  # What the sessions of the trial took.


class SweepResults:
    """The file of a sweep: what was planned, and the trials so far.

    Args:
      path: of the file; nothing is written before begin().
      facts: of this portion, equal to those of the file if there is one.

    Raises:
      InputError: the file is of another sweep, or is none.
    """

    def __init__(self, path: pathlib.Path, facts: Facts):
        self.path, self.facts = path, json.loads(json.dumps(dict(facts)))
        self.planned: list[faults.Fault] = []
        self.trials: dict[faults.Fault, FaultTrial] = {}  # In the order in which they ended.
        self._code: Any = None
        if path.exists() and path.stat().st_size:
            self._read()

    def _read(self) -> None:
        records = [record for record in map(_record, self.path.read_bytes().split(b'\n')) if record is not None]
        if not records or 'planned' not in records[0]:
            raise config.InputError(f'{self.path} does not hold the results of a sweep of faults; use a new file.')
        first = records[0]
        odd = [name for name, value in self.facts.items() if first['facts'].get(name) != value]
        if odd:
            told = ', '.join(f'{name} {first["facts"].get(name)!r} instead of {self.facts[name]!r}' for name in odd)
            raise config.InputError(f'{self.path} holds the results of another sweep: {told}. Use a new file.')
        self._code, self.planned = first['code'], [faults.parse(text) for text in first['planned']]
        for record in records[1:]:
            trial = FaultTrial(
                faults.parse(record['fault']),
                record['met'],
                tuple(record['statuses']),
                tuple(record['problems']),
                record['seconds'],
            )
            self.trials[trial.fault] = trial

    def begin(self, planned: Sequence[faults.Fault], code: Any) -> None:
        """Writes the first line; or, if there is one, makes sure that it is of the same code.

        Args:
          planned: all faults of the sweep, of every portion.
          code: what tells the code of the sessions from other code, as JSON.

        Raises:
          InputError: the earlier portions ran other code.
        """
        if self._code is None:
            self.planned, self._code = list(planned), code
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append({'facts': self.facts, 'code': code, 'planned': list(map(str, planned))})
        elif self._code != code:
            raise config.InputError(
                f'{self.path} holds the results of another version of the code. Use a new file, or the code of then.'
            )

    def add(self, trial: FaultTrial) -> None:
        """Writes what came of a fault."""
        self.trials[trial.fault] = trial
        self._append(dataclasses.asdict(trial) | {'fault': str(trial.fault)})

    def _append(self, record: Mapping[str, Any]) -> None:
        file = appending.Appender(self.path)
        file.append(lines.seal(json.dumps(record)).encode() + b'\n')
        lost = file.close()
        if lost is not None:
            raise config.InputError(f'{lost}: it cannot be written. Make room, or make it writable.')

    def remaining(self, part: tuple[int, int] = (1, 1)) -> list[faults.Fault]:
        """The faults of the k-th of n parts of the plan that were not run yet, as (k, n) with k from 1."""
        number, parts = part
        return [fault for fault in self.planned[number - 1 :: parts] if fault not in self.trials]

    @property
    def broken(self) -> list[FaultTrial]:
        """The trials that broke the law."""
        return [trial for trial in self.trials.values() if trial.problems]

    def summary(self) -> list[str]:
        """How much of the plan was run, and every fault that broke the law, as lines of text."""
        trials, left = list(self.trials.values()), len(self.remaining())
        groups, run = {fault.group for fault in self.planned}, {trial.fault.group for trial in trials}
        met = sum(trial.met is not None for trial in trials)
        seconds = sum(trial.seconds for trial in trials)
        found = [
            f'{len(trials):,} of {len(self.planned):,} faults were run, of {len(run):,} of {len(groups):,} groups, in '
            f'{seconds:,.0f} s; {met:,} were met, and {len(self.broken):,} broke the law.'
        ]
        if left:
            found.append(f'{left:,} faults remain: the same command continues with them.')
        for trial in self.broken:
            found.append(f'{trial.fault} ({trial.met}): {"; ".join(trial.problems)[:FAILURES_SHOWN]}')
            found.append(f'again: --replay {trial.fault}')
        return found


def _record(line: bytes) -> dict[str, Any] | None:
    """The record on a line; None for one that was torn."""
    try:
        return lines.unseal(line)[0]
    except lines.DamagedLine:
        return None


def shown(trials: Iterable[FaultTrial]) -> rich.table.Table:
    """table() for a terminal."""
    found = table(trials)
    drawn = rich.table.Table(box=None, pad_edge=False)
    for column in ('fault', 'trials', 'met', 'broke the law'):
        drawn.add_column(column, justify='left' if column == 'fault' else 'right')
    for name, counts in found.items():
        drawn.add_row(name, *map(str, counts.values()))
    sums = [sum(counts[column] for counts in found.values()) for column in ('trials', 'met', 'broke the law')]
    drawn.add_row('all', *map(str, sums))
    return drawn


def table(trials: Iterable[FaultTrial]) -> dict[str, dict[str, int]]:
    """'write EIO once' -> how many: trials, met, broke the law."""
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for trial in trials:
        fault = trial.fault
        name = ' '.join([fault.operation, fault.what, '' if fault.kills else 'lasting' if fault.lasts else 'once'])
        found[name.strip()].update(
            {'trials': 1, 'met': int(trial.met is not None), 'broke the law': int(bool(trial.problems))}
        )
    return {name: dict(counts) for name, counts in sorted(found.items())}
