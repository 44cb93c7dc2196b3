"""`python -m bigmodel_jax.hosts N [DEVICES] -- train ...`: the command line of scripts/simulate_hosts."""

import argparse
import sys
from collections.abc import Sequence

from bigmodel_jax.console import output
from bigmodel_jax.hosts import simulation

VERBS = ('train', 'evaluate')
EXAMPLE = 'scripts/simulate_hosts 2 4 -- train experiments/quickstart.py:smoke --workdir runs/two --set mesh.data=-1'


def parser() -> argparse.ArgumentParser:
    """The parser of the arguments before `--`."""
    top = argparse.ArgumentParser(
        prog='scripts/simulate_hosts',
        usage='%(prog)s [-h] HOSTS [DEVICES] -- train|evaluate ...',
        description=(
            'Runs train or evaluate as on several hosts: HOSTS real processes on this machine, each with DEVICES\n'
            'simulated CPU devices, that compute together. Each line of output begins with its host. Ctrl-C and\n'
            'other signals go to all; when one fails, the others end, and the exit status is its.'
        ),
        epilog=f'What follows the -- is as for python -m bigmodel_jax. Two hosts with four devices each:\n  {EXAMPLE}',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    top.add_argument('hosts', metavar='HOSTS', type=_positive, help='how many processes')
    top.add_argument(
        'devices', metavar='DEVICES', type=_positive, nargs='?', default=1, help='of each process (default: 1)'
    )
    return top


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a positive number')
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the hosts; returns the exit status: 0, that of the first host that failed, or 2 for wrong input."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    cut = arguments.index('--') if '--' in arguments else len(arguments)
    options, verb = parser().parse_args(arguments[:cut]), arguments[cut + 1 :]
    if not verb or verb[0] not in VERBS:
        parser().error(f'after a -- name what to run, {" or ".join(VERBS)}; for example {EXAMPLE}')
    command = [sys.executable, '-m', 'bigmodel_jax', *verb]
    with output.outlasting():
        return simulation.run(command, hosts=options.hosts, devices=options.devices)


if __name__ == '__main__':
    sys.exit(main())
