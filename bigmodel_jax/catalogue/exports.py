"""CSV and JSON of a catalogue: the same bytes for the same runs, whatever program reads them."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bigmodel_jax.catalogue import outcomes
from bigmodel_jax.console import terminal

# What a spreadsheet takes for the beginning of a formula, which may send data away.
FORMULA = ('=', '+', '-', '@', '\t', '\r')

Row = Mapping[str, Any]


def to_csv(rows: Sequence[Row], names: Sequence[str]) -> str:
    """A line for the names of the columns, and one for each row; nan and infinities as 'nan', 'inf' and '-inf'.

    Text that a spreadsheet would execute has an apostrophe before it.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow([_cell(name) for name in names])
    writer.writerows([_cell(row.get(name)) for name in names] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ''
    if isinstance(value, bool | int | float):
        return str(value)
    shown = terminal.printable(value)
    return f"'{shown}" if shown.startswith(FORMULA) else shown


def to_json(rows: Sequence[Row]) -> str:
    """A list with an object for each row; nan and infinities, which JSON has not, as the texts 'nan', 'inf', '-inf'."""
    if not rows:
        return '[]\n'
    return '[\n' + ',\n'.join(json.dumps(_finite(dict(row)), allow_nan=False) for row in rows) + '\n]\n'


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


def group_rows(found: Sequence[outcomes.RunGroup]) -> list[dict[str, Any]]:
    """The groups of runs as rows."""
    rows = []
    for each in found:
        spreads = {f'{name} {what}': part for name, s in each.metrics.items() for what, part in s._asdict().items()}
        rows.append({**each.values, 'runs': each.runs, 'finished': each.finished, **spreads})
    return rows


def tried_rows(found: Sequence[outcomes.TriedValue]) -> list[dict[str, Any]]:
    """The values that a field has had as rows."""
    rows = []
    for each in found:
        about = {'value': each.value, 'text': each.text, 'runs': each.runs, 'finished': each.finished}
        rows.append({**about, 'names': list(each.names), 'metric': each.metric, **each.outcome._asdict()})
    return rows
