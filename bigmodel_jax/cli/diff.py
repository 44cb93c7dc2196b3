"""The verb that only reads: `diff`. It starts at once, as it needs no JAX."""

import argparse
import json

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.console import terminal
from bigmodel_jax.reproduce import diff as diffs
from bigmodel_jax.reproduce import diff_view
from bigmodel_jax.runs import directory


def diff(options: argparse.Namespace) -> int:
    """Prints where two runs differ; returns 0 if they are identical, 1 if not, 2 if one is no run."""
    try:
        found = diffs.compare(*(directory.open_run(path) for path in (options.run_a, options.run_b)))
        if options.json:
            write(options.json, found)
    except config.InputError as error:
        terminal.explain(error, debug=options.debug)
        return 2
    terminal.Console().print(diff_view.render(found))
    return 0 if found.identical else 1


def write(path: str, found: diffs.Diff) -> None:
    """Writes a diff as JSON.

    Raises:
      InputError: the file cannot be written.
    """
    try:
        epath.Path(path).write_text(json.dumps(found.to_json(), indent=1, allow_nan=False) + '\n')
    except OSError as error:
        raise config.InputError(f'--json {path} cannot be written: {error}.') from error
