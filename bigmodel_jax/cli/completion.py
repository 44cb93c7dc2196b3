"""Completion of the command line in bash, zsh and tcsh."""

import argparse
from collections.abc import Iterator

SHELLS = ('bash', 'zsh', 'tcsh')
PATHS = (
    'EXPERIMENT',
    'FILE',
    'FILE[:FUNCTION]',
    'DIR',
    'RUN',
    'RUN_A',
    'RUN_B',
    'SRC',
    'DST',
    'ROOT',
)  # Files.


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What a shell has to read to complete the commands of a parser.

    Raises:
      ImportError: shtab is not installed.
    """
    import shtab  # Only now: no other command needs it.

    parser.prog = 'bigmodel_jax'  # Shells complete the name of a program, and this is the one that is installed.
    for action in _actions(parser):
        if action.metavar in PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]  # This is how shtab is told.
    return shtab.complete(parser, shell)


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _actions(each)
