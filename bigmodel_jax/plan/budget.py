"""What every shipped experiment needs on its slice, recorded; and whether that has drifted."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from bigmodel_jax import config
from bigmodel_jax.plan import estimates

TOLERANCE = 0.02
FIELDS = ('peak_bytes', 'flops', 'model_flops', 'collective_bytes')


class Drift(NamedTuple):
    """A recorded number that is no longer so."""

    entry: str
    field: str
    recorded: float
    found: float

    def __str__(self) -> str:
        change = f'{self.found / self.recorded - 1:+.1%}' if self.recorded else 'from nothing'
        return f'{self.entry}: {self.field} was {self.recorded:,.0f}, is {self.found:,.0f} ({change})'


def numbers(program: estimates.Program) -> dict[str, float]:
    """What is recorded of a program; per chip and step."""
    return {
        'peak_bytes': float(program.memory.peak),
        'flops': program.counts.flops,
        'model_flops': program.counts.model_flops,
        'collective_bytes': float(sum(each.bytes * each.times for each in program.counts.collectives)),
    }


def drifts(entry: str, recorded: Mapping[str, float], found: Mapping[str, float]) -> list[Drift]:
    """The fields that changed by more than TOLERANCE."""
    return [
        Drift(entry, field, recorded[field], found[field])
        for field in FIELDS
        if abs(found[field] - recorded[field]) > TOLERANCE * abs(recorded[field])
    ]


def read(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """The entries of a budget file: 'gpt2.py:experiment' -> {'topology': ..., 'analytic': {...}, 'compiled': {...}}.

    Raises:
      InputError: an entry names no topology.
    """
    found = json.loads(path.read_text(encoding='utf-8'))
    for entry, values in found.items():
        if 'topology' not in values:
            raise config.InputError(f'{path}: {entry} needs a topology, such as "v5e:4x4".')
    return found


def write(path: pathlib.Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    path.write_text(json.dumps(entries, indent=2) + '\n', encoding='utf-8')
