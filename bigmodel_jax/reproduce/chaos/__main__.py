"""`python -m bigmodel_jax.reproduce.chaos EXPERIMENT ...`: the command line of scripts/chaos."""

import argparse
import math
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence

import rich.console

from bigmodel_jax import config
from bigmodel_jax.console import output
from bigmodel_jax.reproduce.chaos import (
    campaign,
    campaign_report,
    comparison,
    faults,
    forks,
    shim,
    sweep,
    sweep_results,
)

UNDISTURBED, DISTURBED = 'undisturbed', 'disturbed'
EXAMPLE = 'scripts/chaos experiments/quickstart.py:smoke --kills 10 --hosts 2 --set mesh.data=-1'
SWEEP = 'scripts/chaos tests/reproduce/chaos/small.py --faults'
# Most of the time of a small run goes into compiling it.
FAST_COMPILE = '--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true'
REMAINING = 3  # The exit status of a portion after which faults remain.
# --faults: every fault, or one of each group.
ALL, EACH = 'all', 'each'


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = argparse.ArgumentParser(
        prog='scripts/chaos',
        description=(
            'Shows that no crash changes a result. Trains EXPERIMENT once undisturbed, and once under random SIGKILLs\n'
            'of random processes, half of them inside saves, each followed by the same command again. Then compares\n'
            'the final states, the metrics, the examples of every step and the fingerprints of the two runs.\n'
            'With --faults each single file operation of a short run fails instead (ENOSPC, EIO, EINTR; once or from\n'
            'then on), or the process is killed before it, in the middle of it, or with the loss of all that was not\n'
            'synced. Each time the same command must then come to the same end, without a traceback.\n'
            'Exit status: 0 all equal, 1 something differs or a session failed, 2 wrong input, 3 nothing differs and\n'
            'faults remain for another portion.'
        ),
        epilog=(
            'Runs on the CPU of this machine. A run of a minute or so with a checkpoint every second shows most;\n'
            f'for example:\n  {EXAMPLE}\nFor --faults, a run of a few steps with as few files as possible:\n  {SWEEP}\n'
            'Many calls of a run are the same operation on the same kind of file, such as the checkpoints of other\n'
            f'steps. --faults {EACH} groups the faults by operation, kind of file and way to fail, and runs one of\n'
            'each group; --seed draws which. A long sweep is run in portions: --results FILE keeps what came of each\n'
            'fault, and the same command continues with the faults that FILE does not have, whether the portion\n'
            'before was killed, or ended by --minutes.'
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument('experiment', metavar='EXPERIMENT', help='as for python -m bigmodel_jax train')
    top.add_argument('--kills', type=_positive, metavar='N', help='how many (default: 50)')
    top.add_argument('--hosts', type=_positive, default=1, metavar='N', help='processes of the run (default: 1)')
    top.add_argument('--devices', type=_positive, default=1, metavar='N', help='of each process (default: 1)')
    top.add_argument('--seed', type=int, default=0, metavar='N', help='of the moments and victims (default: 0)')
    top.add_argument(
        '--workdir', type=pathlib.Path, metavar='DIR', help='new or empty; kept (default: a temporary directory, kept)'
    )
    for flag, metavar in (('--set', 'PATH=VALUE'), ('--arg', 'NAME=VALUE')):
        top.add_argument(
            flag, action='append', default=[], metavar=metavar, help='as for train; may be given several times'
        )
    _add_faults(top.add_argument_group('single faults'))
    return top


def _add_faults(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        '--faults',
        nargs='?',
        type=_how_many,
        const=ALL,
        metavar=f'{ALL}|{EACH}|N',
        help=f'of file operations: {ALL} (the default), one of {EACH} group, or N that --seed draws',
    )
    group.add_argument('--replay', action='append', metavar='FAULT', help='only this fault, as --faults names it')
    group.add_argument('--stop-after', type=_positive, metavar='STEP', help='a step with a checkpoint (default: 2)')
    group.add_argument(
        '--results',
        type=pathlib.Path,
        metavar='FILE',
        help=f'what came of each, as JSON lines; continued if it is there (default: {sweep_results.FILE} in --workdir)',
    )
    group.add_argument('--part', type=_part, metavar='K/N', help='only the K-th of N parts of the faults')
    group.add_argument('--minutes', type=_positive, metavar='N', help='no trial starts after so many')


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The options. Exits with status 2 where one has no effect beside the others."""
    options = parser().parse_args(argv)
    defaults: dict[bool, dict[str, object]] = {
        True: {'stop_after': 2, 'part': (1, 1), 'minutes': None, 'results': None},
        False: {'kills': 50},
    }
    faulty = bool(options.faults or options.replay)
    for name in defaults[not faulty]:
        if getattr(options, name) is not None:
            flag = f'--{name.replace("_", "-")}'
            parser().error(f'{flag} has no effect {"with" if faulty else "without"} --faults or --replay; leave it out')
    for name, value in defaults[faulty].items():
        setattr(options, name, value if getattr(options, name) is None else getattr(options, name))
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive number')
    return int(text)


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition('/')
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise argparse.ArgumentTypeError(f'{text!r} is not a part such as 2/8')
    return int(number), int(parts)


def _how_many(text: str) -> int | str:
    if text not in (ALL, EACH):
        try:
            return _positive(text)
        except argparse.ArgumentTypeError as error:
            raise argparse.ArgumentTypeError(f'{error}, nor {ALL} or {EACH}') from None
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Runs it all; returns the exit status."""
    options = parse(argv)
    if options.workdir is not None and options.workdir.exists() and any(options.workdir.iterdir()):
        parser().error(f'--workdir {options.workdir} is not empty; use a new directory')
    root = options.workdir or pathlib.Path(tempfile.mkdtemp(prefix='chaos-'))
    library = {}
    if options.faults or options.replay:
        try:
            library = shim.environment(shim.build(root.resolve() / 'library')) | {'XLA_FLAGS': FAST_COMPILE}
            # What git says of the code is no file of the run, and would take a tenth of the time of every session.
            library['GIT_DIR'] = os.devnull
            options.replay = options.replay and [faults.parse(text) for text in options.replay]
        except shim.Unavailable as error:
            print(f'Skipped: {error}')
            return 0
        except (ValueError, KeyError):
            parser().error(f'--replay {" ".join(options.replay)}: not a fault, such as fresh:1:0:write:7:EIO:once')
    # Else every start would compile what takes less than a second. The cache is disturbed like all else.
    cache = {
        'JAX_COMPILATION_CACHE_DIR': str(root.resolve() / 'compiled'),
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }
    with forks.Zygote(cache | library) as zygote:
        return run(zygote, options, root.resolve())


def run(zygote: forks.Zygote, options: argparse.Namespace, root: pathlib.Path) -> int:
    """main() with what starts the processes, and the directory for everything."""
    try:
        return (_sweep if options.faults or options.replay else _run)(zygote, options, root)
    except campaign.Failed as error:
        print(f'error: {error}\nAll output is in {root / "output"}.', file=sys.stderr)
        return 2 if error.status == 2 else 1
    except config.InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2


def _command(options: argparse.Namespace) -> campaign.Command:
    arguments = ['train', options.experiment]
    for flag in ('set', 'arg'):
        arguments += [part for value in getattr(options, flag) for part in (f'--{flag}', value)]
    return campaign.Command(tuple(arguments), options.hosts, options.devices)


def _sweep(zygote: forks.Zygote, options: argparse.Namespace, root: pathlib.Path) -> int:
    console = rich.console.Console(highlight=False, soft_wrap=True)
    deadline = time.monotonic() + 60 * options.minutes if options.minutes else math.inf
    results = sweep_results.SweepResults(options.results or root / sweep_results.FILE, _facts(options))
    runs = sweep.FaultSweep(zygote, _command(options), root, stop_after=options.stop_after)
    planned: list[faults.Fault] = results.planned or options.replay or []
    for hosts in sorted({fault.hosts for fault in planned} or {options.hosts}):
        runs.prepare(hosts, {fault.start for fault in planned} or faults.STARTS)
    if not planned:
        planned = _schedule(runs.calls(options.hosts), options, console)
    results.begin(planned, runs.code(planned[0].hosts))
    remaining = results.remaining(options.part)
    console.print(f'{len(remaining)} of {len(planned)} faults to run; what is found is in {results.path}')
    for number, fault in enumerate(remaining, 1):
        if time.monotonic() > deadline:
            break
        results.add(trial := runs.trial(fault))
        for problem in trial.problems:
            console.print(f'{fault} ({trial.met}): {problem}', markup=False)
        if number % 100 == 0:
            console.print(f'{number} of {len(remaining)}, {len(results.broken)} broke the law')
    console.print(sweep_results.shown(results.trials.values()))
    for line in results.summary():
        console.print(line, markup=False)
    return 1 if results.broken else REMAINING if results.remaining(options.part) else 0


def _facts(options: argparse.Namespace) -> dict[str, object]:
    """What decides which faults are planned, and what their sessions run."""
    names = ('experiment', 'hosts', 'devices', 'seed', 'faults', 'stop_after', 'set', 'arg')
    return {name: getattr(options, name) for name in names} | {'replay': [*map(str, options.replay or [])]}


def _schedule(
    calls: Mapping[tuple[str, int, int], faults.Calls], options: argparse.Namespace, console: rich.console.Console
) -> list[faults.Fault]:
    most = options.faults if isinstance(options.faults, int) else None
    groups = faults.schedule(calls, seed=options.seed, each=True)
    console.print(f'A run meets {len(faults.schedule(calls, seed=0))} faults, of {len(groups)} groups.')
    return groups if options.faults == EACH else faults.schedule(calls, seed=options.seed, most=most)


def _run(zygote: forks.Zygote, options: argparse.Namespace, root: pathlib.Path) -> int:
    console = rich.console.Console(highlight=False, soft_wrap=True)
    runs = campaign.Campaign(zygote, _command(options), root, console.print)
    console.print(f'{options.experiment} undisturbed, in {root / UNDISTURBED}')
    pace = runs.undisturbed(UNDISTURBED)
    console.print(f'{pace.whole_s:.1f} s, a save takes {pace.save_s:.2f} s; now with kills, in {root / DISTURBED}')
    chaos = runs.disturbed(DISTURBED, pace, kills=options.kills, seed=options.seed)
    found = comparison.differences(root / UNDISTURBED, root / DISTURBED)
    asked = {name: getattr(options, name) for name in ('experiment', 'hosts', 'devices', 'seed', 'set', 'arg')}
    campaign_report.write(root, {**asked, 'asked': options.kills, 'differences': found}, pace, chaos)
    console.print(campaign_report.table(pace, chaos, asked=options.kills))
    for problem in chaos.problems + found:
        console.print(f'different: {problem}', markup=False)
    if len(chaos.kills) < options.kills:
        console.print('The run ended before the last kill; use more steps.')
    console.print(
        f'{"not " if chaos.problems or found else ""}equal to the undisturbed run; {root / campaign_report.FILE}'
    )
    return 1 if chaos.problems or found else 0


if __name__ == '__main__':
    with output.outlasting():
        sys.exit(main())
