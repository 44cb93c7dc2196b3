"""The catalogue: every run below some roots, as it is now.

runs = catalogue.find_runs('runs')
runs.where('model.layers >= 12 and validation/loss < 3').sorted('validation/loss')
runs.grouped(['model.layers'])
pandas.DataFrame(runs.records())
"""

import contextlib
import html
import os
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

from bigmodel_jax import config
from bigmodel_jax.catalogue import catalogued_run, columns, expressions, index, outcomes, refreshing, tables, walking
from bigmodel_jax.catalogue.catalogued_run import CataloguedRun
from bigmodel_jax.storage import durable_files


class Catalogue:
    """Runs in some order. Made by find_runs(); what selects or sorts them gives another one.

    Attributes:
      runs: each with its values, see value().
      notes: sentences for the person who asked: what could not be listed, where the index is.
    """

    def __init__(self, runs: Sequence[CataloguedRun], notes: Sequence[str] = (), known: columns.Names | None = None):
        self.runs, self.notes = tuple(runs), tuple(notes)
        self._known = columns.Names(self.runs) if known is None else known

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[CataloguedRun]:
        return iter(self.runs)

    def _with(self, runs: Sequence[CataloguedRun]) -> 'Catalogue':
        return Catalogue(runs, self.notes, self._known)

    def check(self, *names: str) -> None:
        """Raises InputError for the name of a column that no run has; with no runs at all, any will do."""
        for name in names:
            self._known.check(name)

    def where(self, expression: str) -> 'Catalogue':
        """The runs of which an expression holds; see expressions.py.

        Raises:
          InputError: it is no expression, names a column that no run has, or compares numbers with text.
        """
        return self._with(expressions.parse(expression).select(self.runs, self._known))

    def sorted(self, *names: str, reverse: bool = False) -> 'Catalogue':
        """The runs by the values of columns, the best of a metric first; those without a value come last.

        Raises:
          InputError: no run has such a column.
        """
        self.check(*names)
        return self._with(columns.in_order(self.runs, names, reverse=reverse))

    def first(self, count: int) -> 'Catalogue':
        """The first runs."""
        return self._with(self.runs[:count])

    def default_columns(self) -> list[str]:
        """The path, where it stands, the fields in which these runs differ, and the metrics they are judged by."""
        return columns.defaults(self.runs)

    def all_columns(self) -> list[str]:
        """Every column that one of these runs has."""
        return columns.every(self.runs)

    def records(self, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """A dict for each run, from the names of columns to values; by default of all columns.

        Raises:
          InputError: no run has such a column.
        """
        chosen = self.all_columns() if names is None else list(names)
        self.check(*chosen)
        return [{name: columns.value(run, name) for name in chosen} for run in self.runs]

    def grouped(self, names: Sequence[str], metrics: Sequence[str] | None = None) -> list[outcomes.RunGroup]:
        """The runs with equal values in some columns, and what came of them; see outcomes.group()."""
        self.check(*names, *(metrics or ()))
        return outcomes.group(self.runs, names, self._metrics(metrics))

    def tried(self, field: str, metric: str | None = None) -> list[outcomes.TriedValue]:
        """The values that a field or a part of the experiments has had, and what came of each; see outcomes.tried().

        Raises:
          InputError: no run has such a field or metric.
        """
        self.check(field, *([] if metric is None else [metric]))
        return outcomes.tried(self.runs, field, next(iter(self._metrics(None if metric is None else [metric])), None))

    def _metrics(self, names: Sequence[str] | None) -> list[str]:
        if names is None:
            return columns.main_metrics(self.runs)[:1]
        return [columns.metric_name(self.runs, name) for name in names]

    def __repr__(self) -> str:
        return '\n'.join([*tables.listing(self.runs, width=100), tables.count(len(self))])

    def _repr_html_(self) -> str:
        names = self.default_columns()
        head = ''.join(f'<th>{html.escape(name)}' for name in names)
        cells = [[html.escape(tables.cell(name, columns.value(run, name), run)) for name in names] for run in self.runs]
        body = ''.join(f'<tr>{"".join(f"<td>{cell}" for cell in row)}' for row in cells)
        return f'<table><thead><tr>{head}</thead><tbody>{body}</tbody></table>'


def find_runs(*roots: epath.PathLike, rebuild: bool = False, say: refreshing.Say | None = None) -> Catalogue:
    """Every run below some directories, sorted by path.

    The directories are the truth. What was read from them is kept in an index beside them, and a run is read again as
    soon as one of its files changes.

    Args:
      roots: local or gs://; none: 'runs'.
      rebuild: read every run, whatever the index knows.
      say: told before something takes long.

    Raises:
      InputError: a root is not there, is no directory, or is in a store that cannot be reached.
    """
    visited: set[Any] = set()
    found: list[CataloguedRun] = []
    notes: list[str] = []
    for root in roots or ('runs',):
        with _reaching(os.fspath(root)):
            walk = walking.find(os.fspath(root), visited)
            is_run = any(each.relative == '.' for each in walk.runs)
            kept = index.beside(os.fspath(root), catalogued_run.VERSION, is_run=is_run)
            found += refreshing.refresh(walk.runs, kept, rebuild=rebuild, say=say)
        notes += [*walk.problems, *kept.notes]
    return Catalogue(found, notes)


@contextlib.contextmanager
def _reaching(root: str) -> Iterator[None]:
    """Within this context an object store that cannot be reached is an InputError."""
    try:
        yield
    except config.InputError:
        raise
    except Exception as error:
        if not durable_files.is_remote(root):
            raise
        # The library of each store has errors of its own, such as for want of credentials.
        raise config.InputError(f'{root} cannot be read: {durable_files.brief(error)}.') from error
