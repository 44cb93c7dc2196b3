"""report: report.html of a run, or of a sweep."""

import argparse
import sys
import typing

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb

if typing.TYPE_CHECKING:
    from bigmodel_jax.runs.directory import Run


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_run(parser, settings=True)
    parser.add_argument(
        '--seeds',
        nargs='+',
        default=[],
        metavar='DIR',
        help='other runs that differ in the seed alone: the numbers of the paper are judged with their interval',
    )


def run(options: argparse.Namespace) -> None:
    """Writes the report and prints its path; before that, the verdicts on the run, or a sweep's arms."""
    from bigmodel_jax import verbs
    from bigmodel_jax.cli import process
    from bigmodel_jax.console import terminal
    from bigmodel_jax.papers import claims_screen
    from bigmodel_jax.runs import requirements

    process.use_cpu()
    if verbs.is_sweep(options.run):
        _report_sweep(options)
        return
    arguments.load_experiment_of_run(options)  # Loads the parts of its own that the file defines.
    found = verbs.judge(options.run, options.seeds)
    _note(verbs.open_run(options.run))
    if found:
        terminal.Console().print(claims_screen.judged(found), soft_wrap=True)
    required = requirements.judge(verbs.open_run(options.run))
    if required:
        terminal.Console().print(claims_screen.required(required), soft_wrap=True, end='')
    print(verbs.write_report(options.run, seeds=options.seeds))


def _report_sweep(options: argparse.Namespace) -> None:
    """Prints the table of a sweep and the path of its report."""
    from bigmodel_jax import config, verbs
    from bigmodel_jax.console import terminal
    from bigmodel_jax.sweeps.reporting import screen

    if options.seeds or options.experiment or options.set or options.arg:
        raise config.InputError(
            f'{options.run} is the directory of a sweep, which has its seeds and experiments. --seeds, --experiment, '
            '--set and --arg are for the report of a run: leave them out.'
        )
    found = verbs.answer(options.run)
    terminal.Console().print(screen.shown(found))
    print(verbs.write_answer(found))


def _note(run: 'Run') -> None:
    """Says on stderr what the report lacks."""
    from bigmodel_jax.console import terminal

    if run.unloaded:
        print(f'note: no claim is judged. {terminal.printable(run.unloaded)}', file=sys.stderr)
    for sentence in run.damage:
        print(f'warning: {terminal.printable(sentence)}', file=sys.stderr)


VERB = Verb(
    'write report.html: curves, samples, experiment, environment, a verdict on each claim of the paper, and '
    'whether the run meets what its experiment requires; of a sweep, the arms against the baseline, with tables '
    'and plots',
    _add_arguments,
    run,
    file_as='option',
)
