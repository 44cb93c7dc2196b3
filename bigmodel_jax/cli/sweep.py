"""sweep: train the arms of a sweep with every seed, or continue it."""

import argparse
import typing

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb

if typing.TYPE_CHECKING:
    from bigmodel_jax.sweeps.engines.engine import Engine
    from bigmodel_jax.sweeps.running import SweepEnd
    from bigmodel_jax.sweeps.sweep import Sweep
    from bigmodel_jax.sweeps.sweep_directory import Invocation

ENGINES = ('local', 'slurm', 'xpk')
EXPERIMENT_HELP = """\
an experiment file, as FILE.py[:FUNCTION[/ARM,ARM]]; the function is sweep() unless another is named, and returns a
dict of experiments by name, or a Sweep. With /ARM,ARM only these arms and the baseline are trained"""
EPILOG = """\
The same command continues a sweep that was interrupted: finished trials are never run again, the others resume.
Arms and seeds may be added; trials whose experiment did not change keep their results.

exit status: 0 every trial is finished, or the rest is held back by the budget; 1 a trial failed; 2 wrong input;
128 + N stopped by signal N, the trials with a checkpoint: 130 Ctrl-C, 143 SIGTERM."""


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
        help='slurm, xpk: how the cluster is used, such as partition=main or tpu_type=v5litepod-16; the fields are\n'
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
    parser.add_argument(
        '--engine', choices=ENGINES, default='local', help='where the trials run: local, on this machine (default)'
    )
    parser.add_argument(
        '--jobs',
        type=arguments.positive,
        metavar='N',
        help='local: trials at a time, each with its share of the cores or accelerators (default: one for each core,\n'
        'or for each accelerator)',
    )
    arguments.add_simulated_devices(parser)
    parser.add_argument('--seeds', type=_seeds, metavar='N', help='how many seeds, from 0; or a list, such as 0,1,7')
    parser.add_argument('--baseline', metavar='ARM', help='the arm with which the others are compared')
    parser.add_argument('--metric', metavar='EVALUATION/METRIC', help='what is compared, such as validation/loss')
    parser.add_argument('--retry', action='store_true', help='also run the trials that failed before')


def run(options: argparse.Namespace) -> int:
    """Runs the sweep, and says how it ended.

    Returns:
      1 if a trial failed; 128 + the number of the signal that stopped it; else 0.
    """
    from bigmodel_jax import verbs
    from bigmodel_jax.cli import process
    from bigmodel_jax.sweeps import sweep_directory

    chosen = _sweep(options)
    engine = _engine(options)
    process.use_cpu()
    source = sweep_directory.Invocation(options.experiment, tuple(options.set), tuple(options.arg))
    if options.manifests:
        return _write_manifests(options, chosen, source)
    end = verbs.sweep(chosen, workdir(options), engine=engine, source=source, retry=options.retry)
    return _say(options, end)


def _sweep(options: argparse.Namespace) -> 'Sweep':
    """The sweep of the experiment file, with what the command line says instead."""

    from bigmodel_jax.sweeps import sweep

    named = {'seeds': options.seeds, 'baseline': options.baseline, 'metric': options.metric}
    given = {name: value for name, value in named.items() if value is not None}
    return sweep.load(options.experiment, options.set, options.arg, **given)


def workdir(options: argparse.Namespace) -> str:
    """The directory of the sweep."""
    import pathlib

    from bigmodel_jax import experiment_file

    return options.workdir or f'runs/{pathlib.Path(experiment_file.parse(options.experiment)[0]).stem}-sweep'


def _engine(options: argparse.Namespace) -> 'Engine':
    """The engine of that name."""
    from bigmodel_jax import config
    from bigmodel_jax.sweeps.engines import choosing, local

    if options.engine in choosing.CLUSTERS:
        return choosing.cluster(options.engine, options.engine_set)
    if options.engine_set or options.manifests:
        raise config.InputError('--engine-set is for --engine slurm and xpk, and --manifests for xpk.')
    return local.Local(processes=options.jobs, simulate_devices=options.simulate_devices)


def _write_manifests(options: argparse.Namespace, chosen: 'Sweep', source: 'Invocation') -> int:
    """Writes the sweep's directory, and the manifests of its trials into a folder."""
    from bigmodel_jax import config
    from bigmodel_jax.console import terminal
    from bigmodel_jax.sweeps import sweep_directory, trials
    from bigmodel_jax.sweeps.engines import xpk

    engine = _engine(options)
    if not isinstance(engine, xpk.Xpk):
        raise config.InputError('--manifests needs --engine xpk.')
    xpk.check_remote(workdir(options))
    directory = sweep_directory.create(workdir(options), chosen, trials.trials(chosen), source)
    for path in engine.manifests(directory, directory.description.trials, options.manifests):
        print(terminal.printable(path))
    return 0


def _say(options: argparse.Namespace, end: 'SweepEnd') -> int:
    from bigmodel_jax.console import terminal
    from bigmodel_jax.hosts import preemption

    for failure in end.failed:
        print(terminal.printable(failure))
    for reason in dict.fromkeys(end.held.values()):
        held = [entry.name for entry, why in end.held.items() if why == reason]
        print(f'{len(held)} trials are not finished: {reason}.')
    if end.message:
        print(end.message)
    print(f'sweep: {workdir(options)}')
    return 1 if end.failed and end.stopped_by is None else preemption.status(end.stopped_by)


VERB = Verb('train the arms of a sweep with every seed, or continue it', _add_arguments, run, EPILOG)
