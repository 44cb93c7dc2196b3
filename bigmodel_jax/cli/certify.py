"""certify: a Hugging Face model against recorded outputs of the reference implementation."""

import argparse

from bigmodel_jax.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('directory', metavar='DIR', help='the directory of the model: config.json and *.safetensors')
    parser.add_argument(
        '--against',
        required=True,
        metavar='FILE',
        help='an .npz of inputs (in/NAME) and of the outputs of the reference in float32 (out/NAME), '
        'float64 (out64/NAME) or both',
    )
    parser.add_argument(
        '--dtype',
        choices=('float32', 'float64', 'bfloat16'),
        default='float32',
        help='the type to compute in (default: float32)',
    )
    parser.add_argument(
        '--tolerance',
        type=float,
        metavar='X',
        help='the largest absolute difference that counts as rounding (default: by the type)',
    )


def run(options: argparse.Namespace) -> int:
    """Prints how far each output is from the reference; returns 1 if one is further than rounding."""
    from bigmodel_jax import verbs
    from bigmodel_jax.console import terminal
    from bigmodel_jax.interop import screen as published

    found = verbs.certify(options.directory, options.against, dtype=options.dtype, tolerance=options.tolerance)
    terminal.Console().print(published.certified(found))
    print(published.verdict(found))
    return 0 if found.first is None else 1


VERB = Verb(
    'compare the outputs of a Hugging Face model with those recorded from the reference implementation',
    _add_arguments,
    run,
    file_as=None,
)
