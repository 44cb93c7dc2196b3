"""What each verb of the command line does with its arguments, and what it prints."""

import argparse
import logging
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import jax

from bigmodel_jax import config, experiment_file, tree, verbs
from bigmodel_jax.checkpoints.checkpoints import NotSaved
from bigmodel_jax.console import terminal
from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.hosts import preemption, processes
from bigmodel_jax.interop import screen as published
from bigmodel_jax.launch import hosts, platforms
from bigmodel_jax.papers import checks, claims_screen
from bigmodel_jax.parallel import sharding
from bigmodel_jax.plan import page, prices, slices
from bigmodel_jax.plan import render as renderings
from bigmodel_jax.plan import search as searching
from bigmodel_jax.report import describe as descriptions
from bigmodel_jax.report import show as shown
from bigmodel_jax.reproduce import verify_view
from bigmodel_jax.run_directory import locking
from bigmodel_jax.runs import directory
from bigmodel_jax.storage import durable_files
from bigmodel_jax.train import device_memory, loop, progress
from bigmodel_jax.train.metrics import Anomalous


def run(options: argparse.Namespace) -> int:
    """Runs the verb of `options`; wrong input becomes one message and exit status 2."""
    # Orbax and TFDS report the normal course of things as warnings; and a failed save as an error with its traceback,
    # which they raise as well, and the run tells in a sentence.
    logging.getLogger('absl').setLevel(logging.CRITICAL)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _unraisable
    try:
        platforms.without_missing_tpu()
        if getattr(options, 'simulate_devices', None):
            jax.config.update('jax_platforms', 'cpu')
            jax.config.update('jax_num_cpu_devices', options.simulate_devices)
        if options.verb in ON_SEVERAL_HOSTS:
            device_memory.keep_freed()
            hosts.join(options.coordinator, options.processes, options.process)
        status = VERBS[options.verb](options)
    except config.InputError as error:
        agreed = isinstance(error, processes.CollectiveError)  # Known to all hosts.
        if processes.is_first() or not agreed:
            terminal.explain(error, debug=options.debug, host='' if agreed else _host())
        return 2 if agreed else hosts.leave(2)
    except (Anomalous, NotSaved) as error:  # Known to all hosts.
        if processes.is_first():
            print(f'stopped: {terminal.printable(error)}', file=sys.stderr)
        return 1
    except locking.Taken as error:
        print(f'stopped: {_host()}{error}', file=sys.stderr)
        return hosts.leave(1)
    except KeyboardInterrupt:
        return hosts.leave(128 + signal.SIGINT)
    except BaseException as error:
        if isinstance(error, OSError | ValueError) and durable_files.is_of_the_storage(
            error
        ):  # TensorStore: ValueError.
            print(f'error: {_host()}{durable_files.brief(error)}. {durable_files.ADVICE}', file=sys.stderr)
            return hosts.leave(1)
        if processes.count() > 1:
            # One that lost another host, which failed first, has nothing of its own to show.
            is_told = isinstance(error, jax.errors.JaxRuntimeError) and not options.debug
            if not is_told:
                traceback.print_exc()
            what = durable_files.brief(error).rstrip('.') if is_told else 'failed, as shown above'
            advice = 'Where a connection was lost, another host failed first. The same command goes on with the run.'
            print(f'error: {_host()}{what}. {advice}', file=sys.stderr)
            hosts.leave(1)
        raise
    return status or 0


def _unraisable(what: Any) -> None:
    """Leaves out that a write of TensorStore ended after the save that it belonged to had failed."""
    if not (isinstance(what.exc_value, RuntimeError) and str(what.exc_value) == 'Event loop is closed'):
        sys.__unraisablehook__(what)


def _host() -> str:
    return f'host {processes.index()}: ' if processes.count() > 1 else ''


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
    """Prints the experiment, its number of parameters, and how attention is computed on its mesh."""
    experiment = _experiment(options)
    console = terminal.Console()
    console.print(tree.render(experiment), soft_wrap=True)
    console.print(f'\n{verbs.parameters(experiment):,} parameters')
    for line in shown.attention(experiment):
        console.print(line, soft_wrap=True)


def check(options: argparse.Namespace) -> int:
    """Prints each claim of the paper with its verdict; returns 1 if one differs."""
    # An accelerator that this machine may have is none of our business.
    jax.config.update('jax_platforms', 'cpu')
    experiments, asked = experiment_file.load_arms(options.experiment, options.set, options.arg)
    found = verbs.check(experiments, asked)
    terminal.Console().print(claims_screen.checked(found), soft_wrap=True)
    if options.json:
        checks.write(options.json, found)
    return 1 if any(each.verdict == checks.DIFFERS for each in found) else 0


def train(options: argparse.Namespace) -> int:
    """Trains, and says how it ended and where everything is.

    Returns:
      1 if a log is not on disk; else 128 + the number of the signal that stopped it, or 0.
    """
    experiment = processes.run_on_all(lambda: _experiment(options))
    result = loop.train(
        experiment,
        options.workdir,
        stop_after=options.stop_after,
        wandb=options.wandb,
        new_segment=options.new_segment,
        profile=options.profile,
    )
    if not processes.is_first():
        return preemption.status(result.stopped_by)
    for name, value in result.metrics.items():
        print(f'{terminal.printable(name)}: {progress.short(value)}')
    print(f'digest of the state at step {result.step}: {result.digest}')
    try:
        print(f'report: {verbs.write_report(result.workdir)}')
    except (config.InputError, OSError) as error:  # What was trained is as good without it.
        print(f'no report: {durable_files.brief(error)}', file=sys.stderr)
    if result.finished_early is not None:
        print(f'finished early at step {result.step} of {experiment.steps}: {result.finished_early}.')
    elif result.stopped_by is not None:
        again = 'the same command without --stop-after' if result.stopped_by == 'stop_after' else 'the same command'
        print(f'stopped by {result.stopped_by} at step {result.step} of {experiment.steps}; {again} resumes it.')
    if result.unwritten:
        print(f'incomplete: {"; ".join(result.unwritten)}. The checkpoints are complete.', file=sys.stderr)
    return 1 if result.unwritten else preemption.status(result.stopped_by)


def evaluate(options: argparse.Namespace) -> None:
    """Prints what each evaluation found."""
    experiment = processes.run_on_all(lambda: _experiment_if_named(options))
    run = processes.run_on_all(lambda: verbs.open_run(options.workdir))
    if options.average is None:
        trained = processes.run_on_all(lambda: run.restore(options.step, experiment))
    else:
        trained = processes.run_on_all(lambda: run.average(options.average, options.step, experiment))
    _warn_of(trained.damage)
    found = trained.evaluate()
    if not processes.is_first():
        return
    if trained.averaged:
        print(f'the mean of the checkpoints of steps {", ".join(map(str, trained.averaged))}')
    for name, result in found.items():
        for key, measured in result.metrics.items():
            unit = f' {measured.unit}' if measured.unit else ''
            print(f'{terminal.printable(name)}/{key}: {progress.short(measured.value)}{unit}')
    if not found:
        print('The experiment has no evaluations.')


def sample(options: argparse.Namespace) -> None:
    """Prints each prompt with what the model makes of it."""
    prompts = options.prompt or ['']
    experiment, how = _experiment_if_named(options), _decoding(options)
    trained = verbs.open_run(options.workdir).restore(options.step, experiment)
    _warn_of(trained.damage)
    texts = trained.sample(prompts, tokens=options.tokens, how=how, seed=options.seed)
    console = terminal.Console()
    for prompt, text in zip(prompts, texts):
        console.print(prompt, style='bold', end='', soft_wrap=True)
        console.print(text, soft_wrap=True)


def _warn_of(damage: Sequence[str]) -> None:
    """Says which newer checkpoints were not used."""
    for text in damage if processes.is_first() else ():
        print(f'damaged: {terminal.printable(text)}', file=sys.stderr)


def _decoding(options: argparse.Namespace) -> decoding.Decoding:
    if options.beams is not None:
        return config.check(decoding.Beam(beams=options.beams))
    if options.temperature == 0:
        return decoding.Greedy()
    how = decoding.Sampling(temperature=options.temperature, top_k=options.top_k, top_p=options.top_p)
    return config.check(how)


def report(options: argparse.Namespace) -> None:
    """Writes the report and prints its path; before that, what came of the paper's claims, if there are any."""
    # An accelerator that this machine may have is none of our business; the run itself may be using it.
    jax.config.update('jax_platforms', 'cpu')
    _experiment_if_named(options)  # Loads the parts of its own that the file defines.
    found = verbs.judge(options.workdir, options.seeds)
    _note(verbs.open_run(options.workdir))
    if found:
        terminal.Console().print(claims_screen.judged(found), soft_wrap=True)
    print(verbs.write_report(options.workdir, seeds=options.seeds))


def _note(run: directory.Run) -> None:
    """What the report lacks, on stderr."""
    if run.unloaded:
        print(f'note: no claim is judged. {terminal.printable(run.unloaded)}', file=sys.stderr)
    for sentence in run.damage:
        print(f'warning: {terminal.printable(sentence)}', file=sys.stderr)


def describe(options: argparse.Namespace) -> None:
    """Prints every array."""
    groups = verbs.describe(_experiment(options))
    terminal.Console().print(descriptions.render(groups), soft_wrap=True)


def plan(options: argparse.Namespace) -> None:
    """Prints what each slice would make of the experiment; or, with --search, the best ways to run it."""
    # An accelerator that this machine may have is none of our business.
    jax.config.update('jax_platforms', 'cpu')
    _check_planning(options)
    experiment, on = _experiment(options), [slices.parse(name) for name in options.topology]
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


def verify(options: argparse.Namespace) -> int:
    """Prints whether a run comes out the same; returns 0 if it does, 1 if not."""
    console = terminal.Console()
    found = verbs.verify(
        options.run,
        steps=options.steps,
        between=None if options.between is None else tuple(options.between),
        experiment_file=options.experiment,
        keep=options.keep,
        say=terminal.Console(stderr=True, style='yellow').print,
    )
    console.print(verify_view.verification(found))
    return 0 if found.identical else 1


def replay(options: argparse.Namespace) -> int:
    """Prints what a step was; returns 1 if it is not what the run recorded."""
    found = verbs.replay(options.run, options.step, skipped=options.skipped, experiment_file=options.experiment)
    terminal.Console().print(verify_view.replayed(found, options.examples))
    return 1 if found.identical is False else 0


def convert(options: argparse.Namespace) -> None:
    """Prints where the converted model is, and what of it was not used."""
    print(published.converted(verbs.convert(options.source, options.destination)))


def certify(options: argparse.Namespace) -> int:
    """Prints how far each output is from the reference; returns 1 if one is further than rounding."""
    found = verbs.certify(options.directory, options.against, dtype=options.dtype, tolerance=options.tolerance)
    terminal.Console().print(published.certified(found))
    print(published.verdict(found))
    return 0 if found.first is None else 1


def _check_planning(options: argparse.Namespace) -> None:
    """Raises InputError for options that would be ignored, and for a place where nothing can be written."""
    names = ('batch', 'axes', 'by_dollars', 'confirm')
    ignored = [f'--{name.replace("_", "-")}' for name in names if getattr(options, name)]
    if ignored and not options.search:
        advice = ' To plan another batch, use --set data.batch=N.' if '--batch' in ignored else ''
        raise config.InputError(f'{" and ".join(ignored)}: only with --search.{advice}')
    if options.search and options.fast:
        raise config.InputError('--search already ranks by formula; leave out --fast, or use --confirm N to compile.')
    if options.out and options.search and not options.confirm:
        raise config.InputError('--out writes the plans that --confirm N compiles; give --confirm, or leave out --out.')
    if options.out:
        page.check(options.out)


def _space(options: argparse.Namespace) -> searching.Space:
    """What --search tries."""
    axes = tuple(options.axes.split(',')) if options.axes else searching.AXES
    for axis in axes:
        if axis not in sharding.AXES:
            near = config.nearest(axis, sharding.AXES)
            raise config.InputError(f'--axes {options.axes}: there is no mesh axis {axis!r}.{near}')
    return config.check(searching.Space(axes=axes, batches=tuple(options.batch) if options.batch else None))


ON_SEVERAL_HOSTS = ('train', 'evaluate')
VERBS = {
    'show': show,
    'check': check,
    'train': train,
    'evaluate': evaluate,
    'sample': sample,
    'report': report,
    'describe': describe,
    'plan': plan,
    'verify': verify,
    'replay': replay,
    'convert': convert,
    'certify': certify,
}
