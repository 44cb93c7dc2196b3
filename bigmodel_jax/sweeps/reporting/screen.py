"""The answer of a sweep on a terminal of 80 columns."""

import rich.box
import rich.console
import rich.table
from rich import text

from bigmodel_jax.sweeps.reporting import tables
from bigmodel_jax.sweeps.reporting.answer import SweepAnswer
from bigmodel_jax.sweeps.reporting.cells import ResultTable

WIDTH = 80
NAME_WIDTH = 20  # Of the name of an arm, at least.
HEADING_WIDTH = 16  # Of a column, at most, in one line.
STYLES = {'better': 'green', 'worse': 'red', 'open': 'dim', '': ''}


def shown(answer: SweepAnswer) -> rich.console.Group:
    """The comparisons, the paper's tables if there are any, and a verdict in words for each arm."""
    papers = [table for table in (tables.papers(answer), tables.paper_effects(answer)) if table is not None]
    verdicts = [f'{arm.arm}: {found.verdict}.' for arm, found in answer.compared]
    verdicts += [f'{arm.arm}: stopped early, {why}.' for arm, why in answer.stopped]
    parts = [_table(part) for table in (tables.comparisons(answer), *papers) for part in _fitting(table)]
    return rich.console.Group(*parts, *map(text.Text, [*verdicts, answer.pairing, answer.pairing_gain, answer.state]))


def _fitting(table: ResultTable) -> list[ResultTable]:
    """The table; or, if it has groups of columns and is too wide, one of each group, the last with the notes."""
    groups = [group for group in table.groups if group.heading]
    if not groups or rich.console.Console(width=10 * WIDTH).measure(_drawn(table)).minimum <= WIDTH:
        return [table]
    found = []
    for group in groups:
        which = (0, *range(group.first, group.first + group.width))
        rows = tuple(tuple(row[index] for index in which) for row in table.rows)
        columns = tuple(table.columns[index]._replace(group='') for index in which)
        notes = table.notes if group == groups[-1] else ()
        found.append(ResultTable(f'{table.caption.removesuffix(".")}: {group.heading}', columns, rows, notes))
    return found


def _table(table: ResultTable) -> rich.console.Group:
    return rich.console.Group(text.Text(table.caption), _drawn(table), *map(text.Text, table.notes))


def _drawn(table: ResultTable) -> rich.table.Table:
    drawn = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style='bold')
    for index, (heading, column) in enumerate(zip(table.headings, table.columns)):
        if index:
            drawn.add_column(_heading(heading), justify='right' if column.right else 'left', no_wrap=True)
            continue
        longest = max(len(row[0].text) for row in table.rows)
        # The name of an arm is folded where it is long, and never cut.
        drawn.add_column(text.Text(heading), overflow='fold', min_width=min(longest, NAME_WIDTH))
    for row in table.rows:
        drawn.add_row(*(text.Text(cell.text, style=STYLES[cell.look]) for cell in row))
    return drawn


def _heading(words: str) -> text.Text:
    """A heading in several lines, if it is long."""
    return text.Text(words if len(words) <= HEADING_WIDTH else words.replace('/', '/\n').replace(' ', '\n'))
