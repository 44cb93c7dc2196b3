"""What verify and replay look like on a terminal: the answer first."""

from collections.abc import Iterable, Sequence

import numpy as np
import rich.console
import rich.table
import rich.text

from bigmodel_jax.console import quantities
from bigmodel_jax.reproduce import diff_view, sections, verify
from bigmodel_jax.reproduce.replay import Replay

GOOD, BAD, UNKNOWN = 'bold green', 'bold red', 'bold yellow'


def verification(found: verify.Verification) -> rich.console.Group:
    """All of it for rich.console.Console.print()."""
    return rich.console.Group(_answer(found), *_around(found), '', diff_view.table(found.sections))


def _around(found: verify.Verification) -> Iterable[rich.text.Text]:
    """What the warnings before it said, in short."""
    titles = [each.title for each in found.conditions if verify.warnings([each])]
    if titles:
        yield rich.text.Text(
            f'under other conditions than recorded: {", ".join(titles)}; see the warnings above', UNKNOWN
        )


def _answer(found: verify.Verification) -> rich.text.Text:
    steps = f'steps {found.after + 1:,} to {found.until:,} of {found.run.path}'
    stopped = f'; the repetition ended at step {found.until:,}: {found.stopped}' if found.stopped else ''
    if found.first is not None:
        known = f', equal to step {found.equal_until:,}' if found.equal_until else ''
        return rich.text.Text.assemble(('differs', BAD), f': {found.first}{known} ({steps}){stopped}')
    if not found.compared:
        return rich.text.Text.assemble(('not comparable', UNKNOWN), f': nothing was recorded of {steps}')
    if stopped:
        return rich.text.Text.assemble(('not finished', UNKNOWN), f': {steps} are bit-identical{stopped}')
    return rich.text.Text.assemble(('bit-identical', GOOD), f': {steps}')


def replayed(found: Replay, count: int) -> rich.console.Group:
    """All of it for rich.console.Console.print().

    Args:
      count: examples to show.
    """
    words = {True: ('as recorded, bit for bit', GOOD), False: ('not as recorded', BAD), None: ('not recorded', UNKNOWN)}
    start = f'the checkpoint of step {found.restored:,}' if found.restored else 'the initial state'
    batch = found.step - 1 + found.skipped
    left_out = f', with {found.skipped:,} left out before it' if found.skipped else ''
    head = rich.text.Text.assemble(
        (f'step {found.step:,} of {found.run.path}: ', 'bold'),
        words[found.identical],
        f'; from {start}; batch {batch:,}{left_out}',
    )
    values = '  '.join(f'{name} {quantities.number(value)}' for name, value in found.metrics.items())
    return rich.console.Group(
        head,
        *(rich.text.Text(text, 'dim') for text in found.events),
        *_conditions(found.conditions),
        values,
        '',
        diff_view.table(found.sections),
        '',
        _examples(found, count),
        *_more(found, count),
    )


def _examples(found: Replay, count: int) -> rich.table.Table:
    """The examples with the worst losses."""
    table = rich.table.Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style='dim')
    for name in ('loss', 'example', 'row'):
        table.add_column(name, justify='right', no_wrap=True)
    if found.texts:
        # Rich narrows the columns that may wrap: this one alone, whose cells are then cut instead.
        table.add_column('text')
    for row in found.worst[:count]:
        loss = float(found.losses[row])
        cells = [quantities.number(loss), str(found.ids[row]), str(row)]
        texts = [_one_line(found.texts[row])] if found.texts else []
        table.add_row(*cells, *texts, style='' if abs(loss) < float('inf') else 'bold red')
    return table


def _one_line(text: str) -> rich.text.Text:
    return rich.text.Text(repr(text)[1:-1], 'dim', no_wrap=True, overflow='ellipsis')


def _more(found: Replay, count: int) -> Iterable[rich.text.Text]:
    if not np.isfinite(found.losses).any():
        text = 'No example has a finite loss: the parameters went wrong before this step; replay an earlier one.'
        yield rich.text.Text(text, UNKNOWN)
    if len(found.ids) > count:
        yield rich.text.Text(f'and {len(found.ids) - count:,} more: --examples N', 'dim')


def _conditions(every: Sequence[sections.Section]) -> Iterable[rich.text.Text]:
    return (rich.text.Text(line, UNKNOWN) for line in verify.warnings(every))
