"""A table that knows where each of its cells comes from, before it is written in any format."""

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
    """A heading; numbers stand to the right."""

    heading: str
    right: bool = True


class ResultTable(NamedTuple):
    """A table with its caption and the notes below it, as plain text."""

    caption: str
    columns: tuple[ResultColumn, ...]
    rows: tuple[tuple[ResultCell, ...], ...]
    notes: tuple[str, ...] = ()
