"""evaluate: the evaluations of a run's experiment, on one of its checkpoints."""

import argparse

from bigmodel_jax.cli import arguments
from bigmodel_jax.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    arguments.add_run(parser, settings=True)
    arguments.add_simulated_devices(parser)
    arguments.add_hosts(parser)
    arguments.add_checkpoint(parser)
    parser.add_argument(
        '--average', type=arguments.positive, metavar='N', help='the mean of the last N checkpoints up to --step'
    )


def run(options: argparse.Namespace) -> None:
    """Prints what each evaluation found."""
    from bigmodel_jax import verbs
    from bigmodel_jax.cli import process
    from bigmodel_jax.console import terminal
    from bigmodel_jax.hosts import processes
    from bigmodel_jax.report import artifact_text
    from bigmodel_jax.train.monitoring import progress

    experiment = processes.run_on_all(lambda: arguments.load_experiment_of_run(options))
    run = processes.run_on_all(lambda: verbs.open_run(options.run))
    if options.average is None:
        trained = processes.run_on_all(lambda: run.restore(options.step, experiment))
    else:
        trained = processes.run_on_all(lambda: run.average(options.average, options.step, experiment))
    process.warn_of(trained.damage)
    found = trained.evaluate()
    if not processes.is_first():
        return
    if trained.averaged:
        print(f'the mean of the checkpoints of steps {", ".join(map(str, trained.averaged))}')
    console = terminal.Console()
    for name, result in found.items():
        for key, measured in result.metrics.items():
            unit = f' {measured.unit}' if measured.unit else ''
            print(f'{terminal.printable(name)}/{key}: {progress.short(measured.value)}{unit}')
        for artifact in result.artifacts:
            console.print(artifact_text.render(artifact), soft_wrap=True)
    if not found:
        print('The experiment has no evaluations.')


VERB = Verb('run the evaluations on a checkpoint', _add_arguments, run, file_as='option', several_hosts=True)
