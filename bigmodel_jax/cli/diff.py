"""diff: where two runs differ. It starts at once, as it needs no JAX."""

import argparse
import json
import typing

from bigmodel_jax.cli.verb import Verb

if typing.TYPE_CHECKING:
    from bigmodel_jax.reproduce.diff import Diff


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('run_a', metavar='RUN_A', help='the directory of a run, local or gs://')
    parser.add_argument('run_b', metavar='RUN_B', help='the directory of another')
    parser.add_argument('--json', metavar='FILE', help='also write what was found to this file')


def run(options: argparse.Namespace) -> int:
    """Prints where two runs differ; returns 0 if they are identical, 1 if not, 2 if one is no run."""
    from bigmodel_jax import config
    from bigmodel_jax.console import terminal
    from bigmodel_jax.reproduce import diff as diffs
    from bigmodel_jax.reproduce import diff_view
    from bigmodel_jax.runs import directory

    try:
        found = diffs.compare(*(directory.open_run(path) for path in (options.run_a, options.run_b)))
        if options.json:
            write(options.json, found)
    except config.InputError as error:
        terminal.explain(error, debug=options.debug)
        return 2
    terminal.Console().print(diff_view.render(found))
    return 0 if found.identical else 1


def write(path: str, found: 'Diff') -> None:
    """Writes a diff as JSON.

    Raises:
      InputError: the file cannot be written.
    """
    from etils import epath

    from bigmodel_jax import config

    try:
        epath.Path(path).write_text(json.dumps(found.to_json(), indent=1, allow_nan=False) + '\n')
    except OSError as error:
        raise config.InputError(f'--json {path} cannot be written: {error}.') from error


VERB = Verb(
    'show where two runs differ, and why, from what they recorded', _add_arguments, run, file_as=None, uses_jax=False
)
