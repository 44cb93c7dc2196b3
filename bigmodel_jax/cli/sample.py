"""sample: what a model makes of new text (a continuation, a translation or labels), or images that it generates."""

import argparse
import typing

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb

if typing.TYPE_CHECKING:
    from bigmodel_jax.evaluate.text.decoding import Decoding
    from bigmodel_jax.experiment import Experiment
    from bigmodel_jax.runs.directory import Run

OF_TEXT = ('prompt', 'no_template', 'tokens', 'temperature', 'top_k', 'top_p', 'beams')
OF_IMAGES = ('count', 'class', 'sampler_steps', 'guidance', 'out')


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
    _add_image_arguments(parser)


def _add_image_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        'a run that generates images', 'An image follows from the seed, its index and its class, whatever --count is.'
    )
    group.add_argument('--out', metavar='DIR', help='write each image here, as a PNG; no file is overwritten')
    group.add_argument(
        '--count', type=arguments.positive, metavar='N', help='how many (default: one of each --class, or 8)'
    )
    group.add_argument(
        '--class',
        type=arguments.natural,
        action='append',
        metavar='C',
        help='the class of the images, by its number; may be given several times, and they are taken in turn '
        '(default: all classes)',
    )
    group.add_argument(
        '--sampler-steps', type=arguments.positive, metavar='N', help="default: those of the run's own sampler"
    )
    group.add_argument(
        '--guidance',
        type=float,
        metavar='SCALE',
        help="towards the class; 1 is without (default: that of the run's own sampler)",
    )


def run(options: argparse.Namespace) -> None:
    """Prints each prompt with what the model makes of it; or writes images, and prints their files."""
    from bigmodel_jax import verbs
    from bigmodel_jax.runs import generated_images

    given, how = arguments.load_experiment_of_run(options), _decoding(options)
    opened = verbs.open_run(options.run)
    experiment = opened.experiment if given is None else given
    if generated_images.makes_images(experiment):
        arguments.refuse_ignored(options, OF_TEXT, 'not of a run that generates images')
        _write_images(options, opened, experiment)
    else:
        arguments.refuse_ignored(options, OF_IMAGES, 'only of a run that generates images')
        _print_texts(options, opened, experiment, how)


def _write_images(options: argparse.Namespace, opened: 'Run', experiment: 'Experiment') -> None:
    from bigmodel_jax import config
    from bigmodel_jax.cli import process
    from bigmodel_jax.runs import generated_images
    from bigmodel_jax.storage import durable_files

    if options.out is None:
        raise config.InputError('The run generates images; say where to write them: --out DIR.')
    classes, seed = tuple(getattr(options, 'class') or ()), options.seed or 0
    how = {'steps': options.sampler_steps, 'guidance': options.guidance}
    sampler = generated_images.sampler_of(experiment, **how)
    request = config.check(
        generated_images.ImageRequest(count=options.count, classes=classes, seed=seed, sampler=sampler)
    )
    directory = durable_files.directory(options.out)
    names = [generated_images.file_name(seed, *each) for each in enumerate(request.labels(experiment).tolist())]
    paths = [directory / name for name in names]
    there = next((path for path in paths if durable_files.exists(path)), None)
    if there is not None:
        raise config.InputError(f'{there} is there already; nothing was written. Use another --out or --seed.')
    trained = opened.restore(options.step, experiment)
    process.warn_of(trained.damage)
    images = trained.images(request)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise config.InputError(f'--out {options.out} cannot be made: {error}. Use another directory.') from error
    for path, image in zip(paths, images):
        durable_files.write(path, image.content)
        print(path, flush=True)


def _print_texts(options: argparse.Namespace, opened: 'Run', experiment: 'Experiment', how: 'Decoding') -> None:
    from bigmodel_jax.cli import process
    from bigmodel_jax.console import terminal
    from bigmodel_jax.report import artifact_text

    prompts = options.prompt or ['']
    trained = opened.restore(options.step, experiment)
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


VERB = Verb('generate text or images from a checkpoint, or classify text', _add_arguments, run, file_as='option')
