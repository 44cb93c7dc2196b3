"""What can be done next with a run: the exact commands, from the one that started it, or the same calls in Python."""

import shlex
from collections.abc import Sequence

from bigmodel_jax.runs import directory

RESUME, EVALUATE = 'Resume from the newest checkpoint', 'Evaluate the newest checkpoint'
GENERATE, REPORT = 'Generate text', 'Write this report again'
IMPORT = 'from bigmodel_jax import verbs'
BY_MODULE = 'python -m bigmodel_jax'
# Options that say what the experiment is, and on what it computes; the others are of one session.
EXPERIMENT, PLACE = ('--set', '--arg'), ('--simulate-devices',)


def next_commands(run: directory.Run) -> list[tuple[str, str]]:
    """What can be done next, and the command for it."""
    argv = run.environment[-1].get('command') or [] if run.environment else []
    if 'train' not in argv:
        return _in_python(run)
    verb = argv.index('train')
    program = argv[verb - 1] if verb else ''
    # An experiment file can run by itself.
    start = f'python {shlex.quote(program)}' if program.endswith('.py') and '__main__' not in program else BY_MODULE
    names, options = _split(argv[verb + 1 :])
    # A file that runs by itself names itself; ':smoke' is one of its functions.
    file = names if start != BY_MODULE else ['--experiment', *names] if names else []

    def command(verb: str, words: Sequence[str], kept: Sequence[str]) -> str:
        given = [word for option in options if option[0].partition('=')[0] in kept for word in option]
        return f'{start} {verb} {shlex.join([*words, *given])}'

    path, every = str(run.path), EXPERIMENT + PLACE
    of_run = [*file, path] if start != BY_MODULE else [path, *file]
    commands = [
        (RESUME, command('train', [*names, '--workdir', path], every)),
        (EVALUATE, command('evaluate', of_run, every)),
        (GENERATE, command('sample', of_run, every)),
        (REPORT, command('report', of_run, EXPERIMENT)),
    ]
    return [each for each in commands if each[0] in possible(run)]


def possible(run: directory.Run) -> list[str]:
    """What can be done with a run: a finished one cannot be resumed, and only a run on text generates text."""
    generates = bool(run.environment and run.environment[-1].get('tokenizer'))
    return [*([] if run.finished else [RESUME]), EVALUATE, *([GENERATE] if generates else []), REPORT]


def _split(arguments: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """The positional arguments; and the options, all with a value, each as ['--set', 'a=1'] or ['--set=a=1']."""
    names: list[str] = []
    options: list[list[str]] = []
    for argument in arguments:
        if argument.startswith('--'):
            options.append([argument])
        elif options and len(options[-1]) == 1 and '=' not in options[-1][0]:
            options[-1].append(argument)
        else:
            names.append(argument)
    return names, options


def _in_python(run: directory.Run) -> list[tuple[str, str]]:
    """The same as Python calls, of a run that Python started."""
    path = repr(str(run.path))
    calls = {
        RESUME: f'verbs.train(verbs.open_run({path}).experiment, {path})',
        EVALUATE: f'verbs.open_run({path}).restore().evaluate()',
        GENERATE: f"verbs.open_run({path}).sample('Once')",
        REPORT: f'verbs.write_report({path})',
    }
    return [(purpose, f'{IMPORT}\n{calls[purpose]}') for purpose in possible(run)]
