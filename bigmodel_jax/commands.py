"""What each verb of the command line does with its arguments, and what it prints."""

import argparse
import logging
import signal
import sys

import jax
import rich.console

from bigmodel_jax import config, experiment_file, verbs
from bigmodel_jax.evaluate import decoding
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.runs import describe as descriptions
from bigmodel_jax.runs import show as shown
from bigmodel_jax.train import progress
from bigmodel_jax.train.metrics import NotFinite


def run(options: argparse.Namespace) -> int:
    """Runs the verb of `options`; wrong input becomes one message and exit status 2."""
    # Orbax and TFDS report the normal course of things as warnings.
    logging.getLogger('absl').setLevel(logging.ERROR)
    try:
        if getattr(options, 'simulate_devices', None):
            jax.config.update('jax_platforms', 'cpu')
            jax.config.update('jax_num_cpu_devices', options.simulate_devices)
        VERBS[options.verb](options)
    except config.InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    except NotFinite as error:
        print(f'stopped: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _experiment(options: argparse.Namespace) -> Experiment:
    """The experiment named on the command line."""
    return experiment_file.load(options.experiment, options.set, options.arg)


def _experiment_if_named(options: argparse.Namespace) -> Experiment | None:
    """The experiment named on the command line; None if it is left to the run."""
    if options.experiment is not None:
        return _experiment(options)
    if options.set or options.arg:
        raise config.InputError('--set and --arg are for an experiment; name the EXPERIMENT too.')
    return None


def show(options: argparse.Namespace) -> None:
    """Prints the experiment and its number of parameters."""
    experiment = _experiment(options)
    console = rich.console.Console(highlight=False)
    console.print(shown.render(experiment), soft_wrap=True)
    console.print(f'\n{verbs.parameters(experiment):,} parameters')


def train(options: argparse.Namespace) -> None:
    """Trains, and says how it ended and where everything is."""
    experiment = _experiment(options)
    result = verbs.train(experiment, options.workdir, stop_after=options.stop_after, wandb=options.wandb)
    for name, value in result.metrics.items():
        print(f'{name}: {progress.short(value)}')
    print(f'digest of the state at step {result.step}: {result.digest}')
    print(f'report: {result.workdir / "report.html"}')
    if result.stopped_by is not None:
        print(f'stopped by {result.stopped_by} at step {result.step} of {experiment.steps}; the same command goes on.')


def evaluate(options: argparse.Namespace) -> None:
    """Prints what each evaluation found."""
    experiment = _experiment_if_named(options)
    outcomes = verbs.open_run(options.workdir).restore(options.step, experiment).evaluate()
    for name, outcome in outcomes.items():
        for key, value in outcome.items():
            if isinstance(value, float):
                print(f'{name}/{key}: {progress.short(value)}')
    if not outcomes:
        print('The experiment has no evaluations.')


def sample(options: argparse.Namespace) -> None:
    """Prints each prompt with what the model makes of it."""
    prompts = options.prompt or ['']
    experiment, how = _experiment_if_named(options), _decoding(options)
    trained = verbs.open_run(options.workdir).restore(options.step, experiment)
    texts = trained.sample(prompts, tokens=options.tokens, how=how, seed=options.seed)
    console = rich.console.Console(highlight=False)
    for prompt, text in zip(prompts, texts):
        console.print(prompt, style='bold', end='', markup=False, soft_wrap=True)
        console.print(text, markup=False, soft_wrap=True)


def _decoding(options: argparse.Namespace) -> decoding.Decoding:
    if options.beams is not None:
        return config.check(decoding.Beam(beams=options.beams))
    if options.temperature == 0:
        return decoding.Greedy()
    how = decoding.Sampling(temperature=options.temperature, top_k=options.top_k, top_p=options.top_p)
    return config.check(how)


def report(options: argparse.Namespace) -> None:
    """Writes the report and prints its path."""
    _experiment_if_named(options)  # Loads the parts of its own that the file defines.
    print(verbs.write_report(options.workdir))


def describe(options: argparse.Namespace) -> None:
    """Prints every array."""
    groups = verbs.describe(_experiment(options))
    rich.console.Console(highlight=False).print(descriptions.render(groups), soft_wrap=True)


VERBS = {
    'show': show,
    'train': train,
    'evaluate': evaluate,
    'sample': sample,
    'report': report,
    'describe': describe,
}
