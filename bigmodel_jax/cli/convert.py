"""convert: a Hugging Face model or an adapter of PEFT to a run, or a run to one of these."""

import argparse

from bigmodel_jax.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'source',
        metavar='SRC',
        help='with config.json and *.safetensors, or an adapter of PEFT, or the directory of a run',
    )
    parser.add_argument('destination', metavar='DST', help='a directory that does not exist yet')
    parser.add_argument('--base', metavar='DIR', help='the Hugging Face model to which an adapter of PEFT belongs')
    parser.add_argument(
        '--merge', action='store_true', help='write the whole model of a run with an adapter, not the adapter alone'
    )


def run(options: argparse.Namespace) -> None:
    """Prints where the converted model is, and what of it was not used."""
    from bigmodel_jax import verbs
    from bigmodel_jax.interop import screen as published

    print(
        published.converted(verbs.convert(options.source, options.destination, base=options.base, merge=options.merge))
    )


VERB = Verb(
    'convert a Hugging Face model or a PEFT adapter to a run, or a run to one of these, one tensor at a time',
    _add_arguments,
    run,
    epilog='A model without this package, as programs for CPU, GPU and TPU: export RUN DIR.',
    file_as=None,
)
