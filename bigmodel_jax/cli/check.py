"""check: an experiment against the claims of its paper."""

import argparse

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_experiment(parser)
    arguments.add_simulated_devices(parser)
    parser.add_argument('--json', metavar='FILE', help='also write the verdicts to this file')


def run(options: argparse.Namespace) -> int:
    """Prints each claim of the paper with its verdict; returns 1 if one differs."""
    from bigmodel_jax import experiment_file, verbs
    from bigmodel_jax.cli import process
    from bigmodel_jax.console import terminal
    from bigmodel_jax.papers import checks, claims_screen

    process.use_cpu()
    experiments, asked = experiment_file.load_arms(options.experiment, options.set, options.arg)
    found = verbs.check(experiments, asked)
    terminal.Console().print(claims_screen.checked(found), soft_wrap=True)
    if options.json:
        checks.write(options.json, found)
    return 1 if any(each.verdict == checks.DIFFERS for each in found) else 0


VERB = Verb(
    'compare an experiment with what its paper says, claim by claim; needs neither data nor memory', _add_arguments, run
)
