"""The command line: `python -m bigmodel_jax VERB ...`. Finds the verb and imports only what it needs."""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel_jax import __version__, cli
from bigmodel_jax.cli import completion, help_text, verb
from bigmodel_jax.console import output


class _PrintCompletion(argparse.Action):
    """Prints the completion script of a shell, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        try:
            print(completion.script(parser, values))
        except ImportError:
            parser.error('completion needs shtab, which is not installed: pip install shtab')
        parser.exit()


def parser(verbs: Mapping[str, verb.Verb] | None = None) -> argparse.ArgumentParser:
    """The parser of the command line.

    Args:
      verbs: those that it knows; None: all.
    """
    top = argparse.ArgumentParser(
        prog='bigmodel_jax' if pathlib.PurePath(sys.argv[0]).name == 'bigmodel_jax' else 'python -m bigmodel_jax',
        description='Trains large models in JAX, from an experiment file to a report.',
        epilog='An experiment file also runs by itself: python experiments/quickstart.py train --workdir runs/q',
        formatter_class=help_text.HelpText,
        allow_abbrev=False,
    )
    top.add_argument('--version', action='version', version=f'bigmodel_jax {__version__}')
    top.add_argument(
        '--print-completion',
        choices=completion.SHELLS,
        action=_PrintCompletion,
        help='print what makes a shell complete these commands on Tab, as in '
        'bigmodel_jax --print-completion bash >> ~/.bash_completion',
    )
    subparsers = top.add_subparsers(dest='verb', metavar='VERB', required=True)
    for name, found in (verb.every() if verbs is None else verbs).items():
        sub = subparsers.add_parser(
            name,
            help=found.summary,
            description=f'{found.summary[0].upper()}{found.summary[1:]}.',
            epilog=found.epilog,
            formatter_class=help_text.HelpText,
            allow_abbrev=False,
        )
        found.add_arguments(sub)
        sub.add_argument('--debug', action='store_true', help='with an error, also print its whole traceback')
    return top


def with_file(arguments: Sequence[str], file: str) -> list[str]:
    """The arguments of an experiment file that runs by itself, with that file among them.

    `FILE.py train :smoke ...` is `train FILE.py:smoke ...`, and `FILE.py evaluate RUN` is `evaluate RUN --experiment
    FILE.py`.
    """
    words = list(arguments)
    if not words or words[0] not in cli.VERBS:
        return words
    named = file + (words.pop(1) if words[1:] and words[1].startswith(':') else '')
    where = verb.find(words[0]).file_as
    if where == 'positional':
        words.insert(1, named)
    elif where == 'option':
        words += ['--experiment', named]
    return words


def main(file: str | None = None, argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status; see cli/process.py.

    Args:
      file: the experiment file that calls this to run by itself.
      argv: the arguments; by default the command line's.
    """
    if argv is None:
        with output.outlasting():
            return main(file, sys.argv[1:])
    arguments = list(argv) if file is None else with_file(argv, file)
    known = {name: verb.find(name) for name in arguments[:1] if name in cli.VERBS}
    options = parser(known or None).parse_args(arguments)
    chosen = known[options.verb]
    if chosen.prepare is not None:
        chosen.prepare(options)
    if not chosen.uses_jax:
        return chosen.run(options) or 0
    from bigmodel_jax.cli import process  # Only now, so that --help starts at once.

    return process.run(chosen, options)


if __name__ == '__main__':
    sys.exit(main())
