"""The table that `compress` prints."""

from collections.abc import Iterator

from rich import console, table, text

from bigmodel_jax.compression import comparison
from bigmodel_jax.compression.compressing import CompressionReport
from bigmodel_jax.console import quantities


def render(found: CompressionReport) -> console.Group:
    """Size, speed and quality before and after."""
    grid = table.Table(box=None, pad_edge=False)
    for name in ('', 'before', 'after', 'change'):
        grid.add_column(name, justify='left' if not name else 'right')
    for row in _rows(found):
        grid.add_row(*row)
    lines = [text.Text(f'{found.source}, step {found.step} -> {found.path}')]
    lines += [text.Text(sentence(each)) for each in found.quality]
    return console.Group(lines[0], grid, *lines[1:])


def _rows(found: CompressionReport) -> Iterator[tuple[str, str, str, str]]:
    before, after = found.before, found.after
    yield _row('weights in memory, bytes', before.weights_bytes, after.weights_bytes)
    yield _row('model on disk, bytes', before.stored_bytes, after.stored_bytes)
    yield 'share of zeros', f'{before.zeros:.1%}', f'{after.zeros:.1%}', ''
    if before.examples_per_s == before.examples_per_s:  # Not nan.
        yield _row('examples a second', round(before.examples_per_s, 1), round(after.examples_per_s, 1))
    for name, value in before.metrics.items():
        new = after.metrics[name]
        change = f'{(new - value) / value:+.2%}' if value else ''
        yield name, quantities.number(value), quantities.number(new), change


def _row(name: str, before: float, after: float) -> tuple[str, str, str, str]:
    return name, f'{before:,}', f'{after:,}', f'x {after / before:.3g}' if before else ''


def sentence(each: comparison.QualityChange) -> str:
    """What the loss of an evaluation became."""
    share = f' ({each.change / each.before:+.2%})' if each.before else ''
    return (
        f'{each.evaluation}: the loss of an example changed by {each.change:+.4f}{share}, '
        f'{comparison.CONFIDENCE:.0%} interval {each.low:+.4f} to {each.high:+.4f}, of {each.examples:,} pairs'
    )
