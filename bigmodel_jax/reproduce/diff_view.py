"""What a comparison of two runs looks like on a terminal: the answer first, then a line or two for each section."""

from collections.abc import Iterable, Sequence

import rich.console
import rich.table
import rich.text

from bigmodel_jax.reproduce import diff as diffs
from bigmodel_jax.reproduce import sections, verdict

COLOURS = {verdict.IDENTICAL: 'bold green', verdict.REASSOCIATION: 'bold cyan', verdict.UNEXPLAINED: 'bold red'}
OTHER = 'bold yellow'
LINES = {'+': 'green', '-': 'red'}  # Of a difference between two files, by their first character.


def render(diff: diffs.Diff) -> rich.console.Group:
    """All of a diff for rich.console.Console.print()."""
    answer = rich.text.Text.assemble((diff.verdict.word, _style(diff.verdict)), f'  {diff.verdict.cause}')
    names = _grid()
    for letter, run in zip('AB', diff.runs):
        names.add_row(
            rich.text.Text(letter, 'bold'), rich.text.Text.assemble(str(run.path), (f'  {diffs.about(run)}', 'dim'))
        )
    damage = [rich.text.Text(line, 'bold red') for run in diff.runs for line in run.damage]
    return rich.console.Group(answer, names, *damage, '', table(diff.sections), '', sentence(diff.verdict))


def sentence(answer: verdict.Verdict) -> rich.text.Text:
    """The verdict with its reason."""
    also = f' Also different: {answer.also}.' if answer.also else ''
    return rich.text.Text.assemble((answer.word, _style(answer)), f': {answer.reason}.', also)


def _style(answer: verdict.Verdict) -> str:
    return COLOURS.get(answer.word, OTHER)


def table(every: Sequence[sections.Section]) -> rich.table.Table:
    """A row for each finding; for a section without any, one that says what was compared."""
    grid = _grid()
    for section in every:
        title = section.title
        for row in _rows(section):
            grid.add_row(rich.text.Text(title, 'bold' if section.findings else 'dim'), row)
            title = ''
    return grid


def _rows(section: sections.Section) -> Iterable[rich.text.Text]:
    for finding in section.findings:
        style = 'dim' if finding.speaks_for == sections.NOTHING else ''
        yield rich.text.Text.assemble((finding.what, f'{style} cyan'), '  ', (finding.text, style))
        for line in finding.lines:
            yield rich.text.Text(f'  {line}', LINES.get(line[:1], 'dim'))
    if not section.findings:
        yield rich.text.Text(f'{"equal" if section.compared else "not compared"}: {section.otherwise}', 'dim')


def _grid() -> rich.table.Table:
    grid = rich.table.Table.grid(padding=(0, 2, 0, 0), pad_edge=False)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow='fold')
    return grid
