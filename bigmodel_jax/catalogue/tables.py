"""Tables on a terminal: as many columns as fit, their names broken over lines, numbers to the right."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich import cells

from bigmodel_jax.catalogue import columns, fields, outcomes
from bigmodel_jax.catalogue.catalogued_run import CataloguedRun
from bigmodel_jax.console import quantities, terminal

GAP = '  '
WIDEST, WIDEST_PATH = 28, 36  # Characters of a cell, where the columns were not asked for.
SHORT_COMMIT = 10
NAMED = 8  # Columns that a note lists.
ALWAYS = 3  # Path, state and step come before all others.


class Column(NamedTuple):
    """A column of a table."""

    heading: str
    cells: list[str]
    right: bool  # Numbers stand to the right.

    @property
    def width(self) -> int:
        """Of its cells, and of the longest piece of its heading that is not broken."""
        return max(map(cells.cell_len, [*self.cells, *_pieces(self.heading)]), default=0)


def listing(runs: Sequence[CataloguedRun], names: Sequence[str] | None = None, *, width: int = 80) -> list[str]:
    """The lines of a table of runs.

    Args:
      names: of the columns, all of which are then shown whole; by default those that fit into `width`.
    """
    if not runs:
        return []
    if names is not None:
        return _lines([_column(name, runs) for name in names])
    wanted = columns.defaults(runs)
    above = _common_directory([run.facts['path'] for run in runs])
    made = {name: _column(name, runs, limit=WIDEST, above=above if name == 'path' else '') for name in wanted}
    metrics = [name for name in wanted[ALWAYS:] if columns.summary_of(_with(name, runs), name) is not None]
    # The first metric is what the runs are listed for; then come the fields, and other metrics in what room is left.
    order = [*wanted[:ALWAYS], *metrics[:1], *(name for name in wanted[ALWAYS:] if name not in metrics), *metrics[1:]]
    chosen, room = set(), width + len(GAP)
    for name in order:
        room -= made[name].width + len(GAP)
        if room < 0 and len(chosen) >= ALWAYS:
            room += made[name].width + len(GAP)
            continue
        chosen.add(name)
    left = [name for name in wanted if name not in chosen]
    heading = [f'below {terminal.printable(above)}:'] if above else []
    return [*heading, *_lines([made[name] for name in wanted if name in chosen]), *_note(left)]


def count(shown: int, total: int | None = None) -> str:
    """'20 runs', '1 run', or '3 of 20 runs'."""
    of = '' if total is None or total == shown else f' of {total:,}'
    return f'{shown:,}{of} run{"" if shown == 1 and not of else "s"}'


def groups(found: Sequence[outcomes.RunGroup]) -> list[str]:
    """The lines of a table of groups of runs."""
    if not found:
        return []
    made = [_values(name, [each.values[name] for each in found]) for name in found[0].values]
    made += [Column(name, [str(getattr(each, name)) for each in found], True) for name in ('runs', 'finished')]
    for name in found[0].metrics:
        made += _spread(name, [each.metrics[name] for each in found])
    return _lines(made)


def tried(field: str, found: Sequence[outcomes.TriedValue]) -> list[str]:
    """The lines of a table of the values that a field has had."""
    if not found:
        return []
    parts = any(isinstance(each.value, dict | list) for each in found)
    texts = fields.briefly([each.value for each in found], WIDEST) if parts else [each.text for each in found]
    right = all(isinstance(each.value, int | float) for each in found)
    made = [Column(field, [_short(_safe(text), WIDEST_PATH, tail=False) for text in texts], right)]
    made += [Column(name, [str(getattr(each, name)) for each in found], True) for name in ('runs', 'finished')]
    if found[0].metric is None:
        return _lines(made)
    spreads = [each.outcome for each in found]
    paths = [each.best_run for each in spreads if each.best_run is not None]
    above = _common_directory(paths)
    best = [_short(_below(each.best_run or '', above), WIDEST_PATH, tail=True) for each in spreads]
    heading = [f'runs below {terminal.printable(above)}:'] if above else []
    return [*heading, *_lines([*made, *_spread(found[0].metric, spreads), Column('best run', best, False)])]


# ---- cells ----------------------------------------------------------------------------------------------------------


def cell(name: str, value: Any, run: CataloguedRun) -> str:
    """A value as it is shown in a column of a table."""
    if value is None:
        return ''
    if name == 'step':
        return f'{value}/{run.facts.get("steps")}'
    if name in ('started', 'ended'):
        return str(value)[:16].replace('T', ' ')
    if name == 'commit':
        return str(value)[:SHORT_COMMIT]
    if isinstance(value, float) and name not in run.fields:
        return quantities.number(value)
    return _safe(str(value))


def _safe(text: str) -> str:
    return terminal.printable(text.replace('\n', ' ').replace('\t', ' '))


def _column(name: str, runs: Sequence[CataloguedRun], *, limit: int | None = None, above: str = '') -> Column:
    found = [columns.value(run, name) for run in runs]
    if name == 'path' and above:
        found = [_below(each, above) for each in found]
    shown = [cell(name, value, run) for value, run in zip(found, runs)]
    if limit is not None:
        shown = [_short(text, WIDEST_PATH if name == 'path' else limit, tail=name == 'path') for text in shown]
    numbers = all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in found)
    return Column(name, shown, numbers)


def _values(name: str, values: Sequence[Any]) -> Column:
    numbers = all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values)
    return Column(name, ['(none)' if value is None else _safe(str(value)) for value in values], numbers)


def _spread(name: str, found: Sequence[outcomes.Spread]) -> list[Column]:
    """Mean, standard deviation and best of a metric; and how many values were no numbers, if any were."""
    made = [
        Column(f'{name} {what}', ['' if value is None else quantities.number(value) for value in values], True)
        for what in ('mean', 'sd', 'best')
        for values in [[getattr(each, what) for each in found]]
    ]
    if any(each.not_finite for each in found):
        made.append(Column(f'{name} not finite', [str(each.not_finite) for each in found], True))
    return made


def _with(name: str, runs: Sequence[CataloguedRun]) -> CataloguedRun:
    """A run that has a column."""
    return next((run for run in runs if columns.value(run, name) is not None), runs[0])


def _short(text: str, limit: int, *, tail: bool) -> str:
    """A text that is cut to so many characters: at its end, or of a path at its beginning, before a name."""
    if cells.cell_len(text) <= limit:
        return text
    if not tail:
        return cells.set_cell_size(text, limit - 1) + '…'
    kept = text[-(limit - 1) :]
    return '…' + kept[max(kept.find('/'), 0) :]


def _below(path: str, above: str) -> str:
    """The way to a path from a directory above it."""
    return _safe(path.removeprefix(f'{above}/') if above else path)


def _common_directory(paths: Sequence[str]) -> str:
    """The directory that several runs have in common; '' for one run, or where there is none."""
    parts = [path.split('/')[:-1] for path in paths]
    shared: list[str] = []
    for names in zip(*parts):
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    return '/'.join(shared) if len(paths) > 1 else ''


# ---- lines ----------------------------------------------------------------------------------------------------------


def _pieces(heading: str) -> list[str]:
    """Where a heading may be broken: after dots, slashes, parentheses and spaces."""
    return [piece.strip() for piece in re.findall(r'[^./( ]*[./( ]?', _safe(heading)) if piece.strip()]


def _headings(column: Column, width: int) -> list[str]:
    """The lines of a heading, each at most so wide."""
    lines = ['']
    for piece in _pieces(column.heading):
        gap = ' ' if lines[-1] and lines[-1][-1] not in './(' else ''
        if lines[-1] and cells.cell_len(lines[-1] + gap + piece) > width:
            lines.append(piece)
        else:
            lines[-1] += gap + piece
    return lines


def _lines(made: Sequence[Column]) -> list[str]:
    widths = [column.width for column in made]
    headings = [_headings(column, width) for column, width in zip(made, widths)]
    height = max(map(len, headings), default=0)
    rows = [[([''] * (height - len(each)) + each)[line] for each in headings] for line in range(height)]
    rows += [list(row) for row in zip(*(column.cells for column in made))]
    return [_line(row, made, widths) for row in rows]


def _line(row: Sequence[str], made: Sequence[Column], widths: Sequence[int]) -> str:
    padded = []
    for text, column, width in zip(row, made, widths):
        room = ' ' * (width - cells.cell_len(text))
        padded.append(room + text if column.right else text + room)
    return GAP.join(padded).rstrip()


def _note(left: Sequence[str]) -> list[str]:
    if not left:
        return []
    shown = ', '.join(map(_safe, left[:NAMED])) + (' ...' if len(left) > NAMED else '')
    return [f'{len(left)} more columns do not fit; --columns shows them: {shown}']


def damage(facts: dict[str, Any]) -> str:
    """A line that says what is wrong with a run."""
    sentences = ' '.join(map(str, facts['damage']))
    return _safe(f'damaged: {"" if facts["path"] in sentences else facts["path"] + ": "}{sentences}')
