"""The files of a sweep's report: report.html, figure.svg, table.md and .tex, results.json and .csv."""

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.report import report
from bigmodel_jax.storage import durable_files
from bigmodel_jax.sweeps.reporting import answer as answers
from bigmodel_jax.sweeps.reporting import figure, grids, markup, page, records, tables
from bigmodel_jax.sweeps.sweep_directory import SweepDirectory

MARKDOWN, LATEX, JSON, CSV = 'table.md', 'table.tex', 'results.json', 'results.csv'
FIGURE = 'figure.svg'


def write(directory: SweepDirectory) -> epath.Path:
    """Writes what a sweep answers so far into its directory, and returns the path of report.html.

    The same runs give the same bytes: no file says when it was written, or how the runs came about.

    Raises:
      InputError: a file cannot be written, or is a symbolic link.
    """
    return write_answer(answers.collect(directory))


def write_answer(answer: answers.SweepAnswer) -> epath.Path:
    """write() of an answer that was collected already."""
    root = answer.directory.path
    grid = grids.fitted(answer)
    candidates = (
        tables.comparisons(answer),
        tables.papers(answer),
        tables.paper_effects(answer),
        tables.details(answer) if answer.compared else None,
        None if grid is None else grids.table(answer, grid),
        tables.sizes(answer),
    )
    every = [table for table in candidates if table is not None]
    contents = {
        MARKDOWN: markup.markdown(every).encode(),
        LATEX: markup.latex(every).encode(),
        CSV: markup.comma_separated(answer).encode(),
        JSON: durable_files.encode_json(records.results(answer)),
        FIGURE: figure.render(answer).encode(),
        report.FILE: page.render(answer).encode(),
    }
    for name in contents:
        durable_files.check_no_link(root / name)
    for name, content in contents.items():
        try:
            durable_files.write(root / name, content)
        except OSError as error:
            raise config.InputError(
                f'{root / name} cannot be written: {error.strerror}. The runs are as they were. Make room or '
                'the directory writable, and write the report again: python -m bigmodel_jax report DIRECTORY.'
            ) from error
    return root / report.FILE
