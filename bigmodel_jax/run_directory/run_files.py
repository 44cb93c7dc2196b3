"""experiment.json and environment.json as they are read: whole, of the right types, or told field by field."""

import datetime
import json
from collections.abc import Sequence
from typing import Annotated, Any, NotRequired

import annotated_types
import pydantic
from etils import epath
from typing_extensions import TypedDict  # Pydantic wants this one before Python 3.12.

from bigmodel_jax.run_directory.record_types import Step
from bigmodel_jax.storage import durable_files

DEEPEST = 100  # Levels of JSON.
Count = Annotated[int, annotated_types.Ge(1), annotated_types.Lt(2**53)]


class StoredExperiment(TypedDict):
    """What is read of an experiment without its classes; config.from_json() checks all of it."""

    name: str
    steps: Count
    seed: NotRequired[int]
    mesh: NotRequired[dict[str, Any]]
    data: NotRequired[dict[str, Any]]
    model: NotRequired[dict[str, Any]]
    evaluations: NotRequired[list[Any]]


class Untracked(TypedDict):
    """The files that git does not know."""

    count: int
    code: dict[str, str]


class Git(TypedDict):
    """The state of a repository, see run_directory/git.py."""

    commit: str
    branch: NotRequired[str | None]
    dirty: NotRequired[bool | None]
    diff: NotRequired[str | None]
    untracked: NotRequired[Untracked | None]


class Package(TypedDict):
    """The code of this package, see run_directory/code.py."""

    version: str
    sha256: str


class StoredCode(TypedDict):
    """The code of a session, see run_directory/code.py."""

    package: Package
    files: dict[str, str]
    experiment_file: str | None
    path: str | None
    unknown: list[str]


class Device(TypedDict):
    """Devices of one kind."""

    kind: str
    count: Count


class StoredSession(TypedDict):
    """An entry of environment.json, see run_directory/environment.py."""

    started: str
    step: Step
    mesh: dict[str, Count]
    command: NotRequired[list[str]]
    python: NotRequired[str]
    platform: NotRequired[str]
    versions: NotRequired[dict[str, str]]
    backend: NotRequired[str]
    devices: NotRequired[list[Device]]
    processes: NotRequired[Count]
    xla_flags: NotRequired[str | None]
    libtpu_flags: NotRequired[str | None]
    git: NotRequired[Git | None]
    code: NotRequired[StoredCode]
    data: NotRequired[dict[str, Any]]
    tokenizer: NotRequired[dict[str, Any] | None]
    evaluations: NotRequired[dict[str, dict[str, Any]]]
    parameters: NotRequired[int | None]


_EXPERIMENT = pydantic.TypeAdapter(StoredExperiment)
_SESSIONS = pydantic.TypeAdapter(list[StoredSession])


def experiment(workdir: epath.Path) -> dict[str, Any]:
    """What experiment.json holds.

    Raises:
      InputError: it cannot be read.
      DamagedFile: it is not as it was written.
    """
    return _checked(workdir / durable_files.EXPERIMENT, _EXPERIMENT)


def environment(workdir: epath.Path) -> list[dict[str, Any]]:
    """What environment.json holds, an entry for each session; nothing if there is none.

    Raises:
      InputError: it cannot be read.
      DamagedFile: it is not as it was written.
    """
    path = workdir / durable_files.ENVIRONMENT
    if not durable_files.exists(path):
        return []
    found = _checked(path, _SESSIONS)
    for number, entry in enumerate(found):
        try:
            datetime.datetime.fromisoformat(entry['started']).timestamp()
        except (ValueError, OverflowError) as error:
            raise durable_files.DamagedFile(f'{path} is damaged: {number}.started: {error}.') from None
    return found


def _checked(path: epath.Path, adapter: pydantic.TypeAdapter) -> Any:
    value = durable_files.read_json(path)
    if _depth([value]) > DEEPEST:
        raise durable_files.DamagedFile(f'{path} is damaged: it is nested too deeply.')
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise durable_files.DamagedFile(
            f'{path} is damaged: it holds half of a surrogate pair, which is not text.'
        ) from None
    try:
        adapter.validate_python(value, strict=True)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = '.'.join(map(str, first['loc'])) or 'the whole'
        raise durable_files.DamagedFile(f'{path} is damaged: {where}: {first["msg"].removeprefix("Input ")}.') from None
    return value


def _depth(level: Sequence[Any]) -> int:
    """How many levels of lists and objects there are, counted to one more than DEEPEST."""
    depth = 0
    while level and depth <= DEEPEST:
        inner = [each for each in level if isinstance(each, (dict, list))]
        level = [child for each in inner for child in (each.values() if isinstance(each, dict) else each)]
        depth += 1
    return depth
