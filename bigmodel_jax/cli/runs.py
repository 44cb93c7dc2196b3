"""runs: what has been tried, and what came of it. It starts at once, as it needs no JAX."""

import argparse
import sys
import typing
from collections.abc import Sequence
from typing import Any

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb

if typing.TYPE_CHECKING:
    from bigmodel_jax.catalogue.catalogue import Catalogue

FORMATS = ('table', 'csv', 'json')
SHOWN_DAMAGE = 10  # Damaged runs whose reason is said below a table.
EPILOG = """\
columns: a field of the experiment by its path (model.layers), a part of it (model.block.ffn), its class
(model.block.ffn.class), a metric (loss, validation/loss, best(validation/loss)), or a fact: path, name, state, ending,
step, steps, seed, sweep, arm, started, ended, seconds, commit, devices, versions.jax, parameters, digest, damage, ...
  runs --where 'model.layers >= 12 and seed == 0 and validation/loss < 3' --sort validation/loss
  runs --where 'state == "finished"' --group optimizer.schedule.peak
  runs --tried model.block.ffn
  runs runs/a gs://bucket/runs --columns path,seed,best(validation/loss) --format csv"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('roots', nargs='*', default=['runs'], metavar='ROOT', help='directories below which runs are (default: runs)')
    add('--where', metavar='EXPRESSION', help='only runs of which it holds, as model.layers >= 12 and seed == 0')
    add('--sort', metavar='COLUMN,...', help='by these columns; of a metric the best comes first (default: path)')
    add('--reverse', action='store_true', help='sort the other way round')
    add('--limit', type=arguments.positive, metavar='N', help='only the first N runs')
    add('--columns', metavar='COLUMN,...', help='by default what differs between the runs, and their metrics')
    add('--group', metavar='COLUMN,...', help='runs with equal values: how many, and mean, sd and best of a metric')
    add('--tried', metavar='FIELD', help='the values that a field, or a part such as model.block.ffn, has had so far')
    add('--metric', metavar='NAME', help='of --group and --tried (default: the loss of an evaluation)')
    add(
        '--format', choices=FORMATS, default='table', help='csv and json hold every column, unless --columns names some'
    )
    add('--rebuild', action='store_true', help='read every run again, whatever the index knows')


def run(options: argparse.Namespace) -> int:
    """Prints a table of runs; returns 0, or 2 if an argument is wrong."""
    from bigmodel_jax import config
    from bigmodel_jax.console import terminal

    try:
        text, notes = _answer(options)
    except config.InputError as error:
        terminal.explain(error, debug=options.debug)
        return 2
    sys.stdout.write(text)
    for note in notes:
        _say(note)
    return 0


def _answer(options: argparse.Namespace) -> tuple[str, list[str]]:
    """(what is printed, what is said on stderr)."""
    from bigmodel_jax.catalogue import catalogue as catalogues

    _check(options)
    everything = catalogues.find_runs(*options.roots, rebuild=options.rebuild, say=_say)
    chosen = everything.where(options.where) if options.where else everything
    notes = list(everything.notes)
    if not chosen.runs:
        below = ', '.join(options.roots)
        notes.append(
            f'None of the {len(everything):,} runs below {below} is chosen.'
            if everything.runs
            else f'There are no runs below {below}.'
        )
    if options.tried is not None:
        everything.check(options.tried)
        return _tried(chosen, options), notes
    if options.group is not None:
        return _grouped(chosen, options), notes
    ordered = chosen.sorted(*_names(options.sort), reverse=options.reverse)
    shown = ordered if options.limit is None else ordered.first(options.limit)
    return _listed(shown, len(ordered), options), notes


def _check(options: argparse.Namespace) -> None:
    """Raises InputError for arguments that would have no effect."""
    from bigmodel_jax import config

    summary = '--tried' if options.tried is not None else '--group' if options.group is not None else None
    given = {
        '--group': options.group if options.tried is not None else None,
        '--columns': options.columns, '--sort': options.sort, '--reverse': options.reverse, '--limit': options.limit,
    }  # fmt: skip
    unused = [name for name, value in given.items() if value]
    if summary is not None and unused:
        raise config.InputError(f'{unused[0]} has no effect with {summary}. Leave one of them out.')
    if summary is None and options.metric is not None:
        raise config.InputError(
            '--metric is of --group and --tried. To show a metric of each run, name it in --columns.'
        )


def _names(text: str | None) -> list[str]:
    """The columns of 'a,b(c),d'."""
    return [name.strip() for name in (text or '').split(',') if name.strip()]


def _listed(shown: 'Catalogue', total: int, options: argparse.Namespace) -> str:
    from bigmodel_jax.catalogue import tables
    from bigmodel_jax.console import terminal

    names = _names(options.columns) or None
    shown.check(*(names or ()))
    if options.format != 'table':
        chosen = names or shown.all_columns()
        return _exported(options, shown.records(chosen), chosen)
    lines = tables.listing(shown.runs, names, width=terminal.Console().width)
    if shown.runs:
        lines.append(tables.count(len(shown), total))
    damaged = [run.facts for run in shown.runs if run.facts.get('damage')]
    lines += [tables.damage(facts) for facts in damaged[:SHOWN_DAMAGE]]
    if len(damaged) > SHOWN_DAMAGE:
        lines.append(f'{len(damaged) - SHOWN_DAMAGE:,} more are damaged: --columns path,damage shows all of them.')
    return ''.join(f'{line}\n' for line in lines)


def _grouped(chosen: 'Catalogue', options: argparse.Namespace) -> str:
    from bigmodel_jax.catalogue import exports, tables

    found = chosen.grouped(_names(options.group), None if options.metric is None else [options.metric])
    if options.format != 'table':
        return _exported(options, exports.group_rows(found))
    return ''.join(f'{line}\n' for line in tables.groups(found))


def _tried(chosen: 'Catalogue', options: argparse.Namespace) -> str:
    from bigmodel_jax.catalogue import exports, tables

    found = chosen.tried(options.tried, options.metric)
    if options.format != 'table':
        return _exported(options, exports.tried_rows(found))
    return ''.join(f'{line}\n' for line in tables.tried(options.tried, found))


def _exported(options: argparse.Namespace, rows: Sequence[dict[str, Any]], names: Sequence[str] = ()) -> str:
    from bigmodel_jax.catalogue import exports

    if options.format == 'json':
        return exports.to_json(rows)
    return exports.to_csv(rows, names or list(rows[0] if rows else ()))


def _say(text: str) -> None:
    from bigmodel_jax.console import terminal

    print(terminal.printable(text), file=sys.stderr)


VERB = Verb('list runs, and what has been tried', _add_arguments, run, epilog=EPILOG, file_as=None, uses_jax=False)
