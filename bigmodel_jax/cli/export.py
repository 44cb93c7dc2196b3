"""export: the model of a run as a directory that works without this package."""

import argparse

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb

EPILOG = """\
The directory holds programs (StableHLO by jax.export, for CPU, CUDA and TPU), weights (safetensors), the tokenizer, a
model card, and load.py, which needs jax, numpy and flatbuffers alone. For Hugging Face's format: convert RUN DST.
  export runs/quickstart exported
  cd exported && python -c 'import load; print(load.load(".").signature)'"""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_run(parser, settings=True)
    parser.add_argument('destination', metavar='DIR', help='a directory that does not exist yet')
    arguments.add_checkpoint(parser)
    parser.add_argument(
        '--weights', choices=('trained', 'ema'), help='the trained ones or their moving average (default: as evaluated)'
    )
    parser.add_argument(
        '--dtype', metavar='DTYPE', help='store the weights in float32, bfloat16 or float16 (default: as they are)'
    )
    parser.add_argument('--rows', type=arguments.positive, metavar='N', help='programs for batches of N rows alone')
    parser.add_argument(
        '--length',
        type=arguments.positive,
        metavar='N',
        help='programs for rows of N tokens alone, as for a model that has none for all lengths',
    )
    parser.add_argument('--license', metavar='SPDX', help='for the model card, such as apache-2.0')
    add_anyway(parser, 'export')


def add_anyway(parser: argparse.ArgumentParser, verb: str) -> None:
    """--anyway, which sets the requirements of the experiment aside."""
    parser.add_argument(
        '--anyway', action='store_true', help=f'{verb} a run even if it does not meet what its experiment requires'
    )


def run(options: argparse.Namespace) -> None:
    """Prints where the exported model is, and what its programs take."""
    from bigmodel_jax import verbs
    from bigmodel_jax.cli import process
    from bigmodel_jax.console import quantities
    from bigmodel_jax.export import dimensions, exporting

    process.use_cpu()
    experiment = arguments.load_experiment_of_run(options)
    how = exporting.ExportOptions(
        step=options.step,
        weights=options.weights,
        dtype=options.dtype,
        fixed=dimensions.FixedSizes(options.rows, options.length),
        license=options.license,
        anyway=options.anyway,
    )
    done = verbs.export(verbs.open_run(options.run), options.destination, how, experiment)
    print(f'{done.path}: {quantities.size(done.size_bytes)}, programs {", ".join(done.signature["programs"])}')
    for name, each in done.signature['dimensions'].items():
        most = '' if each['at_most'] is None else f', at most {each["at_most"]:,}'
        print(f'  {name}: {each["meaning"]}{most}')


VERB = Verb(
    'write the model of a run as a directory that works without this package, on CPU, GPU and TPU',
    _add_arguments,
    run,
    epilog=EPILOG,
    file_as='option',
)
