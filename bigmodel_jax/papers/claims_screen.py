"""What claims, and requirements, look like on a terminal: a table, no entry of which is ever cut."""

from collections.abc import Sequence

from rich import text

from bigmodel_jax.papers import checks, judge
from bigmodel_jax.runs import requirements

COLUMNS = ('arm', 'quantity', 'where', 'paper', 'ours', 'verdict')
GOOD, BAD, DOUBTFUL, OPEN = 'good', 'bad', 'doubtful', 'open'
# What a verdict is to a reader, on a page too; others are OPEN.
LOOKS = {
    checks.AGREES: GOOD,
    checks.DIFFERS: BAD,
    checks.CONTRADICTION: DOUBTFUL,
    judge.MATCHED: GOOD,
    judge.WITHIN_NOISE: DOUBTFUL,
    judge.NOT_REPRODUCED: BAD,
    requirements.MET: GOOD,
    requirements.NOT_MET: BAD,
}
STYLES = {GOOD: 'green', BAD: 'bold red', DOUBTFUL: 'bold yellow', OPEN: 'dim'}
WIDEST = 50  # Of a column; what is longer moves the rest of its own line.


def checked(found: Sequence[checks.Checked]) -> text.Text:
    """What `check` found, for rich.console.Console.print(..., soft_wrap=True)."""
    if not found:
        return text.Text('no claims')
    lines = [COLUMNS]
    for i, each in enumerate(found):
        arm = each.arm if i == 0 or found[i - 1].arm != each.arm else ''
        lines.append((arm, each.quantity, each.claim.where, each.said, each.shown, each.verdict))
    return table(lines, [each.note for each in found]).append(f'\n{checks.summary(found)}', style='bold')


def judged(found: Sequence[judge.Judged]) -> text.Text:
    """What `report` found, for rich.console.Console.print(..., soft_wrap=True)."""
    lines = [COLUMNS[1:]]
    lines += [(each.quantity, each.claim.where, each.said, each.ours, each.verdict) for each in found]
    return table(lines, [each.reason for each in found]).append(f'\n{judge.summary(found)}', style='bold')


def required(found: Sequence[requirements.RequirementVerdict]) -> text.Text:
    """Whether a run meets what its experiment requires, for rich.console.Console.print(..., soft_wrap=True)."""
    lines = [('requirement', 'ours', 'verdict'), *((str(each.requirement), each.shown, each.verdict) for each in found)]
    return table(lines, [''] * len(found))


def table(lines: Sequence[Sequence[str]], notes: Sequence[str]) -> text.Text:
    """Aligned columns under a heading, the verdict last; a note stands under the lines that share it."""
    widths = [max(length for length in map(len, column) if length <= WIDEST) for column in zip(*lines)]
    shown = text.Text()
    for i, (cells, note) in enumerate(zip(lines, ['', *notes])):
        padded = [cell.ljust(width) for cell, width in zip(cells[:-1], widths)]
        name, rest, look = ('bold', '', STYLES[LOOKS.get(cells[-1], OPEN)]) if i else ('dim', 'dim', 'dim')
        shown.append(f'{padded[0]}  ', style=name).append(f'{"  ".join(padded[1:])}  ', style=rest)
        shown.append(f'{cells[-1]}\n', style=look)
        if note and list(notes[i : i + 1]) != [note]:
            shown.append(f'{" " * widths[0]}    {note}\n', style='dim')
    return shown
