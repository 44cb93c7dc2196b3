"""plan: memory, step time and cost of a training step, for devices that are not here."""

import argparse
import typing

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb

if typing.TYPE_CHECKING:
    from bigmodel_jax.plan.search import Space


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_experiment(parser)
    arguments.add_simulated_devices(parser)
    parser.add_argument(
        '--topology',
        action='append',
        required=True,
        metavar='SLICE',
        help='a slice, such as v5p:4x4x4, v5e-256, "2*v5e:16x16" for two joined by the network, or h100:8; '
        'may be given several times',
    )
    parser.add_argument('--fast', action='store_true', help='by formula, in seconds, without the TPU compiler')
    parser.add_argument(
        '--search', action='store_true', help='try every legal mesh, number of microbatches and remat, by formula'
    )
    parser.add_argument(
        '--batch',
        type=arguments.positive,
        action='append',
        metavar='N',
        help='with --search: try this batch; repeatable',
    )
    parser.add_argument('--axes', metavar='A,B', help='with --search: the mesh axes to use (default: data,fsdp,tensor)')
    parser.add_argument('--by-dollars', action='store_true', help='with --search: the cheapest first')
    parser.add_argument('--confirm', type=arguments.positive, metavar='N', help='with --search: compile the best N')
    parser.add_argument(
        '--prices', metavar='FILE', help='your own prices, a JSON file like plan/hardware/prices.json of this package'
    )
    parser.add_argument('--out', metavar='DIR', help='write plan.json and plan.html there')


def run(options: argparse.Namespace) -> None:
    """Prints what each slice would make of the experiment; or, with --search, the best ways to run it."""
    from bigmodel_jax import verbs
    from bigmodel_jax.cli import process
    from bigmodel_jax.console import terminal
    from bigmodel_jax.plan import page
    from bigmodel_jax.plan import render as renderings
    from bigmodel_jax.plan.hardware import prices, slices

    process.use_cpu()
    _check_planning(options)
    experiment, on = arguments.load_experiment(options), [slices.parse(name) for name in options.topology]
    table = prices.table(options.prices) if options.prices else None
    console = terminal.Console(markup=True)
    say = terminal.Console(stderr=True, markup=True, style='dim').print
    if not options.search:
        found = verbs.plan(experiment, on, fast=options.fast, table=table, say=say)
    else:
        result = verbs.search(
            experiment, on, table=table, by_dollars=options.by_dollars, space=_space(options), say=say
        )
        console.print(renderings.ranking(result, count=10))
        found = verbs.confirm(experiment, result, options.confirm or 0, table=table, say=say)
    for each in found:
        console.print(renderings.render(each))
    if len(found) > 1:
        console.print(renderings.overview(found))
    if options.out and found:
        console.print(f'{page.write(found, options.out)}')


def _check_planning(options: argparse.Namespace) -> None:
    """Raises InputError for options that would be ignored, and for a place where nothing can be written."""
    from bigmodel_jax import config
    from bigmodel_jax.plan import page

    if not options.search:
        advice = '. To plan another batch, use --set data.batch=N' if options.batch else ''
        arguments.refuse_ignored(options, ('batch', 'axes', 'by_dollars', 'confirm'), f'only with --search{advice}')
    if options.search and options.fast:
        raise config.InputError('--search already ranks by formula; leave out --fast, or use --confirm N to compile.')
    if options.out and options.search and not options.confirm:
        raise config.InputError('--out writes the plans that --confirm N compiles; give --confirm, or leave out --out.')
    if options.out:
        page.check(options.out)


def _space(options: argparse.Namespace) -> 'Space':
    """What --search tries."""
    from bigmodel_jax import config
    from bigmodel_jax.parallel import sharding
    from bigmodel_jax.plan import search as searching

    axes = tuple(options.axes.split(',')) if options.axes else searching.AXES
    for axis in axes:
        if axis not in sharding.AXES:
            near = config.nearest(axis, sharding.AXES)
            raise config.InputError(f'--axes {options.axes}: there is no mesh axis {axis!r}.{near}')
    return config.check(searching.Space(axes=axes, batches=tuple(options.batch) if options.batch else None))


VERB = Verb(
    'predict memory, step time and cost of a training step on a slice, without access to the slice', _add_arguments, run
)
