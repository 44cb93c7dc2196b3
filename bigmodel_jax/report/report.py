"""report.html: one self-contained page on a run; no script, nothing loaded from elsewhere, light and dark."""

from collections.abc import Sequence

from etils import epath

from bigmodel_jax import config, tree
from bigmodel_jax.papers import claims_screen, judge
from bigmodel_jax.report import figures, pages, sections
from bigmodel_jax.runs import directory, requirements
from bigmodel_jax.storage import durable_files

FILE = 'report.html'


def write_report(
    workdir: epath.PathLike,
    experiment_file: epath.PathLike | None = None,
    seeds: Sequence[epath.PathLike] = (),
) -> epath.Path:
    """Writes report.html into a run's directory, and returns its path.

    Args:
      experiment_file: as of open_run().
      seeds: the directories of runs that differ in the seed alone, by which the paper's numbers are judged too.

    Raises:
      InputError: as open_run() and judge.judge(); or the page cannot be written.
    """
    run = directory.open_run(workdir, experiment_file)
    path = run.path / FILE
    durable_files.check_no_link(path)
    text = render(run, [directory.open_run(other) for other in seeds])
    try:
        durable_files.write(path, text.encode())
    except OSError as error:
        raise config.InputError(
            f'{path} cannot be written: {error.strerror}. The run itself is as it was. Make room or the directory '
            'writable, or copy the run (without its checkpoints/) and report on the copy.'
        ) from error
    return path


def render(run: directory.Run, seeds: Sequence[directory.Run] = ()) -> str:
    """The page on a run; `seeds` are others that differ in the seed alone."""
    rows = list(tree.stored_rows(run.stored)) if run.unloaded else tree.rows(run.experiment)
    return (
        pages.environment()
        .get_template('report.html')
        .render(
            **sections.header(run),
            **{name: value for name, value in sections.details(run, rows).items() if name != 'run'},
            claims=judge.judge(run, seeds),
            claims_text=judge.summary,
            required=requirements.judge(run),
            look=claims_screen.LOOKS,
            loss=figures.of_run(run, 'loss', figures.ChartView(figures.LARGE)),
            narrow_loss=figures.of_run(run, 'loss', figures.ChartView()),
            figures=list(figures.all_of(run)),
        )
    )
