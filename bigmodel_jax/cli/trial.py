"""trial: train one trial of a sweep, or resume it. Engines start it; a person can, to see how a trial fails."""

import argparse
import sys
import typing

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb

if typing.TYPE_CHECKING:
    from bigmodel_jax.train.loop import TrainingResult

EPILOG = """\
exit status: that of train. The experiment is the one that the sweep's directory describes; the experiment file is \
only loaded for the parts that it defines, and refused if these have changed since the sweep was started."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('sweep', metavar='SWEEP', help='the directory of the sweep')
    parser.add_argument(
        'trial',
        metavar='NAME',
        help='the name of the trial, as the sweep lists it; - trains those that the local engine asks for on standard '
        'input, in one process',
    )
    parser.add_argument(
        '--stop-after', type=arguments.positive, metavar='STEP', help='stop after this step with a checkpoint'
    )
    parser.add_argument(
        '--end-with', type=arguments.positive, metavar='PID', help='end at once when that process, its parent, ends'
    )
    arguments.add_simulated_devices(parser)
    arguments.add_hosts(parser)


def _end_with_parent(options: argparse.Namespace) -> None:
    from bigmodel_jax.hosts import parents

    if options.end_with is not None:
        parents.end_with(options.end_with)


def run(options: argparse.Namespace) -> int:
    """Trains, and says how it ended.

    Returns:
      1 if a log is not on disk; else 128 + the number of the signal that stopped it, or 0.
    """
    import os

    from bigmodel_jax.sweeps import sweep_directory, worker

    sweep = sweep_directory.open_sweep(options.sweep)
    if options.trial == worker.REQUESTS:
        with os.fdopen(os.dup(sys.stdout.fileno()), 'wb') as answers:
            return worker.serve(sweep, sys.stdin.buffer, answers, _status)
    return _status(worker.Worker(sweep).run(options.trial, stop_after=options.stop_after))


def _status(result: 'TrainingResult') -> int:
    """Says how a trial ended, and returns its exit status."""
    from bigmodel_jax.hosts import preemption, processes

    if processes.is_first():
        print(f'digest of the state at step {result.step}: {result.digest}')
        for sentence in result.unwritten:
            print(f'incomplete: {sentence}', file=sys.stderr)
    return 1 if result.unwritten else preemption.status(result.stopped_by)


VERB = Verb(
    'train one trial of a sweep, or resume it',
    _add_arguments,
    run,
    EPILOG,
    file_as=None,
    prepare=_end_with_parent,
    several_hosts=True,
)
