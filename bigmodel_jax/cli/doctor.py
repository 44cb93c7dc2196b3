"""doctor: look for what would go wrong in a launch, before anything is rented."""

import argparse

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb

EPILOG = """\
--on, --workdir, --set and --arg are as of launch. Programs of the target are asked with a limit of 20 seconds each.
What could not be checked is said to be so, and is no fault.

exit status: 0 no fault, 1 faults, 2 wrong input."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_experiment(parser)
    parser.add_argument('--on', required=True, metavar='TARGET', help='where it is to be launched; see launch --help')
    parser.add_argument('--workdir', required=True, metavar='DIR', help='of the run; gs:// for machines of a cloud')
    parser.add_argument(
        '--secret', action='append', default=[], metavar='NAME', help='a variable that the run needs; see launch --help'
    )
    parser.add_argument('--fast', action='store_true', help='the memory by formula, without the TPU compiler')
    parser.add_argument(
        '--hosts',
        type=arguments.natural,
        metavar='N',
        help='run smoke() of the file as N processes on this machine; 0: not at all (default: as many as the '
        'target has hosts; at most 4, and on 2 cores 2)',
    )
    parser.add_argument('--json', action='store_true', help='print a JSON object for each check instead of a table')


def run(options: argparse.Namespace) -> int:
    """Prints what was found.

    Returns:
      1 if there is a fault, else 0.
    """
    import dataclasses
    import json

    from bigmodel_jax.cli import process
    from bigmodel_jax.console import terminal
    from bigmodel_jax.launch.doctor import doctor, results, table
    from bigmodel_jax.launch.targets import target

    process.use_cpu()
    request = doctor.LaunchRequest(
        experiment=options.experiment,
        on=target.parse(options.on),
        workdir=options.workdir,
        settings=tuple(options.set),
        arguments=tuple(options.arg),
        secrets=tuple(options.secret),
        fast=options.fast,
        hosts=options.hosts,
    )
    say = terminal.Console(stderr=True, style='dim').print
    found = list(doctor.examine(request, say=say))
    if options.json:
        for each in found:
            print(json.dumps(dataclasses.asdict(each) | {'level': each.level.value}))
    else:
        terminal.Console().print(table.render(found))
    return 1 if any(each.level is results.Level.FAULT for each in found) else 0


VERB = Verb('look for what would go wrong in a launch, before anything is rented', _add_arguments, run, EPILOG)
