"""compress: a smaller model of a trained run, and what that cost."""

import argparse
import re
import typing

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb

if typing.TYPE_CHECKING:
    from bigmodel_jax.compression.methods import CompressionMethod
    from bigmodel_jax.quantization.formats import NumberFormat

EPILOG = """\
one of these a time; DIR is a run, which can be compressed again in another way:
  compress RUN DIR --weights int8                      whole numbers of 8 bits, a scale for each output channel
  compress RUN DIR --weights int4 --group 32           of 4 bits, a scale for each 32 inputs
  compress RUN DIR --weights int8 --activations int8   products of whole numbers
  compress RUN DIR --prune 0.5                         the smaller half of each matrix becomes zero
  compress RUN DIR --prune 2:4                         of every 4 neighbours 2 become zero
  compress RUN DIR --heads 4 --hidden 512              each layer keeps 4 heads and 512 feed-forward units"""
FORMATS = ('int8', 'int4', 'float8')


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_run(parser, settings=False)
    add = parser.add_argument
    add('destination', metavar='DIR', help='a directory that does not exist yet, for the smaller run')
    arguments.add_checkpoint(parser)
    add('--weights', choices=FORMATS, help='store the matrices in this format')
    add('--activations', choices=('int8', 'float8'), help='with --weights: round activations too, row by row')
    add('--group', type=arguments.positive, metavar='N', help='with --weights: N inputs share a scale')
    add('--without', action='append', default=[], metavar='PATTERN', help="with --weights: leave out, as 'embedding.*'")
    add('--prune', metavar='SHARE|N:M', help='zeros by magnitude: a share of each matrix, or all but N of M neighbours')
    add('--heads', type=arguments.positive, metavar='N', help='keep N attention heads in each layer')
    add('--hidden', type=arguments.positive, metavar='N', help='keep N feed-forward units in each layer')


def run(options: argparse.Namespace) -> None:
    """Prints what the smaller model gained and cost."""
    from bigmodel_jax import verbs
    from bigmodel_jax.compression import screen
    from bigmodel_jax.console import terminal

    method = _method(options)
    chosen = arguments.load_experiment(options) if options.experiment else None
    found = verbs.compress(options.run, options.destination, method, step=options.step, experiment=chosen)
    terminal.Console().print(screen.render(found))


def _method(options: argparse.Namespace) -> 'CompressionMethod':
    """What is to be done.

    Raises:
      InputError: nothing, or several things.
    """
    from bigmodel_jax import config
    from bigmodel_jax.compression import methods
    from bigmodel_jax.quantization import quantization

    structures = options.heads is not None or options.hidden is not None
    asked = [options.weights is not None, options.prune is not None, structures]
    if sum(asked) != 1:
        raise config.InputError(
            'Say one of --weights, --prune, and --heads or --hidden. The directory that one makes is a run, which '
            'can be compressed again.'
        )
    if options.weights is None:
        arguments.refuse_ignored(options, ('activations', 'group', 'without'), 'only with --weights')
    if structures:
        return methods.PruneStructures(heads=options.heads, hidden=options.hidden)
    if options.prune is not None:
        return _pruning(options.prune)
    left_out, activations = tuple(options.without), _format(options.activations)
    weights = _format(options.weights)
    assert weights is not None
    how = quantization.PostTraining(weights=weights, group=options.group, without=left_out, activations=activations)
    return methods.Quantize(quantization=config.check(how))


def _format(name: str | None) -> 'NumberFormat | None':
    from bigmodel_jax.quantization import formats

    return {'int8': formats.Int8(), 'int4': formats.Int4(), 'float8': formats.Float8(), None: None}[name]


def _pruning(text: str) -> 'CompressionMethod':
    from bigmodel_jax import config
    from bigmodel_jax.compression import methods

    blocks = re.fullmatch('([1-9][0-9]{0,3}):([1-9][0-9]{0,3})', text, re.ASCII)
    if blocks:
        return methods.PruneBlocks(kept=int(blocks[1]), block=int(blocks[2]))
    if re.fullmatch(r'0?\.[0-9]+', text, re.ASCII) and 0 < float(text) < 1:
        return methods.PruneMagnitude(sparsity=float(text))
    raise config.InputError(f'--prune {text}: use a share between 0 and 1, such as 0.5, or N:M, such as 2:4.')


VERB = Verb(
    'make a smaller model of a run: fewer bits, zeros, fewer heads and units; and say what it cost',
    _add_arguments,
    run,
    epilog=EPILOG,
    file_as='option',
)
