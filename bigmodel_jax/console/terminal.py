"""Text of other people's on a terminal: names, values and paths cannot move the cursor, colour, or break the output."""

import functools
import re
import sys
import traceback
from collections.abc import Iterable
from typing import Any, TextIO

import rich.console
import rich.segment

# Control characters other than newline and tab, marks that reverse the direction of text, and halves of surrogates.
_UNSAFE = re.compile('[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]')


def printable(text: object) -> str:
    r"""The text with every character that a terminal would obey, or could not encode, written as in Python: '\x1b'."""
    return _UNSAFE.sub(lambda found: found[0].encode('unicode_escape').decode(), str(text))


def notes() -> TextIO:
    """Where progress is said: on stderr; in a notebook, which shows stderr as errors, on stdout."""
    return sys.stdout if 'ipykernel' in sys.modules else sys.stderr


@functools.cache
def say_once(text: str) -> None:
    """Prints a line on stderr, once in this process."""
    print(printable(text), file=sys.stderr)


def explain(error: Exception, *, debug: bool, host: str = '') -> None:
    """Says on stderr what a person got wrong; for debugging after the whole traceback."""
    if debug:
        print(printable(''.join(traceback.format_exception(error))), file=sys.stderr)
    print(f'error: {host}{printable(error)}', file=sys.stderr)


class Console(rich.console.Console):
    """A terminal on which text is only text. Styles are set by code, and not by marks such as '[bold]' in a text.

    Args:
      markup: text may set styles; only where all of it is the package's own.
    """

    def __init__(self, *, markup: bool = False, **options: Any):
        super().__init__(highlight=False, emoji=False, markup=markup, **options)

    def render(
        self, renderable: rich.console.RenderableType, options: rich.console.ConsoleOptions | None = None
    ) -> Iterable[rich.segment.Segment]:
        """The segments of what is printed; those that control the terminal are rich's own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
