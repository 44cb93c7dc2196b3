"""Which pages of the cache are free, and which rows."""

from collections.abc import Sequence

SCRATCH = 0  # The page that belongs to nobody: programs write there what is not to be kept.


class FreePages:
    """The free pages of a pool of `count` pages, without the first, SCRATCH."""

    def __init__(self, count: int):
        self._free = list(range(count - 1, SCRATCH, -1))
        self.count = count - 1

    def __len__(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int] | None:
        """`count` pages, which are no longer free; None if there are not as many."""
        if count > len(self._free):
            return None
        return [self._free.pop() for _ in range(count)]

    def give_back(self, pages: Sequence[int]) -> None:
        """Makes pages free again that take() gave."""
        assert not set(pages) & set(self._free), pages
        self._free.extend(pages)
