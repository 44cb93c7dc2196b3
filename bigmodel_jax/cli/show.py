"""show: the whole experiment as it will run."""

import argparse

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_experiment(parser)
    arguments.add_simulated_devices(parser)


def run(options: argparse.Namespace) -> None:
    """Prints the experiment, its number of parameters, and how attention is computed on its mesh."""
    from bigmodel_jax import compatibility, tree, verbs
    from bigmodel_jax.console import terminal
    from bigmodel_jax.report import show as shown

    experiment = compatibility.check(arguments.load_experiment(options))
    console = terminal.Console()
    console.print(tree.render(experiment), soft_wrap=True)
    console.print(f'\n{verbs.parameters(experiment):,} parameters')
    for line in shown.attention(experiment):
        console.print(line, soft_wrap=True)


VERB = Verb('show the whole experiment, its parameters, and where each value came from', _add_arguments, run)
