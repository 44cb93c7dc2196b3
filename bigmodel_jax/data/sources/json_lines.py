"""Lines of JSON, an object each."""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import records, splits
from bigmodel_jax.data.sources import files, record_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class JsonLines(records.Source):
    """Every line of the files that match a pattern is a JSON object. Files may be compressed, as *.jsonl.gz is."""

    pattern: str
    part: splits.Subset | None = None

    def open(self) -> records.Records:
        found = [record_files.record_file(path) for path in files.matches(self.pattern)]
        if not sum(len(each.lines.starts) for each in found):
            raise config.InputError(f'No file that matches {self.pattern} has a line that is not blank.')
        return records.selected(JsonRecords(self.pattern, found), self.part)


class JsonRecords(record_files.FileRecords):
    """Lines of JSON."""

    def __init__(self, name: str, found: Sequence[record_files.RecordFile]):
        super().__init__(name, found, [each.lines.starts for each in found], [each.lines.ends for each in found])
        self.fingerprint = {'sha256': [each.sha256 for each in found]}

    def parse(self, content: bytes, number: int, starts: np.ndarray, ends: np.ndarray) -> list[records.Record]:
        found: list[records.Record] = []
        for start, end in zip(starts.tolist(), ends.tolist()):
            try:
                record = json.loads(content[start - starts[0] : end - starts[0]])
            except (ValueError, RecursionError) as error:  # Of JSON and of UTF-8.
                raise config.InputError(f'{self.line(number, start)} is not JSON: {error}.') from error
            if not isinstance(record, dict):
                kind = type(record).__name__
                raise config.InputError(f'{self.line(number, start)} is a JSON {kind}, not an object.')
            found.append(record)
        return found
