"""replay: one step of a run once more, example by example."""

import argparse

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_run(parser, settings=False)
    arguments.add_simulated_devices(parser)
    parser.add_argument(
        '--step', type=arguments.positive, required=True, metavar='K', help='which step; the first is 1'
    )
    parser.add_argument(
        '--skipped',
        type=arguments.natural,
        metavar='N',
        help='as the step was with N batches skipped before it, for a step that a roll-back has replaced '
        '(default: the step that holds)',
    )
    parser.add_argument(
        '--examples',
        type=arguments.positive,
        default=8,
        metavar='N',
        help='show the N examples of the largest loss (default: 8)',
    )


def run(options: argparse.Namespace) -> int:
    """Prints what a step was; returns 1 if it is not what the run recorded."""
    from bigmodel_jax import verbs
    from bigmodel_jax.console import terminal
    from bigmodel_jax.reproduce import verify_view

    found = verbs.replay(options.run, options.step, skipped=options.skipped, experiment_file=options.experiment)
    terminal.Console().print(verify_view.replayed(found, options.examples))
    return 1 if found.identical is False else 0


VERB = Verb(
    'run one step of a run again, and show the examples of its batch with their losses',
    _add_arguments,
    run,
    file_as='option',
)
