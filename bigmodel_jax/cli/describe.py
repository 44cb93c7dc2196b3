"""describe: every array of the training state; or the tokens of the data."""

import argparse

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_experiment(parser)
    arguments.add_simulated_devices(parser)
    parser.add_argument(
        '--tokens', type=arguments.positive, metavar='ROWS',
        help='print instead the first rows of the training data token by token, and which tokens carry loss',
    )  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Prints every array, or the tokens of some rows."""
    from bigmodel_jax import verbs
    from bigmodel_jax.console import terminal
    from bigmodel_jax.report import describe as descriptions

    if options.tokens is not None:
        for each in verbs.tokens(arguments.load_experiment(options), options.tokens):
            terminal.Console().print(f'{each}\n', soft_wrap=True)
        return
    groups = verbs.describe(arguments.load_experiment(options))
    terminal.Console().print(descriptions.render(groups), soft_wrap=True)


VERB = Verb('list every array: shape, dtype, logical axes, sharding, bytes per device', _add_arguments, run)
