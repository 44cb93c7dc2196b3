"""Tables as Markdown, LaTeX and CSV. Whatever stands in a name is only text there."""

import csv
import io
import re
from collections.abc import Sequence

from bigmodel_jax.sweeps.reporting import formats
from bigmodel_jax.sweeps.reporting.answer import SweepAnswer
from bigmodel_jax.sweeps.reporting.cells import ResultCell, ResultTable

# Of underscores those at the ends of words, of brackets those of links, and what begins a heading, list or quotation.
_MARKDOWN = re.compile(r'([\\`*<>|~&$]|(?<!\w)_|_(?!\w)|\](?=[\[(:])|^[#+=-])')
_LATEX = {
    '\\': r'\textbackslash{}', '&': r'\&', '%': r'\%', '$': r'\$', '#': r'\#', '_': r'\_', '{': r'\{', '}': r'\}',
    '~': r'\textasciitilde{}', '^': r'\textasciicircum{}', '<': r'\textless{}', '>': r'\textgreater{}',
    '|': r'\textbar{}', '"': r'\textquotedbl{}', '-': '{-}', '`': r'\textasciigrave{}',
    '[': '{[}', ']': '{]}', '*': '{*}',  # After a line break a bracket would be its argument, and a star its form.
    formats.PLUS_MINUS: r'$\pm$', formats.MINUS: r'$-$', formats.TIMES: r'$\times$', formats.UNKNOWN: '--',
}  # fmt: skip
_CONTROLS = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029]+')
_FORMULA = ('=', '+', '-', '@')  # With which a spreadsheet takes a text for a formula.


def markdown(tables: Sequence[ResultTable]) -> str:
    """Tables as GitHub's Markdown, each below its caption."""
    return '\n'.join(map(_markdown, tables))


def _markdown(table: ResultTable) -> str:
    def line(texts: Sequence[str]) -> str:
        return f'| {" | ".join(texts)} |'

    rule = line(['---:' if column.right else ':---' for column in table.columns])
    rows = [line([_emphasised(cell) for cell in row]) for row in table.rows]
    parts = [
        escape_markdown(table.caption),
        '',
        line([escape_markdown(heading) for heading in table.headings]),
        rule,
        *rows,
        '',
        *(part for note in table.notes for part in (escape_markdown(note), '')),
    ]
    return '\n'.join(parts)


def _emphasised(cell: ResultCell) -> str:
    text = escape_markdown(cell.text)
    return f'**{text}**' if cell.look in ('better', 'worse') else text


def escape_markdown(text: str) -> str:
    """The text with every character that Markdown, or HTML within it, would obey."""
    return _MARKDOWN.sub(r'\\\1', _CONTROLS.sub(' ', text))


def latex(tables: Sequence[ResultTable]) -> str:
    r"""Tables for \usepackage{booktabs,textcomp}, each a table environment with its caption."""
    return '% Needs \\usepackage{booktabs} and \\usepackage{textcomp}.\n' + '\n'.join(map(_latex, tables))


def _latex(table: ResultTable) -> str:
    def line(texts: Sequence[str]) -> str:
        return f'    {" & ".join(texts)} \\\\'

    above = [
        rf'\multicolumn{{{group.width}}}{{{"c" if group.heading else "l"}}}{{{escape_latex(group.heading)}}}'
        for group in table.groups
    ]
    rules = [
        rf'\cmidrule(lr){{{group.first + 1}-{group.first + group.width}}}' for group in table.groups if group.heading
    ]
    alignment = ''.join('r' if column.right else 'l' for column in table.columns)
    notes = [f'  \\par\\smallskip\\footnotesize {escape_latex(note)}' for note in table.notes]
    return '\n'.join(
        [
            r'\begin{table}',
            r'  \centering',
            f'  \\caption{{{escape_latex(table.caption)}}}',
            f'  \\begin{{tabular}}{{{alignment}}}',
            r'    \toprule',
            *([line(above), f'    {"".join(rules)}'] if above else []),
            line([escape_latex(column.heading) for column in table.columns]),
            r'    \midrule',
            *(line([escape_latex(cell.text) for cell in row]) for row in table.rows),
            r'    \bottomrule',
            r'  \end{tabular}',
            *notes,
            r'\end{table}',
            '',
        ]
    )


def escape_latex(text: str) -> str:
    """The text with every character that LaTeX would obey."""
    return ''.join(_LATEX.get(character, character) for character in _CONTROLS.sub(' ', text))


def comma_separated(answer: SweepAnswer) -> str:
    """A line for each trial, with every digit."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator='\n')
    lines.writerow(['arm', 'seed', 'value', 'state', 'run', 'digest', 'commit', 'uncommitted', 'experiment'])
    for each in answer.trials:
        value = '' if each.value is None else repr(each.value)
        texts = [each.state, each.entry.name, each.digest or '', each.commit, str(each.uncommitted).lower()]
        experiment = answer.experiment(each.entry.arm)
        lines.writerow([_inert(each.entry.arm), each.entry.seed, value, *map(_inert, [*texts, experiment])])
    return out.getvalue()


def _inert(text: str) -> str:
    """A text that a spreadsheet takes for text."""
    return f"'{text}" if text.startswith(_FORMULA) else text
