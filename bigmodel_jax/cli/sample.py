"""sample: what a model makes of new text: a continuation, a translation or labels."""

import argparse
import typing

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb

if typing.TYPE_CHECKING:
    from bigmodel_jax.evaluate.text.decoding import Decoding


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_run(parser, settings=True)
    arguments.add_simulated_devices(parser)
    arguments.add_checkpoint(parser)
    parser.add_argument(
        '--prompt',
        action='append',
        metavar='TEXT',
        help='text to continue, to answer, to translate or to classify; may be given several times. A model of '
        "conversations reads it as a user's message, written with the template of its data",
    )
    parser.add_argument(
        '--no-template', action='store_true', help='of a model of conversations: the prompt is read as it is'
    )
    parser.add_argument(
        '--tokens',
        type=arguments.positive,
        metavar='N',
        help='new tokens at most (default: 200, or as many as the model has positions for)',
    )
    parser.add_argument('--temperature', type=float, metavar='T', help='0 is greedy (default: 1)')
    parser.add_argument('--top-k', type=int, metavar='K', help='sample from the K most likely tokens only')
    parser.add_argument(
        '--top-p', type=float, metavar='P', help='sample from the fewest tokens of total probability P only'
    )
    parser.add_argument('--beams', type=int, metavar='N', help='beam search with N beams instead of sampling')
    parser.add_argument('--seed', type=int, metavar='N', help='seed of the sampling (default: 0)')


def run(options: argparse.Namespace) -> None:
    """Prints each prompt with what the model makes of it."""
    from bigmodel_jax import verbs
    from bigmodel_jax.cli import process
    from bigmodel_jax.console import terminal
    from bigmodel_jax.report import artifact_text

    prompts = options.prompt or ['']
    experiment, how = arguments.load_experiment_of_run(options), _decoding(options)
    trained = verbs.open_run(options.run).restore(options.step, experiment)
    process.warn_of(trained.damage)
    console = terminal.Console()
    settings = {'tokens': options.tokens, 'how': how, 'seed': options.seed or 0, 'template': not options.no_template}
    for artifact in trained.sample(prompts, **settings):
        console.print(artifact_text.render(artifact), soft_wrap=True)


def _decoding(options: argparse.Namespace) -> 'Decoding':
    from bigmodel_jax import config
    from bigmodel_jax.evaluate.text import decoding

    if options.beams is not None:
        drawn = ('temperature', 'top_k', 'top_p', 'seed')
        arguments.refuse_ignored(options, drawn, 'not with --beams, which draws nothing')
        return config.check(decoding.Beam(beams=options.beams))
    if options.temperature == 0:
        why = 'not with --temperature 0, which takes the most likely token and draws nothing'
        arguments.refuse_ignored(options, ('top_k', 'top_p', 'seed'), why)
        return decoding.Greedy()
    temperature = 1.0 if options.temperature is None else options.temperature
    return config.check(decoding.Sampling(temperature=temperature, top_k=options.top_k, top_p=options.top_p))


VERB = Verb('generate text from a checkpoint, or classify text', _add_arguments, run, file_as='option')
