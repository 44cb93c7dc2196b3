"""sweep: train the arms of a sweep with every seed, or continue it; or show what would be trained."""

import argparse
import typing

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb

if typing.TYPE_CHECKING:
    from bigmodel_jax.plan.hardware.slices import Slice
    from bigmodel_jax.sweeps.engines.engine import Engine
    from bigmodel_jax.sweeps.running import Limit, SweepEnd
    from bigmodel_jax.sweeps.sweep import Sweep
    from bigmodel_jax.sweeps.sweep_directory import Invocation

ENGINES = ('local', 'slurm', 'xpk')
EXPERIMENT_HELP = """\
an experiment file, as FILE.py[:FUNCTION[/ARM,ARM]]; the function is sweep() unless another is named, and returns a \
dict of experiments by name, or a Sweep. With /ARM,ARM only these arms and the baseline are trained"""
EPILOG = """\
The same command continues a sweep that was interrupted: finished trials are never run again, the others resume. \
Arms and seeds may be added; trials whose experiment did not change keep their results.

A chip-hour is one chip for one hour of training. On the CPU a process counts as one chip, however many cores it has. \
The budget is that of the sweep in all, what earlier starts of it spent included.

exit status: 0 every trial is finished, or the rest is held back by the budget or by halving; 1 a trial failed; \
2 wrong input; 128 + N stopped by signal N, the trials with a checkpoint: 130 Ctrl-C, 143 SIGTERM."""


def _seeds(text: str) -> tuple[int, ...]:
    """Seeds as a list, 0,1,2, or as their number."""
    if ',' not in text:
        return tuple(range(arguments.positive(text)))
    return tuple(arguments.natural(each) for each in text.split(',') if each)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('experiment', metavar='EXPERIMENT', help=EXPERIMENT_HELP)
    arguments.add_settings(parser)
    parser.add_argument(
        '--engine-set',
        action='append',
        default=[],
        metavar='FIELD=VALUE',
        help='slurm, xpk: how the cluster is used, such as partition=main or tpu_type=v5litepod-16; the fields are '
        'those of sweeps.engines.slurm.Slurm and sweeps.engines.xpk.Xpk',
    )
    parser.add_argument(
        '--manifests',
        metavar='FOLDER',
        help='xpk: write the manifests of the trials there, and submit nothing; asks no cluster',
    )
    parser.add_argument(
        '--workdir',
        metavar='DIR',
        help='the directory of the sweep, local or gs:// (default: runs/STEM-sweep, by the name of the file)',
    )
    parser.add_argument('--show', action='store_true', help='train nothing; show the arms, their cost and what exists')
    parser.add_argument('--seeds', type=_seeds, metavar='N', help='how many seeds, from 0; or a list, such as 0,1,7')
    parser.add_argument('--baseline', metavar='ARM', help='the arm with which the others are compared')
    parser.add_argument('--metric', metavar='EVALUATION/METRIC', help='what is compared, such as validation/loss')
    parser.add_argument('--retry', action='store_true', help='also run the trials that failed before')
    _add_halving(parser)
    _add_places(parser)
    cost = parser.add_argument_group('cost')
    arguments.add_budget(cost, 'spend no more than this in all: 2.5usd or 3chip-hours')
    cost.add_argument(
        '--topology', metavar='SLICE', help='the slice that each trial runs on, such as v5e-4 or h100:1, for its price'
    )


def _add_halving(parser: argparse.ArgumentParser) -> None:
    early = parser.add_argument_group('early stopping')
    early.add_argument(
        '--halving',
        action=argparse.BooleanOptionalAction,
        help='stop arms that cannot win any more before their end, by intervals over the seeds (default: as the sweep '
        'says). --no-halving: train every arm to its end, those that were stopped included',
    )
    early.add_argument(
        '--continue',
        dest='continued',
        action='append',
        metavar='ARM',
        help='an arm that halving does not stop, or that it stopped and that is to be trained to its end',
    )


def _add_places(parser: argparse.ArgumentParser) -> None:
    where = parser.add_argument_group('where the trials run')
    where.add_argument('--engine', choices=ENGINES, default='local', help='local: on this machine (default)')
    where.add_argument(
        '--jobs',
        type=arguments.positive,
        metavar='N',
        help='local: trials at a time, each with its share of the cores or accelerators (default: one for each core, '
        'or for each group of accelerators that a mesh needs)',
    )
    where.add_argument(
        '--together',
        action=argparse.BooleanOptionalAction,
        help='local: a process trains one trial after another, and compiles a program that several of them share once '
        '(default: on the CPU). --no-together: each trial has a process of its own',
    )
    arguments.add_simulated_devices(parser)


def run(options: argparse.Namespace) -> int:
    """Runs the sweep, and says how it ended.

    Returns:
      1 if a trial failed; 128 + the number of the signal that stopped it; else 0.
    """
    from bigmodel_jax import verbs
    from bigmodel_jax.cli import process
    from bigmodel_jax.sweeps import sweep_directory

    process.use_cpu()  # The accelerators are for the trials.
    _check_options(options)
    chosen, on = _sweep(options), _slice(options)
    if options.show:
        _show(options, chosen, on)
        return 0
    source = sweep_directory.Invocation(options.experiment, tuple(options.set), tuple(options.arg))
    if options.manifests:
        return _write_manifests(options, chosen, source)
    limits = _limits(options, chosen, on)
    how: dict[str, typing.Any] = {'engine': _engine(options), 'source': source, 'limits': limits}
    end = verbs.sweep(chosen, workdir(options), retry=options.retry, **how)
    return _say(options, end)


def _check_options(options: argparse.Namespace) -> None:
    """Raises InputError for options that would be ignored."""
    if options.engine == 'local':
        arguments.refuse_ignored(options, ('engine_set',), 'only with --engine slurm or xpk')
        arguments.refuse_ignored(options, ('manifests',), 'only with --engine xpk')
    else:
        arguments.refuse_ignored(options, ('jobs', 'together', 'simulate_devices'), 'only with --engine local')
    if options.show:
        arguments.refuse_ignored(options, ('manifests', 'retry', 'budget'), 'not with --show, which trains nothing')
    elif options.manifests:
        arguments.refuse_ignored(options, ('retry', 'budget'), 'not with --manifests, which submits nothing')
    if not options.budget and not options.show:
        arguments.refuse_ignored(options, ('topology', 'prices'), 'only with --show or --budget')
    if options.topology is None:
        arguments.refuse_ignored(options, ('prices',), 'only with --topology')


def workdir(options: argparse.Namespace) -> str:
    """The directory of the sweep."""
    import pathlib

    from bigmodel_jax import experiment_file

    return options.workdir or f'runs/{pathlib.Path(experiment_file.parse(options.experiment)[0]).stem}-sweep'


def _sweep(options: argparse.Namespace) -> 'Sweep':
    """The sweep of the experiment file, with what the command line says instead."""
    from bigmodel_jax.sweeps import sweep

    named = {'seeds': options.seeds, 'baseline': options.baseline, 'metric': options.metric}
    given = {name: value for name, value in named.items() if value is not None}
    if options.continued:
        given['continued'] = tuple(options.continued)
    return sweep.load(options.experiment, options.set, options.arg, halves=options.halving, **given)


def _slice(options: argparse.Namespace) -> 'Slice | None':
    from bigmodel_jax.plan.hardware import slices

    return None if options.topology is None else slices.parse(options.topology)


def _engine(options: argparse.Namespace) -> 'Engine':
    """The engine of that name."""
    from bigmodel_jax.sweeps.engines import choosing, local

    if options.engine in choosing.CLUSTERS:
        return choosing.cluster(options.engine, options.engine_set)
    return local.Local(processes=options.jobs, simulate_devices=options.simulate_devices, together=options.together)


def _write_manifests(options: argparse.Namespace, chosen: 'Sweep', source: 'Invocation') -> int:
    """Writes the sweep's directory, and the manifests of its trials into a folder."""
    from bigmodel_jax import config
    from bigmodel_jax.console import terminal
    from bigmodel_jax.sweeps import sweep_directory, trials
    from bigmodel_jax.sweeps.engines import xpk

    engine = _engine(options)
    if not isinstance(engine, xpk.Xpk):
        raise config.InputError('--manifests needs --engine xpk.')
    directory = sweep_directory.described(workdir(options), chosen, trials.trials(chosen), source)
    xpk.check_remote(directory.path)
    directory.write()
    for path in engine.manifests(directory, directory.description.trials, options.manifests):
        print(terminal.printable(path))
    return 0


def _limits(options: argparse.Namespace, chosen: 'Sweep', on: 'Slice | None') -> list['Limit']:
    """What keeps the sweep within what was asked for.

    Raises:
      InputError: the budget cannot be estimated.
    """
    from bigmodel_jax import config
    from bigmodel_jax.plan.hardware import prices
    from bigmodel_jax.sweeps.engines import devices
    from bigmodel_jax.sweeps.planning import budgets
    from bigmodel_jax.train.monitoring import budget

    text = arguments.budget(options)
    if text is None:
        return []
    limit = budget.parse(text)
    if on is None and (options.engine != 'local' or devices.accelerators().kind != 'cpu'):
        raise config.InputError('--budget needs --topology SLICE: on which chips does a trial run? Such as v5e-4.')
    return [budgets.limit(limit, chosen, on, prices.table(options.prices) if options.prices else None)]


def _show(options: argparse.Namespace, chosen: 'Sweep', on: 'Slice | None') -> None:
    """Prints what would be trained."""
    import pathlib

    from bigmodel_jax.console import terminal
    from bigmodel_jax.plan.hardware import prices
    from bigmodel_jax.sweeps import trials
    from bigmodel_jax.sweeps.planning import preview

    table = prices.table(options.prices) if options.prices else None
    roots = list(dict.fromkeys([str(pathlib.Path(workdir(options)).parent)]))
    made = trials.trials(chosen)
    console = terminal.Console()
    console.print(preview.render(preview.preview(chosen, made, workdir(options), on=on, table=table, roots=roots)))


def _say(options: argparse.Namespace, end: 'SweepEnd') -> int:
    """Prints what came of the sweep, and how it ended."""
    from bigmodel_jax import verbs
    from bigmodel_jax.console import terminal
    from bigmodel_jax.hosts import preemption
    from bigmodel_jax.sweeps.reporting import screen

    console = terminal.Console()
    for failure in end.failed:
        console.print(str(failure))
    answer = verbs.answer(workdir(options))
    report = verbs.write_answer(answer)
    console.print(screen.shown(answer))
    for reason in dict.fromkeys(end.held.values()):
        held = [entry.name for entry, why in end.held.items() if why == reason]
        count = f'{len(held)} trials are' if len(held) > 1 else '1 trial is'
        console.print(f'{count} not finished: {reason}.')
    if end.message:
        console.print(end.message)
    console.print(f'report: {report}')
    return 1 if end.failed and end.stopped_by is None else preemption.status(end.stopped_by)


VERB = Verb('train the arms of a sweep with every seed, or continue it', _add_arguments, run, EPILOG)
