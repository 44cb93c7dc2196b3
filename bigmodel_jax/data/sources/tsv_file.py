"""Tables without quoting, as those of GLUE: a row on each line, and tabs between columns that are numbered."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel_jax import config
from bigmodel_jax.data import records, splits
from bigmodel_jax.data.sources import files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tsv(records.Source):
    """A UTF-8 file with a row on each line and tabs between columns, whose names are 0, 1, 2 ... No quoting.

    For files whose first line names the columns, and whose cells may be quoted, use Csv(separator='\\t').
    """

    path: str
    header: bool = False  # Whether the first line names the columns; it is left out.
    part: splits.Subset | None = None

    def open(self) -> records.Records:
        path = files.path_of(self.path)
        content, identity = files.read_text(path)
        # Not splitlines(), which also splits at characters that occur within sentences.
        lines = content.replace('\r\n', '\n').split('\n')
        numbered = [(number, line) for number, line in enumerate(lines, 1) if line][self.header :]
        if not numbered:
            raise config.InputError(f'{path} holds no row.')
        return records.selected(TsvRecords(str(path), numbered, identity), self.part)


class TsvRecords(records.Records):
    """Lines in memory, with their numbers."""

    def __init__(self, name: str, numbered: Sequence[tuple[int, str]], fingerprint: Mapping[str, Any]):
        self.name, self.fingerprint, self._numbered = name, fingerprint, numbered

    def __len__(self) -> int:
        return len(self._numbered)

    def read(self, start: int, stop: int) -> list[records.Record]:
        return [dict(enumerate(line.split('\t'))) for _, line in self._numbered[start:stop]]

    def where(self, index: int) -> str:
        return f'{self.name}, line {self._numbered[index][0]}'
