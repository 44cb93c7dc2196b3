"""convert: a Hugging Face model to a run, or a run to a Hugging Face model."""

import argparse

from bigmodel_jax.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('source', metavar='SRC', help='with config.json and *.safetensors, or the directory of a run')
    parser.add_argument('destination', metavar='DST', help='a directory that does not exist yet')


def run(options: argparse.Namespace) -> None:
    """Prints where the converted model is, and what of it was not used."""
    from bigmodel_jax import verbs
    from bigmodel_jax.interop import screen as published

    print(published.converted(verbs.convert(options.source, options.destination)))


VERB = Verb(
    'convert a Hugging Face model to a run, or a run to a Hugging Face model, one tensor at a time',
    _add_arguments,
    run,
    epilog='A model without this package, as programs for CPU, GPU and TPU: export RUN DIR.',
    file_as=None,
)
