"""train: train, or resume."""

import argparse
import sys
import typing

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb

if typing.TYPE_CHECKING:
    from bigmodel_jax.experiment import Experiment
    from bigmodel_jax.train.monitoring.budget import RunBudget

STATUS = """\
exit status: 0 done, or stopped by --stop-after; 1 the training failed; 2 wrong input; 3 stopped with a checkpoint, \
as the --budget is spent; \
128 + N stopped by signal N, with a checkpoint: 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 138 SIGUSR1, 140 SIGUSR2. \
The same command then resumes the run."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_experiment(parser)
    parser.add_argument(
        '--workdir',
        required=True,
        metavar='DIR',
        help='the directory of the run, local or gs://; a run that is there is resumed',
    )
    arguments.add_simulated_devices(parser)
    arguments.add_hosts(parser)
    parser.add_argument(
        '--stop-after', type=arguments.positive, metavar='STEP', help='stop with a checkpoint after this step'
    )
    parser.add_argument(
        '--new-segment',
        action='store_true',
        help='continue the run in --workdir with another experiment or other data from its last checkpoint, '
        'such as another optimizer, schedule or text. Weights, step and tokenizer stay, and the state of the '
        'optimizer where it fits; the steps before are kept as an earlier segment of the run. Not needed for '
        'other evaluations, or for more steps where the learning rates stay the same',
    )
    arguments.add_budget(parser, arguments.RUN_BUDGET_HELP)
    parser.add_argument('--wandb', metavar='PROJECT', help='also log to this project of Weights & Biases')
    parser.add_argument(
        '--profile',
        type=arguments.step_range,
        metavar='FIRST:LAST',
        help='trace these steps on the first host with jax.profiler into DIR/profile, for XProf, TensorBoard or '
        'Perfetto. The first step of a session also compiles; choose later ones. Changes no result',
    )


def run(options: argparse.Namespace) -> int:
    """Trains, and says how it ended and where everything is.

    Returns:
      1 if a log is not on disk; else 128 + the number of the signal that stopped it, 3 if that was the budget, or 0.
    """
    from bigmodel_jax import config, verbs
    from bigmodel_jax.console import terminal
    from bigmodel_jax.hosts import preemption, processes
    from bigmodel_jax.storage import durable_files
    from bigmodel_jax.train import loop
    from bigmodel_jax.train.monitoring import progress

    experiment = processes.run_on_all(lambda: arguments.load_experiment(options))
    result = loop.train(
        experiment,
        options.workdir,
        stop_after=options.stop_after,
        wandb=options.wandb,
        new_segment=options.new_segment,
        profile=options.profile,
        budget=processes.run_on_all(lambda: _budget(options, experiment)),
    )
    if not processes.is_first():
        return preemption.status(result.stopped_by)
    for name, value in result.metrics.items():
        print(f'{terminal.printable(name)}: {progress.short(value)}')
    print(f'digest of the state at step {result.step}: {result.digest}')
    try:
        print(f'report: {verbs.write_report(result.workdir)}')
    except (config.InputError, OSError) as error:  # What was trained is as good without it.
        print(f'no report: {durable_files.brief(error)}', file=sys.stderr)
    if result.finished_early is not None:
        print(f'finished early at step {result.step} of {experiment.steps}: {result.finished_early}.')
    elif result.stopped_by is not None:
        changes = {'stop_after': ' without --stop-after', 'budget': ' with a larger --budget'}
        again = f'the same command{changes.get(result.stopped_by, "")}'
        print(f'stopped by {result.stopped_by} at step {result.step} of {experiment.steps}; {again} resumes it.')
    if result.unwritten:
        print(f'incomplete: {"; ".join(result.unwritten)}. The checkpoints are complete.', file=sys.stderr)
    return 1 if result.unwritten else preemption.status(result.stopped_by)


def _budget(options: argparse.Namespace, experiment: 'Experiment') -> 'RunBudget | None':
    """What the run may spend; None if that is not limited.

    Raises:
      InputError: it is no budget, or the chips have no price.
    """
    text = arguments.budget(options)
    if text is None:
        arguments.refuse_ignored(options, ('prices',), 'only with --budget')
        return None
    from bigmodel_jax.plan import run_budget
    from bigmodel_jax.plan.hardware import prices

    return run_budget.of(text, experiment, prices.table(options.prices) if options.prices else None)


VERB = Verb(
    'train, or resume from the newest checkpoint in the work directory',
    _add_arguments,
    run,
    epilog=STATUS,
    several_hosts=True,
)
