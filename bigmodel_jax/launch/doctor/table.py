"""The results as a table on the terminal."""

from collections import Counter
from collections.abc import Sequence

import rich.console
import rich.table
import rich.text

from bigmodel_jax.launch.doctor import results

STYLES = {
    results.Level.OK: 'green',
    results.Level.NOT_CHECKED: 'dim',
    results.Level.WARNING: 'yellow',
    results.Level.FAULT: 'bold red',
}


def render(found: Sequence[results.CheckResult]) -> rich.console.Group:
    """A row for each result, and their numbers."""
    rows = rich.table.Table.grid(padding=(0, 2))
    rows.add_column(no_wrap=True)
    rows.add_column(no_wrap=True)
    rows.add_column(overflow='fold')
    for each in found:
        because = 'because ' if each.level is results.Level.NOT_CHECKED else ''
        text = rich.text.Text(f'{because}{each.message}')
        if each.advice:
            text.append(f'\n-> {each.advice}', style='bold' if each.level is results.Level.FAULT else '')
        rows.add_row(rich.text.Text(each.level.value, STYLES[each.level]), rich.text.Text(each.check), text)
    return rich.console.Group(rows, '', rich.text.Text(summary(found)))


def summary(found: Sequence[results.CheckResult]) -> str:
    """'1 fault, 2 not checked, 9 ok.'"""
    counts = Counter(each.level for each in found)
    words = {results.Level.FAULT: 'fault', results.Level.WARNING: 'warning'}
    parts = [
        f'{counts[level]} {words.get(level, level.value)}{"s" if level in words and counts[level] > 1 else ""}'
        for level in reversed(results.Level)
        if counts[level]
    ]
    return f'{", ".join(parts)}.'
