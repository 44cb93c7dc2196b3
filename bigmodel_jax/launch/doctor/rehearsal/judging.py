"""The results of the checks of a rehearsal, from the records of all hosts."""

import collections
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from bigmodel_jax import differences
from bigmodel_jax.launch.doctor import results
from bigmodel_jax.launch.doctor.rehearsal import instruments, programs, records
from bigmodel_jax.launch.doctor.rehearsal.rehearsal import LIMIT_S, RehearsalOutcome

REHEARSAL, PROCESSES, CONFIGURATION, BATCHES, PROGRAMS, WRITES, DETERMINISM = (
    'rehearsal', 'processes', 'configuration', 'batches', 'programs', 'writes', 'determinism',
)  # fmt: skip
SHOWN = 4
FROM_THE_EXPERIMENT = (
    'An experiment holds everything that changes the result: write the value down, or give it with --set or --arg. '
    'Nothing in the file may depend on the host, the time, the environment or chance.'
)
OF_DATA = (
    'A batch follows from (seed, step) alone: sort what a directory lists, take random numbers from '
    'np.random.default_rng((seed, ...)), and let every host give the same answer.'
)
SAME_PROGRAM = (
    'Every host must run the same operations in the same order. Compute on all hosts, and let the first alone print or '
    'write what came of it.'
)
FIRST_ALONE = (
    'Let one host write: `if processes.is_first():` of bigmodel_jax.hosts; or put the number of the host into the name.'
)
AT_CHANCE = (
    'Take random numbers from the keys that the step is given, and nothing from clocks, files or global state within '
    'the computation.'
)
LAUNCHED = 'train joins the hosts of the target itself. Leave jax.distributed.initialize() and shutdown() out.'


def results_of(outcome: RehearsalOutcome, asked: int) -> Iterator[results.CheckResult]:
    """The results of all checks of a rehearsal.

    Args:
      asked: how many hosts the target has.
    """
    hosts = outcome.hosts
    found = [
        _processes(outcome),
        _configuration(hosts),
        _batches(hosts),
        _programs(outcome),
        _writes(hosts),
        _determinism(hosts),
    ]
    faults = [each for each in found if each is not None and each.level is results.Level.FAULT]
    yield _whole(outcome, asked, explained=bool(faults))
    names = (PROCESSES, CONFIGURATION, BATCHES, PROGRAMS, WRITES, DETERMINISM)
    because = 'the rehearsal ended before'
    yield from (each or results.not_checked(name, because) for name, each in zip(names, found))


def _whole(outcome: RehearsalOutcome, asked: int, *, explained: bool) -> results.CheckResult:
    """Whether it came to its end; if not, where each host was."""
    order = outcome.order
    few = f' of the {asked}' if order.hosts < asked else ''
    plural = 's' if order.hosts > 1 else ''
    what = f'{pathlib.PurePath(order.smoke).name} as {order.hosts}{few} host{plural} on this machine'
    if all(host.last(records.DONE) for host in outcome.hosts):
        why = '; more would take a core and a gigabyte each' if few else ''
        return results.ok(REHEARSAL, f'{what}: two steps, twice, in {outcome.seconds:.0f} s{why}')
    if outcome.stuck:
        return _stuck(outcome)
    failed = _failure(outcome)
    if failed is not None:
        return failed
    if explained:
        return results.ok(REHEARSAL, f'{what}: ended in {outcome.seconds:.0f} s, at the fault below')
    if None in outcome.statuses:
        slow = f'{what} was not done in {LIMIT_S:.0f} s: {_stages(outcome)}'
        return results.not_checked(REHEARSAL, slow, 'Make smoke() smaller; it should take about a minute.')
    host = next(host for host, status in enumerate(outcome.statuses) if status)
    return results.fault(
        REHEARSAL,
        f'{what}: host {host} ended with status {outcome.statuses[host]} while {outcome.hosts[host].stage}.',
        f'It printed last: {_last_printed(outcome, host)}',
    )


def _stages(outcome: RehearsalOutcome) -> str:
    return '; '.join(f'host {host.host} was {host.stage}' for host in outcome.hosts)


def _last_printed(outcome: RehearsalOutcome, host: int) -> str:
    lines = records.printed(outcome.folder, host).read_text(errors='replace').splitlines()
    return ' | '.join([line.strip() for line in lines if line.strip()][-3:]) or 'nothing'


def _stuck(outcome: RehearsalOutcome) -> results.CheckResult:
    """Hosts that wait for each other for ever, each with the line of own code in which it waits."""
    where = []
    for host in outcome.hosts:
        file = records.stacks(outcome.folder, host.host)
        frames = list(instruments.own_frames(file.read_text(errors='replace') if file.exists() else ''))
        inside = f'in {instruments.place(*frames[0])}' if frames else 'in no code of yours'
        done = host.last(records.DONE)
        where.append(f'host {host.host}, {"done" if done else host.stage}, waits {inside}')
    return results.fault(
        REHEARSAL,
        f'The hosts wait for each other for ever: {"; ".join(where)}.',
        'An operation on all hosts (a collective, a barrier, anything on arrays of several hosts) must be reached by '
        'every host. Move it out of the branch that only some take.',
    )


def _failure(outcome: RehearsalOutcome) -> results.CheckResult | None:
    """The error of the host that failed first of itself, not for the loss of another."""
    failed = [(each.last(records.FAILED), each.host) for each in outcome.hosts]
    own = [(record, host) for record, host in failed if record is not None and not record['lost']]
    lost = [(record, host) for record, host in failed if record is not None]
    if not lost:
        return None
    record, host = min(own or lost, key=lambda pair: pair[0]['at'])
    if outcome.hosts[host].last(records.STARTS):
        return results.ok(REHEARSAL, 'ended at the fault below')
    everywhere = record['told'] or sum(each is not None and not each['lost'] for each, _ in failed) == len(failed)
    others = [each for each in outcome.hosts if each.host != host]
    who = 'all hosts' if everywhere else f'host {host}'
    more = '' if everywhere else f' The others: {"; ".join(f"host {each.host} was {each.stage}" for each in others)}.'
    message = record['message'].rstrip('.')
    place = _place(record)
    return results.fault(
        REHEARSAL,
        f'An error on {who} while {outcome.hosts[host].stage}: {message}.{more}',
        f'The place: {place}' if place and str(place) not in message else 'Correct it; the message says where.',
    )


def _place(record: dict[str, Any] | None, key: str = 'place') -> records.CodeLine | None:
    return records.CodeLine(**record[key]) if record and record.get(key) else None


# ---- one check each -----------------------------------------------------------------------------------------------


def _processes(outcome: RehearsalOutcome) -> results.CheckResult | None:
    """Whether every process knows of all others."""
    starts = [_place(each.last(records.STARTS)) for each in outcome.hosts if each.last(records.STARTS)]
    if starts:
        where = f' ({starts[0]})' if starts[0] else ''
        return results.fault(PROCESSES, f'The experiment file starts the processes itself{where}.', LAUNCHED)
    counts = [(each.host, each.last(records.PROCESSES)) for each in outcome.hosts]
    if any(record is None for _, record in counts):
        return None
    wanted = (outcome.order.hosts, outcome.order.hosts * outcome.order.devices)
    wrong = [(host, record) for host, record in counts if record and (record['count'], record['devices']) != wanted]
    if wrong:
        host, record = wrong[0]
        return results.fault(
            PROCESSES,
            f'Host {host} counts {record["count"]} processes with {record["devices"]} devices, of {wanted[0]} with '
            f'{wanted[1]}: it would train alone.',
            LAUNCHED,
        )
    return results.ok(PROCESSES, f'each host counts {wanted[0]}')


def _configuration(hosts: Sequence[records.HostRecords]) -> results.CheckResult | None:
    """Whether every host builds the same experiment, and builds it again."""
    made = [each.last(records.CONFIGURATION) for each in hosts]
    if any(each is None for each in made):
        return None
    first = made[0] or {}
    lines = _suspected(first)
    for number, other in enumerate(made[1:], start=1):
        for name in ('asked', 'smoke'):
            found = differences.between(first[name], (other or {})[name])
            if found:
                shown = '; '.join(map(str, found[:SHOWN]))
                text = f'The experiment is not the same on host 0 and host {number}: {shown}.{lines}'
                return results.fault(CONFIGURATION, text, FROM_THE_EXPERIMENT)
    for host in hosts:
        again = host.last(records.AGAIN)
        found = differences.between(first['asked'], again['asked']) if again else []
        if found:
            shown = '; '.join(map(str, found[:SHOWN]))
            text = f'The experiment changes from one moment to the next: {shown}. It could not be resumed.{lines}'
            return results.fault(CONFIGURATION, text, FROM_THE_EXPERIMENT)
    return results.ok(CONFIGURATION, 'the same on every host' if len(hosts) > 1 else 'the same when loaded again')


def _suspected(record: dict[str, Any]) -> str:
    places = [records.CodeLine(**each) for each in record.get('suspects', ())]
    return f' It may come from {"; ".join(map(str, places))}.' if places else ''


def _batches(hosts: Sequence[records.HostRecords]) -> results.CheckResult | None:
    """Whether every host reads the same batches, and reads them again."""
    read = [each.last(records.BATCHES) for each in hosts]
    if any(each is None for each in read):
        return None
    first = read[0] or {}
    where = _place(first)
    place = f' They are made in {where}.' if where else ''
    for number, other in enumerate(read[1:], start=1):
        problem = _difference(first['read'][0], (other or {})['read'][0])
        if problem:
            text = f'Host 0 and host {number} read other data: {problem}.{place}{_suspected(first)}'
            return results.fault(BATCHES, text, OF_DATA)
    for host, record in enumerate(read):
        problem = _difference(*(record or {})['read'])
        if problem:
            text = f'Host {host} reads other data each time it opens them: {problem}.{place}{_suspected(first)}'
            return results.fault(BATCHES, text, OF_DATA)
    return results.ok(BATCHES, 'two of them, the same on every host and when read again')


def _difference(one: list[dict[str, str]], other: list[dict[str, str]]) -> str | None:
    """What differs first in the digests of batches: the order of the examples, or a field."""
    for number, (left, right) in enumerate(zip(one, other)):
        names = sorted(name for name in {*left, *right} if left.get(name) != right.get(name))
        if 'ids' in names:
            return f'batch {number} has other examples, or in another order'
        if names:
            return f'batch {number} has other values in {", ".join(names)}'
    return None


def _programs(outcome: RehearsalOutcome) -> results.CheckResult | None:
    """Whether every host compiles the same programs, and traces them again."""
    traced = collections.defaultdict(dict)
    for host in outcome.hosts:
        for record in host.all(records.PROGRAM):
            traced[record['name']].setdefault(host.host, record['hashes'])
    if not traced:
        return None
    for name, by_host in traced.items():
        for host, hashes in by_host.items():
            if len(set(hashes)) > 1:
                place = _parting(outcome.folder, name, (host, 0), (host, 1))
                text = f'Host {host} traces another program of the {name} each time{place}.'
                return results.fault(PROGRAMS, text, AT_CHANCE)
        if len({tuple(hashes) for hashes in by_host.values()}) > 1:
            other = next(host for host, hashes in by_host.items() if hashes != by_host[0])
            place = _parting(outcome.folder, name, (0, 0), (other, 0))
            text = f'Host 0 and host {other} would run different programs of the {name}{place}.'
            return results.fault(PROGRAMS, text, SAME_PROGRAM)
    if programs.STEP not in traced:
        return None
    return results.ok(PROGRAMS, f'{" and ".join(traced)}, the same on every host')


def _parting(folder: pathlib.Path, name: str, one: tuple[int, int], other: tuple[int, int]) -> str:
    """': they part at ...', if the place is in own code."""
    texts = [records.program_text(folder, name, *each) for each in (one, other)]
    if not all(text.exists() for text in texts):
        return ''
    places = programs.first_difference(*(text.read_text() for text in texts))
    shown = list(dict.fromkeys(str(each) for each in places if each is not None))
    return f': they part at {" and at ".join(shown)}' if shown else ''


def _writes(hosts: Sequence[records.HostRecords]) -> results.CheckResult | None:
    """Whether a person's own code writes one file from several hosts."""
    if not any(each.all(records.STATE) or each.all(records.WRITE) for each in hosts):
        return None
    writers: dict[str, set[int]] = collections.defaultdict(set)
    places: dict[str, records.CodeLine] = {}
    for host in hosts:
        for record in host.all(records.WRITE):
            writers[record['path']].add(host.host)
            places.setdefault(record['path'], records.CodeLine(**record['place']))
    shared = [path for path, who in writers.items() if len(who) > 1]
    if shared:
        who = ', '.join(map(str, sorted(writers[shared[0]])))
        more = f', and {len(shared) - 1} more files' if len(shared) > 1 else ''
        text = f'Hosts {who} all write {shared[0]}{more}: {places[shared[0]]}.'
        return results.fault(WRITES, text, FIRST_ALONE)
    if not all(each.last(records.STATE) for each in hosts):
        return None
    return results.ok(WRITES, f'{len(writers) or "no"} files by your own code, none of them by two hosts')


def _determinism(hosts: Sequence[records.HostRecords]) -> results.CheckResult | None:
    """Whether two steps done again give the same state."""
    digests = [[record['digest'] for record in each.all(records.STATE)] for each in hosts]
    if any(len(each) < 2 for each in digests):
        return None
    for host, (one, other) in enumerate(digests):
        if one != other:
            suspects = _suspected(hosts[host].last(records.STATE) or {})
            text = f'The same two steps gave another state the second time: {one[:12]}, then {other[:12]}.{suspects}'
            return results.fault(DETERMINISM, text, AT_CHANCE)
    return results.ok(DETERMINISM, f'two steps done again give the same state, {digests[0][0][:12]}')
