"""serve: answers requests over HTTP with a trained model."""

import argparse
import sys
import typing

from bigmodel_jax.cli import arguments, export
from bigmodel_jax.cli.verb import Verb

if typing.TYPE_CHECKING:
    from bigmodel_jax.runs.restored_model import Trained

LARGEST_PORT = 65_535
EPILOG = """\
Text is served under the interface of OpenAI: /v1/completions, /v1/chat/completions, /v1/embeddings, /v1/models. Labels
and numbers are served under /predict. /openapi.json describes all of it, /metrics counts it, /health says whether it
works. The tokens and log-probabilities of an answer are those that `sample` gets with the same seed, bit for bit,
whatever else is being served. RUN may also be a directory that `export` wrote.
  serve runs/quickstart
  serve runs/large --experiment FILE --set mesh.tensor=4         spreads the weights over 4 devices
  curl 127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d '{"prompt": "The ", "seed": 1}'
SIGTERM ends it when what is under way is answered; a second one ends it at once."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_run(parser, settings=True)
    arguments.add_simulated_devices(parser)
    arguments.add_checkpoint(parser)
    export.add_anyway(parser, 'serve')
    add = parser.add_argument
    add('--name', metavar='NAME', help='of the model in requests (default: the name of the directory)')
    arguments.add_address(parser, port=8_000)
    add('--api-key-file', metavar='FILE', help='a file with the key that requests must send (default: none is needed)')
    add('--rows', type=arguments.positive, default=32, metavar='N', help='texts generated at a time (default: 32)')
    add(
        '--length',
        type=arguments.positive,
        metavar='N',
        help='tokens of a text at most, prompt and continuation (default: what the model reads)',
    )
    add(
        '--cache-tokens',
        type=arguments.positive,
        metavar='N',
        help='tokens of all texts together that the cache has room for (default: half of rows x length)',
    )
    add(
        '--queue',
        type=arguments.positive,
        default=256,
        metavar='N',
        help='texts that may wait; one more is answered with status 429 (default: 256)',
    )
    add(
        '--timeout',
        type=arguments.positive,
        default=600,
        metavar='S',
        help='seconds until an answer is ended with status 408 (default: 600)',
    )
    add(
        '--drain',
        type=arguments.natural,
        default=60,
        metavar='S',
        help='seconds that answers may take after SIGTERM (default: 60)',
    )


def run(options: argparse.Namespace) -> None:
    """Serves until SIGTERM."""
    from bigmodel_jax import config, web_server
    from bigmodel_jax.cli import process
    from bigmodel_jax.console import terminal
    from bigmodel_jax.evaluate.engine import text_engine
    from bigmodel_jax.serve import application, served_model, served_texts, server

    if options.port > LARGEST_PORT:
        raise config.InputError(f'--port {options.port} is not a port: at most {LARGEST_PORT:,}.')
    address = web_server.Address(host=options.host, port=options.port, names=options.allow_host)
    access = application.Access(address=address, key=server.read_key(options.api_key_file))
    trained = _trained(options)
    process.warn_of(trained.damage)
    sizes = text_engine.EngineLimits(rows=options.rows, length=options.length, positions=options.cache_tokens)
    served = served_model.ServedModel.of_run(trained, options.name, sizes)
    limits = served_texts.ServingLimits(queue=options.queue, timeout_s=options.timeout, drain_s=options.drain)
    if not address.is_loopback and access.key is None:
        host = terminal.printable(options.host)
        print(
            f'note: everybody who reaches {host} can ask this server; --api-key-file asks for a key.', file=sys.stderr
        )
    made = server.ModelServer(served, access=access, limits=limits)
    print(f'{served.name}, step {served.step}: compiling every program ...', file=sys.stderr, flush=True)
    with made:
        print(f'{made.url}  (SIGTERM or Ctrl-C ends)', flush=True)
        made.run()


def _trained(options: argparse.Namespace) -> 'Trained':
    """The model of the run or of the exported directory, if it meets what its experiment requires."""
    from bigmodel_jax import verbs
    from bigmodel_jax.export import opened
    from bigmodel_jax.runs import requirements

    if opened.is_exported(options.run):
        arguments.refuse_ignored(options, ('step', 'set', 'arg'), 'not with an exported model, which is as it is')
        exported = opened.open_export(options.run, options.experiment)
        requirements.check(options.run, exported.missed, verb='serve', anyway=options.anyway)
        return exported.trained
    experiment = arguments.load_experiment_of_run(options)
    run = verbs.open_run(options.run)
    trained = run.restore(options.step, experiment)
    requirements.check(options.run, requirements.unmet(run, trained.step), verb='serve', anyway=options.anyway)
    return trained


VERB = Verb('answer requests over HTTP with a trained model', _add_arguments, run, EPILOG, file_as='option')
