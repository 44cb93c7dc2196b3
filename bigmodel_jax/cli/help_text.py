"""How `--help` is laid out."""

import argparse
import textwrap


class HelpText(argparse.RawTextHelpFormatter):
    """Keeps the lines that a text has, and wraps those that are too long for the terminal."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return [part for line in text.splitlines() for part in _wrapped(line, width)]

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return '\n'.join(indent + part for part in self._split_lines(text, width - len(indent)))


def _wrapped(line: str, width: int) -> list[str]:
    """`line` in lines of at most `width` characters, indented as it is; a long word, such as a path, stays whole."""
    indent = line[: len(line) - len(line.lstrip())]
    wrapper = textwrap.TextWrapper(
        width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return wrapper.wrap(line.strip()) or ['']
