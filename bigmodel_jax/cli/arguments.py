"""Arguments that several verbs share, and the types of arguments."""

import argparse
import typing
from collections.abc import Sequence

if typing.TYPE_CHECKING:
    from bigmodel_jax.experiment import Experiment

LARGEST = 2**31 - 1  # Steps, tokens and the like are 32-bit integers on the devices.
EXPERIMENT_HELP = """\
an experiment file, as FILE.py[:FUNCTION[/ARM]]; the function is experiment() unless another is named:
  quickstart.py                its experiment()
  gpt2.py:smoke                its smoke(), short
  pods.py:sweep/llama2_7b_v5e  one arm of its sweep()"""


def positive(text: str) -> int:
    """A whole number from 1, as an argument."""
    return _whole(text, least=1)


def natural(text: str) -> int:
    """A whole number from 0, as an argument."""
    return _whole(text, least=0)


def _whole(text: str, *, least: int) -> int:
    if not text.isascii() or not text.isdecimal() or not least <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from {least} to {LARGEST:,}')
    return int(text)


def step_range(text: str) -> tuple[int, int]:
    """Steps as FIRST:LAST, as an argument."""
    first, colon, last = text.partition(':')
    if not colon:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form FIRST:LAST, such as 11:15')
    return positive(first), positive(last)


RUN_BUDGET_HELP = """\
stop with a checkpoint before all sessions of this run together have spent more than this: 2.5usd or 3chip-hours; \
a device of a CPU counts as one chip"""


def add_budget(parser: 'argparse._ActionsContainer', help_text: str) -> None:
    """--budget and --prices; budget() reads the first."""
    parser.add_argument('--budget', action='append', default=[], metavar='AMOUNT', help=help_text)
    parser.add_argument(
        '--prices', metavar='FILE', help='your own prices, a JSON file like plan/hardware/prices.json of this package'
    )


def budget(options: argparse.Namespace) -> str | None:
    """What --budget says; None without one.

    Raises:
      InputError: it is given more than once, such as in both units.
    """
    from bigmodel_jax import config

    if len(options.budget) > 1:
        raise config.InputError(
            f'--budget is given {len(options.budget)} times: {", ".join(options.budget)}. A budget is in dollars or in '
            'chip-hours; give one.'
        )
    return options.budget[0] if options.budget else None


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """EXPERIMENT, --set and --arg."""
    parser.add_argument('experiment', metavar='EXPERIMENT', help=EXPERIMENT_HELP)
    add_settings(parser)


def add_run(parser: argparse.ArgumentParser, *, settings: bool) -> None:
    """RUN and --experiment; with `settings` also --set and --arg, which change that experiment."""
    parser.add_argument('run', metavar='RUN', help='the directory of the run, local or gs://')
    parser.add_argument(
        '--experiment',
        metavar='FILE[:FUNCTION]',
        help='the experiment file. The run holds its experiment, so this is needed only if the file defines parts of '
        'its own' + (', or to change the experiment' if settings else '. A named function must return that experiment'),
    )
    if settings:
        add_settings(parser)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """--set and --arg."""
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='PATH=VALUE',
        help='change a field, for example optimizer.schedule.peak=1e-3 or "model.block.ffn=Gated(hidden=256)"; '
        'may be given several times, and is recorded',
    )
    parser.add_argument(
        '--arg',
        action='append',
        default=[],
        metavar='NAME=VALUE',
        help="an argument of the experiment's function, where it takes any, such as path=input.txt",
    )


def add_simulated_devices(parser: argparse.ArgumentParser) -> None:
    """--simulate-devices."""
    parser.add_argument(
        '--simulate-devices',
        type=positive,
        metavar='N',
        help='split the CPU into N devices, to try a mesh on this machine',
    )


def add_hosts(parser: argparse.ArgumentParser) -> None:
    """What a process must know to find the others."""
    group = parser.add_argument_group(
        'several hosts',
        'One process on each. On Cloud TPU, Slurm and GKE they find each other; elsewhere give all three. '
        'To try it on this machine: scripts/simulate_hosts --help.',
    )
    group.add_argument('--coordinator', metavar='HOST:PORT', help='where the others reach process 0; a free port there')
    group.add_argument('--processes', type=positive, metavar='N', help='how many processes there are')
    group.add_argument('--process', type=natural, metavar='I', help='which one this is, from 0')


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """--step, which chooses a checkpoint."""
    parser.add_argument('--step', type=natural, metavar='N', help='the checkpoint of this step (default: the newest)')


def refuse_ignored(options: argparse.Namespace, names: Sequence[str], why: str) -> None:
    """Refuses options that would have no effect with the others.

    Args:
      names: of them, as the namespace has them; one counts as given if it is not None, False or an empty list.
      why: when they have an effect, such as 'only with --search'.

    Raises:
      InputError: one of them was given.
    """
    from bigmodel_jax import config

    values = {name: getattr(options, name) for name in names}
    flags = [
        f'--{name.replace("_", "-")}'
        for name, value in values.items()
        if value is not None and value is not False and value != []
    ]
    if flags:
        raise config.InputError(f'{" and ".join(flags)}: {why}.')


def load_experiment(options: argparse.Namespace) -> 'Experiment':
    """The experiment named on the command line."""
    from bigmodel_jax import experiment_file

    return experiment_file.load(options.experiment, options.set, options.arg)


def load_experiment_of_run(options: argparse.Namespace) -> 'Experiment | None':
    """The experiment named by --experiment; None leaves it to the run.

    Raises:
      InputError: --set or --arg without --experiment.
    """
    from bigmodel_jax import config

    if options.experiment is not None:
        return load_experiment(options)
    if options.set or options.arg:
        raise config.InputError('--set and --arg change an experiment; name it too: --experiment FILE.py.')
    return None


def add_address(parser: argparse.ArgumentParser, *, port: int) -> None:
    """--host, --port and --allow-host: where a server is reached, and under which names."""
    add = parser.add_argument
    add(
        '--host',
        default='127.0.0.1',
        metavar='ADDRESS',
        help='of this machine (default: 127.0.0.1, which only this machine reaches)',
    )
    add('--port', type=natural, default=port, metavar='N', help=f'default: {port}; 0 takes any that is free')
    add(
        '--allow-host',
        action='append',
        default=[],
        metavar='NAME',
        help='a name under which others reach this machine, beside its addresses; may be given several times',
    )
