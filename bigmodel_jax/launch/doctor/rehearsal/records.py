"""What each process of a rehearsal writes down as it goes, so that it is known even if the process is killed."""

import dataclasses
import json
import pathlib
import time
from typing import Any, NamedTuple

from bigmodel_jax import config

ORDER = 'order.json'
# Kinds of records.
STAGE, PROCESSES, CONFIGURATION, AGAIN, BATCHES, PROGRAM, WRITE, STATE, FAILED, STARTS, DONE = (
    'stage', 'processes', 'configuration', 'again', 'batches', 'program', 'write', 'state', 'failed', 'starts', 'done',
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class RehearsalOrder(config.Value):
    """What is rehearsed.

    Attributes:
      asked: FILE.py[:FUNCTION[/ARM]] that is to be launched, of which only the config is compared.
      smoke: FILE.py:FUNCTION that is run.
      settings, arguments: of `asked`, as of --set and --arg.
      hosts, devices: how many processes, each with so many simulated devices.
    """

    asked: str
    smoke: str
    settings: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    hosts: int
    devices: int = 1

    def write(self, folder: pathlib.Path) -> None:
        """Writes it where the processes read it."""
        (folder / ORDER).write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def read(cls, folder: pathlib.Path) -> 'RehearsalOrder':
        """As it was written."""
        made = json.loads((folder / ORDER).read_text())
        return cls(**made | {name: tuple(made[name]) for name in ('settings', 'arguments')})


class CodeLine(NamedTuple):
    """A line of a person's own code."""

    file: str
    line: int
    function: str
    text: str

    def __str__(self) -> str:
        inside = f', in {self.function}' if self.function not in ('', '<module>') else ''
        return f'{pathlib.PurePath(self.file).name}, line {self.line}{inside}: `{self.text}`'


class Recorder:
    """Appends records to the file of a host."""

    def __init__(self, folder: pathlib.Path, host: int):
        self._file = path(folder, host).open('a', encoding='utf-8')

    def add(self, kind: str, **what: Any) -> None:
        """Adds one, JSON-ready."""
        self._file.write(json.dumps({'kind': kind, 'at': time.time(), **what}) + '\n')
        self._file.flush()


def path(folder: pathlib.Path, host: int) -> pathlib.Path:
    return folder / f'host-{host}.jsonl'


def stacks(folder: pathlib.Path, host: int) -> pathlib.Path:
    """The file with the stacks of a host that waits for ever."""
    return folder / f'stacks-{host}.txt'


def printed(folder: pathlib.Path, host: int) -> pathlib.Path:
    """The file with what a host printed."""
    return folder / f'printed-{host}.txt'


def program_text(folder: pathlib.Path, name: str, host: int, turn: int = 0) -> pathlib.Path:
    """The file with a program that is not the same everywhere."""
    return folder / f'program-{name}-{host}-{turn}.txt'


class HostRecords:
    """The records of one host, read back."""

    def __init__(self, folder: pathlib.Path, host: int):
        self.host = host
        file = path(folder, host)
        lines = file.read_text(encoding='utf-8').splitlines() if file.exists() else []
        self._records: list[dict[str, Any]] = [json.loads(line) for line in lines if line.endswith('}')]

    def all(self, kind: str) -> list[dict[str, Any]]:
        """The records of a kind, in order."""
        return [each for each in self._records if each['kind'] == kind]

    def last(self, kind: str) -> dict[str, Any] | None:
        """The last record of a kind."""
        found = self.all(kind)
        return found[-1] if found else None

    @property
    def stage(self) -> str:
        """What the host was doing when it was last heard of."""
        found = self.last(STAGE)
        return found['name'] if found else 'starting'
