"""What a work directory holds, by name, and its JSON files."""

import json
from typing import Any

from etils import epath

from bigmodel_jax import config

EXPERIMENT, ENVIRONMENT, CHECKPOINTS = 'experiment.json', 'environment.json', 'checkpoints'
TRACE = 'trace.jsonl'
SESSION = 'session.json'  # Of a checkpoint: the entry of environment.json of the session that saved it.


def read_json(path: epath.Path) -> Any:
    """The content of a JSON file of a run.

    Raises:
      InputError: it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except ValueError as error:  # Not JSON, or not even UTF-8.
        raise config.InputError(f'{path} is damaged: {error}. Restore it, or use another --workdir.') from error


def encode_json(value: Any) -> bytes:
    """The content of a JSON file of a run."""
    return (json.dumps(value, indent=1, allow_nan=False) + '\n').encode()


def write_json(path: epath.Path, value: Any) -> None:
    """Writes a file that is either the old one or the new one, whatever happens."""
    partial = path.parent / f'{path.name}.partial'
    partial.write_bytes(encode_json(value))
    partial.replace(path)
