"""verify: a run, or a part of it, repeated and compared bit for bit."""

import argparse

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_run(parser, settings=False)
    arguments.add_simulated_devices(parser)
    parser.add_argument('--keep', metavar='DIR', help='repeat in this new directory, and keep it')
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        '--steps', type=arguments.positive, metavar='N', help='the first N steps (default: all that it ran)'
    )
    which.add_argument(
        '--between', type=arguments.natural, nargs=2, metavar=('A', 'B'), help='from checkpoint A to step B'
    )


def run(options: argparse.Namespace) -> int:
    """Prints whether a run comes out the same; returns 0 if it does, 1 if not."""
    from bigmodel_jax import verbs
    from bigmodel_jax.console import terminal
    from bigmodel_jax.reproduce import verify_view

    console = terminal.Console()
    found = verbs.verify(
        options.run,
        steps=options.steps,
        between=None if options.between is None else tuple(options.between),
        experiment_file=options.experiment,
        keep=options.keep,
        say=terminal.Console(stderr=True, style='yellow').print,
    )
    console.print(verify_view.verification(found))
    return 0 if found.identical else 1


VERB = Verb('repeat a run, or a part of it, and compare it bit for bit', _add_arguments, run, file_as='option')
