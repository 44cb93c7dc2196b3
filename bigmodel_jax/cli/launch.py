"""launch: start a run on other machines and see it through preemptions; or show what would be done."""

import argparse
import dataclasses
import typing
from collections.abc import Mapping

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb

if typing.TYPE_CHECKING:
    from bigmodel_jax.experiment import Experiment
    from bigmodel_jax.launch.states import LaunchBudget, Record

EPILOG = """\
targets, each with its fields as in Python; bigmodel_jax.launch.targets describes them:
  ThisMachine()
  SimulatedHosts(hosts=4)
  SlurmNodes(partition='main', nodes=2, gres='gpu:8')
  CloudTpu(type='v5litepod-16', zone='us-west4-a', project='PROJECT', spot=True)
  Gke(cluster='pods', project='PROJECT', zone='us-west4-a', type='v5litepod-16', image='IMAGE', slices=2)
  SkyPilot(type='v5litepod-16')

Before anything is rented, `doctor` with the same arguments looks for what would go wrong.

The code that runs is the repository of the experiment with its uncommitted changes, which each host compares with its
hash. The same command goes on watching a launch; Ctrl-C only ends the watching. While nobody watches, a preempted run
is not started again, except by Slurm, GKE and SkyPilot, which do so themselves.

exit status: 0 done, or what was asked; 1 failed; 2 wrong input; 3 ended by its --budget; 130 Ctrl-C."""


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = 0.0
    if not 0 < hours < 1e6:
        raise argparse.ArgumentTypeError(f'{text!r} is not a number of hours')
    return hours


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('experiment', metavar='EXPERIMENT', nargs='?', help=arguments.EXPERIMENT_HELP)
    arguments.add_settings(parser)
    parser.add_argument('--on', metavar='TARGET', help='where, such as "CloudTpu(type=\'v5litepod-16\', ...)"')
    parser.add_argument('--workdir', required=True, metavar='DIR', help='of the run; gs:// for machines of a cloud')
    parser.add_argument('--sweep', action='store_true', help='launch the sweep of the file, on a target with one host')
    parser.add_argument(
        '--secret',
        action='append',
        default=[],
        metavar='NAME',
        help='a variable that the run needs, by its name alone; may be given several times. CloudTpu: a secret of '
        'Secret Manager; Slurm and SkyPilot: a variable of this process',
    )
    parser.add_argument('--dry-run', action='store_true', help='print every file and command, and start nothing')
    budget = parser.add_argument_group('budget')
    budget.add_argument(
        '--attempts', type=arguments.positive, metavar='N', help='ask for machines so often (default: 20)'
    )
    budget.add_argument('--hours', type=_hours, metavar='H', help='with machines, of all attempts (default: 24)')
    arguments.add_budget(budget, arguments.RUN_BUDGET_HELP)
    later = parser.add_mutually_exclusive_group()
    later.add_argument('--status', action='store_true', help='say how the launch with this --workdir is')
    later.add_argument('--logs', action='store_true', help='print what its hosts printed')
    later.add_argument('--stop', action='store_true', help='end it, and wait until nothing of it is left')


def run(options: argparse.Namespace) -> int:
    """Launches, or asks about a launch, which needs no JAX.

    Returns:
      0 if the run is done, or what was asked was answered; 3 if its budget ended it; 2 for wrong input; else 1.
    """
    if not (options.status or options.logs or options.stop):
        from bigmodel_jax.cli import process

        return process.run(VERB._replace(run=_launch), options)
    from bigmodel_jax import config
    from bigmodel_jax.console import terminal

    try:
        return _answer(options)
    except config.InputError as error:
        terminal.explain(error, debug=options.debug)
        return 2
    except KeyboardInterrupt:
        return 130


def _answer(options: argparse.Namespace) -> int:
    """Says how a launch is, shows its logs, or ends it; returns the exit status."""
    from bigmodel_jax.launch import launching

    _check_question(options)
    folder = launching.folder_of(options.workdir)
    if options.logs:
        _say(launching.logs(folder))
        return 0
    if options.stop:
        return _exit_status(launching.stop(folder, say=_say), asked_to_stop=True)
    record = launching.open_launch(folder)[1]
    for line in launching.history(record):
        _say(line)
    _say(launching.describe(record))
    return 0


def _check_question(options: argparse.Namespace) -> None:
    """Raises InputError for options that a question about a launch, or its end, would ignore."""
    for name in ('status', 'logs', 'stop'):
        if getattr(options, name):
            ignored = ('on', 'set', 'arg', 'sweep', 'secret', 'dry_run', 'attempts', 'hours', 'budget', 'prices')
            arguments.refuse_ignored(options, ignored, f'not with --{name}, which is about a launch that was made')


def _launch(options: argparse.Namespace) -> int:
    """Checks the experiment, and launches it or shows how; returns the exit status."""
    from bigmodel_jax import config
    from bigmodel_jax.cli import process
    from bigmodel_jax.console import terminal
    from bigmodel_jax.launch import dry_run, launching, spending
    from bigmodel_jax.launch.targets import target
    from bigmodel_jax.plan.hardware import prices

    process.use_cpu()  # The accelerators are for the run.
    if options.experiment is None or options.on is None:
        raise config.InputError('Name what to launch and where: launch EXPERIMENT --on "TARGET(...)" --workdir DIR.')
    on, budget = target.parse(options.on), _budget(options)
    text, table = arguments.budget(options), prices.table(options.prices) if options.prices else None
    given = {'settings': options.set, 'arguments': options.arg, 'secrets': options.secret}
    job, packed = launching.prepare(
        options.experiment, options.workdir, verb='sweep' if options.sweep else 'train', **given
    )
    on.check(job)
    arms = _arms(options)
    limit = spending.NONE if text is None else spending.hand_on(text, on, arms, sweep=options.sweep, table=table)
    job = dataclasses.replace(job, options=limit.options)
    if options.dry_run:
        folder = str(launching.folder_of(job.workdir))
        shown = dry_run.render(job, on, budget=budget, folder=folder, table=table, spending=limit.sentence)
        print(terminal.printable(shown), end='')
        return 0
    for sentence in filter(None, (dry_run.price(on, budget, table), limit.sentence)):
        _say(sentence)
    if on.foreground:
        launching.run_here(job, on, packed.root)
    try:
        return _exit_status(launching.launch(job, packed, on, budget=budget, say=_say))
    except KeyboardInterrupt:
        _say('The run goes on. The same command watches it again; launch --stop --workdir DIR ends it.')
        raise


def _budget(options: argparse.Namespace) -> 'LaunchBudget':
    from bigmodel_jax.launch import states

    given = {'attempts': options.attempts, 'hours': options.hours}
    return states.LaunchBudget(**{name: value for name, value in given.items() if value is not None})


def _arms(options: argparse.Namespace) -> 'Mapping[str, Experiment]':
    """The experiments that are launched, checked, by name."""
    from bigmodel_jax import experiment_file
    from bigmodel_jax.sweeps import sweep

    if options.sweep:
        return sweep.load(options.experiment, options.set, options.arg).arms
    return {'': experiment_file.load(options.experiment, options.set, options.arg)}


def _say(text: str) -> None:
    from bigmodel_jax.console import terminal

    print(terminal.printable(text), flush=True)


def _exit_status(record: 'Record', asked_to_stop: bool = False) -> int:
    from bigmodel_jax.hosts import exit_status
    from bigmodel_jax.launch.states import LaunchState

    if record.state is LaunchState.SPENT:
        return exit_status.SPENT
    return 0 if record.state is LaunchState.DONE or (asked_to_stop and record.state is LaunchState.STOPPED) else 1


VERB = Verb(
    'start a run on other machines, and start it again when it is preempted',
    _add_arguments,
    run,
    EPILOG,
    uses_jax=False,  # Only a launch itself does.
)
