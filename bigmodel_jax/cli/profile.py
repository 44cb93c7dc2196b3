"""profile: some steps of a run once more with the profiler, and where their time went."""

import argparse

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_run(parser, settings=False)
    arguments.add_simulated_devices(parser)
    parser.add_argument(
        '--steps',
        type=arguments.step_range,
        metavar='FIRST:LAST',
        help='trace these steps with jax.profiler into RUN/profile; they are trained again in a temporary directory, '
        'from the newest checkpoint before them (default: explain the newest trace that is there, such as one of '
        'train --profile)',
    )


def run(options: argparse.Namespace) -> None:
    """Prints where the time of the steps went."""
    from bigmodel_jax import verbs
    from bigmodel_jax.console import terminal
    from bigmodel_jax.report.profile import profile_view

    found = verbs.profile(
        options.run,
        options.steps,
        experiment_file=options.experiment,
        say=terminal.Console(stderr=True, style='dim').print,
    )
    terminal.Console().print(profile_view.profiled(found))


VERB = Verb('trace some steps of a run again, and say where their time went', _add_arguments, run, file_as='option')
