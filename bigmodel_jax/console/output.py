"""Standard output and error that may go away: a pipe whose reader ends (`| head -1`), or a terminal that closes."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Outlasting:
    """A text stream that becomes silent when nobody can read it any more; the program goes on.

    Args:
      stream: over a file descriptor.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._silence()
            return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._silence()

    def _silence(self) -> None:
        # What is still in the buffer goes there too, so that the interpreter can flush it at its end.
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def outlasting() -> Iterator[None]:
    """Within this context sys.stdout and sys.stderr are such streams."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = Outlasting(sys.stdout), Outlasting(sys.stderr)  # type: ignore[assignment]
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
