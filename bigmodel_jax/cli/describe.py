"""describe: every array of the training state."""

import argparse

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_experiment(parser)
    arguments.add_simulated_devices(parser)


def run(options: argparse.Namespace) -> None:
    """Prints every array."""
    from bigmodel_jax import verbs
    from bigmodel_jax.console import terminal
    from bigmodel_jax.report import describe as descriptions

    groups = verbs.describe(arguments.load_experiment(options))
    terminal.Console().print(descriptions.render(groups), soft_wrap=True)


VERB = Verb('list every array: shape, dtype, logical axes, sharding, bytes per device', _add_arguments, run)
