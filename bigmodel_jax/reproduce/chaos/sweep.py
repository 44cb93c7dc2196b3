"""Runs a short experiment once for each fault, and looks whether anything was lost.

The law, for each fault: no traceback is printed; the exit status is that of a run that was done (0), of one that
explained in a message why it stopped (1, 2), or of one that was killed; the same command then comes to the end, with
the digest, the log, the examples and the checkpoints of a run that nothing disturbed, and with no file besides its.
A session that came to its end all the same, and left exactly that with undamaged checkpoints, needs no other start.
"""

import collections
import json
import pathlib
import re
import shutil
import signal
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from etils import epath

from bigmodel_jax.reproduce.chaos import campaign, comparison, faults, forks, shim, sweep_results
from bigmodel_jax.storage import durable_files, integrity
from bigmodel_jax.train.state import ITEMS

SESSION_S = 120.0  # A session that takes longer hangs.
GRACE_S = 10.0  # What the other hosts have to end by themselves when one failed.
KILLED_GRACE_S = 3.0  # And when one was killed: they may wait for it until JAX misses it, which takes a minute.
MESSAGE = re.compile(r'^(error|stopped|incomplete): ', re.MULTILINE)
UNHANDLED = re.compile(r'Traceback \(most recent call last\)|Exception ignored|Fatal Python error|terminate called')
ABORTED = re.compile(r'Check failure stack trace')  # By JAX, because it lost the process that serves the others.
LATE_TRIES = 5
CHANGING = re.compile(r'(events\.out\.\S*|(?<=/d/)[0-9a-f]{16,})$')  # Names with the time or a random number in them.


class FaultSweep:
    """Prepares what the trials of a command start from, and runs them.

    Args:
      zygote: its processes have the library of shim.py.
      command: of the run; its hosts are left to each fault.
      root: a new directory.
    """

    def __init__(self, zygote: forks.Zygote, command: campaign.Command, root: pathlib.Path, *, stop_after: int):
        self._zygote, self._command, self._root, self._stop = zygote, command, root, stop_after
        self._names: dict[int, set[str]] = {}

    def prepare(self, hosts: int, starts: Collection[str] = faults.STARTS) -> None:
        """Makes the undisturbed run, and where it is needed one that stopped at a checkpoint, on so many hosts.

        Raises:
          Failed: one of them does not come to its end.
        """
        for start, more in (('fresh', ()), ('resumed', ('--stop-after', str(self._stop)))):
            if start == 'fresh' or start in starts:
                self._end_well(hosts, self._place(start, hosts), more)
        self._names[hosts] = names(self._place('fresh', hosts))

    def calls(self, hosts: int) -> Mapping[tuple[str, int, int], faults.Calls]:
        """The calls of (start, hosts, host), by operation and place."""
        found = {}
        for start in faults.STARTS:
            workdir = self._fresh(start, hosts)
            logs = [self._root / 'counted' / f'{start}-{hosts}-{host}' for host in range(hosts)]
            logs[0].parent.mkdir(exist_ok=True)
            orders: dict[int, list[str | int]] = {}
            for host, log in enumerate(logs):
                orders[host] = [str(workdir), 'open', faults.ANY, 0, int(shim.Happens.COUNT), 0, 0, str(log)]
            self._end_well(hosts, workdir, (), orders)
            for host, log in enumerate(logs):
                lines = [line.split(' ', 2) for line in log.read_text().splitlines()]
                found[start, hosts, host] = collections.Counter((name, faults.place(path)) for name, _, path in lines)
        return found

    def code(self, hosts: int) -> Any:
        """What tells the code of the undisturbed session from other code: the package, the files, and the versions."""
        entry = json.loads((self._place('fresh', hosts) / durable_files.ENVIRONMENT).read_text())[0]
        code = entry['code']
        return {'package': code['package']['sha256'], 'files': code['files'], 'versions': entry['versions']}

    def trial(self, fault: faults.Fault) -> sweep_results.FaultTrial:
        """Runs a session with the fault, and then the same command until the end."""
        began = time.monotonic()
        workdir, log = self._fresh(fault.start, fault.hosts), self._root / 'met'
        log.unlink(missing_ok=True)
        statuses, said = self._session(fault.hosts, workdir, (), {fault.host: fault.order(workdir, log)})
        met = log.read_text().strip() or None if log.exists() else None
        problems = list(_judge(fault, statuses, said, workdir, met=met is not None))
        if any(statuses) or None in statuses or self._amiss(fault.hosts, workdir):
            try:
                self._end_well(fault.hosts, workdir, ())
            except campaign.Failed as error:
                problems.append(f'the next start does not come to the end: {error}')
            else:
                problems += self._amiss(fault.hosts, workdir)
        seconds = round(time.monotonic() - began, 2)
        return sweep_results.FaultTrial(fault, met, tuple(statuses), tuple(problems), seconds)

    def _amiss(self, hosts: int, workdir: pathlib.Path) -> list[str]:
        """What differs between a run that came to its end and the undisturbed one."""
        found = comparison.differences(self._place('fresh', hosts), workdir)
        found += [f'left behind: {name}' for name in sorted(names(workdir) - self._names[hosts])[:3]]
        found += [f'missing: {name}' for name in sorted(self._names[hosts] - names(workdir))[:3]]
        return found + list(_damaged(workdir))

    def _place(self, start: str, hosts: int) -> pathlib.Path:
        return self._root / f'{start}-{hosts}'

    def _fresh(self, start: str, hosts: int) -> pathlib.Path:
        """A directory as a session finds it: without anything, or with a checkpoint."""
        workdir = self._root / 'trial'
        shutil.rmtree(workdir, ignore_errors=True)
        if start == 'resumed':
            shutil.copytree(self._place(start, hosts), workdir)
        return workdir

    def _session(
        self,
        hosts: int,
        workdir: pathlib.Path,
        more: Sequence[str],
        orders: faults.Orders | None = None,
    ) -> tuple[list[int | None], str]:
        """Runs the command; returns each host's status, and what they said."""
        output = self._root / 'output'
        shutil.rmtree(output, ignore_errors=True)
        arguments = [*self._command.arguments, '--workdir', str(workdir), *more]
        children = self._zygote.run(
            arguments, hosts=hosts, devices=self._command.devices, output=output, orders=orders or {}
        )
        armed = [children[host] for host in orders or {}] or children
        forks.wait(armed, SESSION_S)
        status = armed[0].poll()
        statuses = forks.wait(children, _grace_s(status) if status else SESSION_S)
        for child in children:
            child.kill()
        forks.wait(children, GRACE_S)
        return statuses, '\n'.join(child.output.read_text(errors='replace') for child in children)

    def _end_well(
        self,
        hosts: int,
        workdir: pathlib.Path,
        more: Sequence[str],
        orders: faults.Orders | None = None,
    ) -> None:
        """Runs the command.

        Raises:
          Failed: it does not end with status 0, or prints a traceback.
        """
        for _ in range(LATE_TRIES):
            statuses, said = self._session(hosts, workdir, more, orders)
            if campaign.LATE not in said:
                break
        if any(statuses) or None in statuses or UNHANDLED.search(said) or ABORTED.search(said):
            raise campaign.Failed(f'exit status {statuses}: {said.strip()[-campaign.LAST_WORDS :]}')


def _grace_s(status: int) -> float:
    return KILLED_GRACE_S if status == -signal.SIGKILL else GRACE_S


def _judge(
    fault: faults.Fault, statuses: Sequence[int | None], said: str, workdir: pathlib.Path, *, met: bool
) -> Iterator[str]:
    """How a session with a fault broke the law."""
    # Whoever loses a host that was killed cannot have been told.
    unhandled = UNHANDLED.search(said) or (None if fault.kills else ABORTED.search(said))
    if unhandled and campaign.LATE not in said:
        yield f'it printed a traceback: {said[max(unhandled.start() - 200, 0) :][: campaign.LAST_WORDS]}'
    allowed = {0, 1, 2} | ({-9} if fault.kills else set())
    odd = [status for status in statuses if status not in allowed]
    survivors = fault.hosts > 1 and fault.kills  # They may wait for the one that is gone, until they are killed.
    if odd and not survivors:
        yield f'exit status {statuses}'
    if any(status in (1, 2) for status in statuses) and not MESSAGE.search(said):
        yield f'exit status {statuses} without a message'
    if met and fault.kills and statuses[fault.host] != -9:
        yield f'it was not killed: exit status {statuses}'
    if statuses[0] == 0 and not any((workdir / durable_files.CHECKPOINTS).glob('[0-9]*')):
        yield 'exit status 0 without a checkpoint'


def _damaged(workdir: pathlib.Path) -> Iterator[str]:
    """The checkpoints of a run that are not as they were written."""
    for path in sorted((workdir / durable_files.CHECKPOINTS).glob('[0-9]*')):
        try:
            integrity.check(epath.Path(path), step=int(path.name), ours=lambda *_: True, items=tuple(ITEMS))
        except (integrity.DamagedCheckpoint, ValueError) as error:
            yield f'checkpoint {path.name}: {error}'


def names(workdir: pathlib.Path) -> set[str]:
    """The files of a run, without what differs in the names of equal runs."""
    found = [str(path.relative_to(workdir)) for path in workdir.rglob('*')]
    return {CHANGING.sub('*', name) for name in found}
