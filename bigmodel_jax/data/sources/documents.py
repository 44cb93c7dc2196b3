"""Documents: the texts of an opened source, by number."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any


class Documents:
    """Texts, by number. Subclasses say how they are read."""

    name: str  # For people.
    fingerprint: Mapping[str, Any]  # JSON-ready: what the texts are, wherever they lie.

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> str:
        inside = range(len(self))[index]
        return self.read(inside, inside + 1)[0]

    def __iter__(self) -> Iterator[str]:
        return itertools.chain.from_iterable(self.chunks())

    def read(self, start: int, stop: int) -> list[str]:
        """Documents start ... stop - 1; cheaper than one by one."""
        raise NotImplementedError

    def chunks(self, size: int = 256) -> Iterator[list[str]]:
        """All documents in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.read(start, min(start + size, len(self)))
