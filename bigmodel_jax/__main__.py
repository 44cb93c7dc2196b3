"""The command line: `python -m bigmodel_jax VERB EXPERIMENT ...`. Finds the verb and imports only what it needs."""

import argparse
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from bigmodel_jax import __version__
from bigmodel_jax.cli import completion
from bigmodel_jax.console import output

LARGEST = 2**31 - 1  # Steps, tokens and the like are 32-bit integers on the devices.


def positive(text: str) -> int:
    """A whole number from 1, as an argument."""
    return _whole(text, least=1)


def natural(text: str) -> int:
    """A whole number from 0, as an argument."""
    return _whole(text, least=0)


def _whole(text: str, *, least: int) -> int:
    if not text.isascii() or not text.isdecimal() or not least <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from {least} to {LARGEST:,}')
    return int(text)


def step_range(text: str) -> tuple[int, int]:
    """Steps as FIRST:LAST, as an argument."""
    first, colon, last = text.partition(':')
    if not colon:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form FIRST:LAST, such as 11:15')
    return positive(first), positive(last)


EXPERIMENT_HELP = """\
an experiment file, as FILE.py[:FUNCTION[/ARM]]; the function is experiment() unless another is named:
  experiments/quickstart.py          its experiment()
  experiments/gpt2.py:smoke          its smoke(), a minute on a laptop
  experiments/pods.py:sweep/llama2_7b_v5e  one arm of its sweep()"""

VERBS = {
    'show': 'the whole experiment as it will run, its parameters, and where each value came from',
    'check': 'what the paper says of it, claim by claim, against what it is; needs neither data nor memory',
    'train': 'train, or resume from the newest checkpoint in the work directory',
    'evaluate': 'run the evaluations on a checkpoint',
    'sample': 'generate text from the newest checkpoint',
    'report': 'write report.html: curves, samples, experiment, environment, and a verdict on each claim of the paper',
    'describe': 'every array: shape, dtype, logical axes, sharding, bytes per device',
    'plan': 'memory, step time and cost of a training step on a slice, without access to the slice',
    'diff': 'where two runs differ, and why, from what they recorded',
    'verify': 'repeat a run, or a part of it, and say whether it comes out the same bit for bit',
    'replay': 'run one step of a run again, and name the examples in its batch with their losses',
    'convert': 'convert a Hugging Face model to a run, or a run to a Hugging Face model, one tensor at a time',
    'certify': 'compare the outputs of a Hugging Face model with those recorded from the reference implementation',
}

STATUS = """\
exit status: 0 done, or stopped by --stop-after; 1 the training failed; 2 wrong input; 128 + N stopped by signal N, with
a checkpoint: 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP, 138 SIGUSR1, 140 SIGUSR2. The same command then resumes the run."""
ON_A_RUN = ('verify', 'replay')
ON_DIRECTORIES = ('diff', 'convert', 'certify')
SIMULATE: tuple[tuple[str], dict[str, Any]] = (
    ('--simulate-devices',),
    {'type': positive, 'metavar': 'N', 'help': 'split the CPU into N devices, to try a mesh on this machine'},
)


class _PrintCompletion(argparse.Action):
    """Prints the completion script of a shell, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        try:
            print(completion.script(parser, values))
        except ImportError:
            parser.error('completion needs shtab, which is not installed: pip install shtab')
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    formatter = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog='bigmodel_jax' if pathlib.PurePath(sys.argv[0]).name == 'bigmodel_jax' else 'python -m bigmodel_jax',
        description='Trains large models in JAX, from an experiment file to a report.',
        epilog='An experiment file also runs by itself: python experiments/quickstart.py train --workdir runs/q',
        formatter_class=formatter,
        allow_abbrev=False,
    )
    top.add_argument('--version', action='version', version=f'bigmodel_jax {__version__}')
    top.add_argument(
        '--print-completion',
        choices=completion.SHELLS,
        action=_PrintCompletion,
        help='print what makes a shell complete these commands on Tab, as in\n'
        'bigmodel_jax --print-completion bash >> ~/.bash_completion',
    )
    verbs = top.add_subparsers(dest='verb', metavar='VERB', required=True)
    for verb, summary in VERBS.items():
        text = f'{summary[0].upper()}{summary[1:]}.'
        sub = verbs.add_parser(
            verb,
            help=summary,
            description=text,
            epilog=STATUS if verb == 'train' else None,
            formatter_class=argparse.RawTextHelpFormatter,
            allow_abbrev=False,
        )
        _add_arguments(sub, verb)
        sub.add_argument('--debug', action='store_true', help='with an error, also print its whole traceback')
    return top


def _add_arguments(sub: argparse.ArgumentParser, verb: str) -> None:
    if verb == 'diff':
        _add_diff(sub)
    elif verb in ON_DIRECTORIES:
        _add_published(sub, verb)
    elif verb in ON_A_RUN:
        _add_run(sub, verb)
    else:
        _add_experiment(sub, verb)


def _add_diff(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('run_a', metavar='RUN_A', help='the directory of a run, local or gs://')
    sub.add_argument('run_b', metavar='RUN_B', help='the directory of another')
    sub.add_argument('--json', metavar='FILE', help='also write what was found to this file')


def _add_published(sub: argparse.ArgumentParser, verb: str) -> None:
    if verb == 'convert':
        sub.add_argument('source', metavar='SRC', help='with config.json and *.safetensors, or the directory of a run')
        sub.add_argument('destination', metavar='DST', help='a directory that does not exist yet')
        return
    sub.add_argument('directory', metavar='DIR', help='with config.json and *.safetensors')
    sub.add_argument(
        '--against', required=True, metavar='FILE', help='an .npz of in/INPUT, and out/OUTPUT or out64/OUTPUT, or both'
    )
    sub.add_argument(
        '--dtype',
        choices=('float32', 'float64', 'bfloat16'),
        default='float32',
        help='compute in it (default: float32)',
    )
    sub.add_argument('--tolerance', type=float, metavar='X', help='the largest difference that is rounding')


def _add_run(sub: argparse.ArgumentParser, verb: str) -> None:
    sub.add_argument('run', metavar='RUN', help='the directory of the run, local or gs://; it is only read')
    sub.add_argument(
        '--experiment',
        metavar='FILE[:FUNCTION]',
        help='the experiment file; needed only if it has parts of its own. With a function, the experiment is\n'
        'checked to be that of the run',
    )
    sub.add_argument(*SIMULATE[0], **SIMULATE[1])
    if verb == 'verify':
        sub.add_argument('--keep', metavar='DIR', help='repeat in this new directory, and keep it')
        which = sub.add_mutually_exclusive_group()
        which.add_argument('--steps', type=positive, metavar='N', help='the first N steps (default: all that it ran)')
        which.add_argument('--between', type=natural, nargs=2, metavar=('A', 'B'), help='from checkpoint A to step B')
    else:
        sub.add_argument('--step', type=positive, required=True, metavar='K', help='which step; the first is 1')
        sub.add_argument(
            '--skipped',
            type=natural,
            metavar='N',
            help='with N batches left out before it: what it was before the run rolled back (default: as it holds)',
        )
        sub.add_argument('--examples', type=positive, default=8, metavar='N', help='show the N worst (default: 8)')


def _add_experiment(sub: argparse.ArgumentParser, verb: str) -> None:
    stored = verb in ('evaluate', 'sample', 'report')
    more = (
        '\nMay be left out: the run holds its experiment. Needed if that has parts of its own file.' if stored else ''
    )
    sub.add_argument('experiment', metavar='EXPERIMENT', nargs='?' if stored else None, help=EXPERIMENT_HELP + more)
    if verb in ('train', 'evaluate', 'sample', 'report'):
        sub.add_argument('--workdir', required=True, metavar='DIR', help='the directory of the run, local or gs://')
    sub.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='PATH=VALUE',
        help='change a field, for example optimizer.schedule.peak=1e-3 or "model.block.ffn=Gated(hidden=256)";\n'
        'may be given several times, and is recorded',
    )
    sub.add_argument(
        '--arg',
        action='append',
        default=[],
        metavar='NAME=VALUE',
        help="an argument of the experiment's function, where it takes any, such as path=input.txt",
    )
    if verb != 'report':
        sub.add_argument(*SIMULATE[0], **SIMULATE[1])
    if verb in ('train', 'evaluate'):
        _add_hosts(sub)
    if verb in ('evaluate', 'sample'):
        sub.add_argument('--step', type=natural, metavar='N', help='the checkpoint of this step (default: the newest)')
    if verb == 'evaluate':
        sub.add_argument(
            '--average', type=positive, metavar='N', help='the mean of the last N checkpoints up to --step'
        )
    if verb == 'train':
        _add_training(sub)
    if verb == 'report':
        sub.add_argument(
            '--seeds',
            nargs='+',
            default=[],
            metavar='DIR',
            help='other runs that differ in the seed alone: the numbers of the paper are judged with their interval',
        )
    if verb == 'check':
        sub.add_argument('--json', metavar='FILE', help='also write the verdicts to this file')
    if verb == 'sample':
        _add_sampling(sub)
    if verb == 'plan':
        _add_planning(sub)


def _add_training(sub: argparse.ArgumentParser) -> None:
    sub.add_argument('--stop-after', type=positive, metavar='STEP', help='stop with a checkpoint after this step')
    sub.add_argument(
        '--new-segment',
        action='store_true',
        help='continue the run in --workdir with another experiment or other data from its last checkpoint,\n'
        'such as another optimizer, schedule or text. Weights, step and tokenizer stay, and the state of the\n'
        'optimizer where it fits; the steps before are kept as an earlier segment of the run. Not needed for\n'
        'other evaluations, or for more steps where the learning rates stay the same',
    )
    sub.add_argument('--wandb', metavar='PROJECT', help='also log to this project of Weights & Biases')
    sub.add_argument(
        '--profile',
        type=step_range,
        metavar='FIRST:LAST',
        help='trace these steps on the first host with jax.profiler into DIR/profile, for XProf, TensorBoard or\n'
        'Perfetto. The first step of a session also compiles; choose later ones. Changes no result',
    )


def _add_hosts(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group(
        'several hosts',
        'One process on each. On Cloud TPU, Slurm and GKE they find each other; elsewhere give all three.\n'
        'To try it on this machine: scripts/simulate_hosts --help.',
    )
    group.add_argument('--coordinator', metavar='HOST:PORT', help='where the others reach process 0; a free port there')
    group.add_argument('--processes', type=positive, metavar='N', help='how many processes there are')
    group.add_argument('--process', type=natural, metavar='I', help='which one this is, from 0')


def _add_planning(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        '--topology',
        action='append',
        required=True,
        metavar='SLICE',
        help='a slice, such as v5p:4x4x4, v5e-256, "2*v5e:16x16" for two joined by the network, or h100:8;\n'
        'may be given several times',
    )
    sub.add_argument('--fast', action='store_true', help='by formula, in seconds, without the TPU compiler')
    sub.add_argument(
        '--search', action='store_true', help='try every legal mesh, number of microbatches and remat, by formula'
    )
    sub.add_argument(
        '--batch', type=positive, action='append', metavar='N', help='with --search: try this batch; may be repeated'
    )
    sub.add_argument('--axes', metavar='A,B', help='with --search: the mesh axes to use (default: data,fsdp,tensor)')
    sub.add_argument('--by-dollars', action='store_true', help='with --search: the cheapest first')
    sub.add_argument('--confirm', type=positive, metavar='N', help='with --search: compile the best N')
    sub.add_argument('--prices', metavar='FILE', help='your own prices, a file of the form of plan/prices.json')
    sub.add_argument('--out', metavar='DIR', help='write plan.json and plan.html there')


def _add_sampling(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        '--prompt',
        action='append',
        metavar='TEXT',
        help='what to go on from, or to translate; may be given several times',
    )
    sub.add_argument('--tokens', type=positive, default=200, metavar='N', help='new tokens at most (default: 200)')
    sub.add_argument('--temperature', type=float, default=1.0, metavar='T', help='0 is greedy (default: 1)')
    sub.add_argument('--top-k', type=int, metavar='K', help='draw from the K most likely tokens only')
    sub.add_argument('--top-p', type=float, metavar='P', help='draw from the fewest tokens of total probability P only')
    sub.add_argument('--beams', type=int, metavar='N', help='beam search with N beams instead of sampling')
    sub.add_argument('--seed', type=int, default=0, metavar='N', help='of the draws (default: 0)')


def main(file: str | None = None, argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status; see STATUS.

    Args:
      file: the experiment file that calls this to run by itself; it becomes the EXPERIMENT.
      argv: the arguments; by default the command line's.
    """
    if argv is None:
        with output.outlasting():
            return main(file, sys.argv[1:])
    arguments = list(argv)
    if file is not None and arguments and arguments[0] in VERBS:
        function = arguments.pop(1) if arguments[1:] and arguments[1].startswith(':') else ''
        if arguments[0] in ON_A_RUN:
            arguments += ['--experiment', file + function]
        elif arguments[0] not in ON_DIRECTORIES:
            arguments.insert(1, file + function)
    options = parser().parse_args(arguments)
    if options.verb == 'diff':
        from bigmodel_jax.cli import diff as reading  # Without JAX, which takes seconds to start.

        return reading.diff(options)
    from bigmodel_jax.cli import commands  # Only now, so that --help starts at once.

    return commands.run(options)


if __name__ == '__main__':
    sys.exit(main())
