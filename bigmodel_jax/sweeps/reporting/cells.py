"""A table that knows where each of its cells comes from, before it is written in any format."""

import itertools
from typing import Literal, NamedTuple

Look = Literal['', 'better', 'worse', 'open']


class ResultCell(NamedTuple):
    """What stands in a cell.

    Attributes:
      arm: of which it says something; '' if of none.
      runs: names of the trials that the number is from.
      look: how the verdict that it states is shown; never the only sign of it.
    """

    text: str
    arm: str = ''
    runs: tuple[str, ...] = ()
    look: Look = ''


class ResultColumn(NamedTuple):
    """A heading, below that of a group of columns if there is one; numbers stand to the right."""

    heading: str
    right: bool = True
    group: str = ''


class ColumnGroup(NamedTuple):
    """Columns that stand together below one heading, which is '' for those without."""

    heading: str
    first: int
    width: int  # In columns.


class ResultTable(NamedTuple):
    """A table with its caption and the notes below it, as plain text."""

    caption: str
    columns: tuple[ResultColumn, ...]
    rows: tuple[tuple[ResultCell, ...], ...]
    notes: tuple[str, ...] = ()

    @property
    def groups(self) -> tuple[ColumnGroup, ...]:
        """The columns in groups, in their order; empty if no column is in one."""
        if not any(column.group for column in self.columns):
            return ()
        runs = [(name, len(list(found))) for name, found in itertools.groupby(column.group for column in self.columns)]
        ends = itertools.accumulate(count for _, count in runs)
        return tuple(ColumnGroup(name, end - count, count) for (name, count), end in zip(runs, ends))

    @property
    def headings(self) -> list[str]:
        """The headings where there is one line for them; the first column of a group says which group it is."""
        firsts = {group.first: group.heading for group in self.groups if group.heading}
        return [
            f'{firsts[index]}: {column.heading}' if index in firsts else column.heading
            for index, column in enumerate(self.columns)
        ]
