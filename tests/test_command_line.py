"""The command line: wrong input gets one message, exit status 2, no traceback and no half-written run."""

import argparse
import pathlib

import jax
import pytest

import tiny
from bigmodel_jax.__main__ import main
from bigmodel_jax.cli import process
from bigmodel_jax.cli.verb import Verb

FILE = tiny.__file__


@pytest.fixture
def command(capfd):
    """Runs a command in this process; returns its status, stdout and stderr."""

    def run(*arguments):
        status = main(argv=[str(argument) for argument in arguments])
        printed = capfd.readouterr()
        return status, printed.out, printed.err

    return run


def text_data(path):
    """Settings that make the tiny experiment read a text file."""
    source = f'TextFile(path="{path}")'
    return ['--set', f'data=Text(source={source}, tokenizer=Bytes(), batch=8, length=16)', '--set', 'model.vocab=320']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--set', 'optimizer.schedul.peak=1'], "AdamW has no field 'schedul'. Did you mean 'schedule'?"),
        (['--set', 'steps=many'], "steps = 'many' (a str): should be a valid integer"),
        (['--set', 'objective=LayerNorm()'], 'objective = LayerNorm() (a LayerNorm): should be a Objective'),
        (['--set', 'model.block.mixer.heads=3'], 'attention.heads=3 does not divide the model width 16'),
        (['--set', 'model.vocab=32'], 'model.vocab=32 is too small: the tokenizer has 64 tokens. Use model.vocab=64'),
        (['--set', 'model.positions.length=8'], 'model.positions.length=8 is shorter than the data (16 tokens)'),
        (['--set', 'data.batch=6', '--set', 'mesh.data=4'], 'data.batch=6 does not divide over the 4 batch shards'),
        (
            ['--set', 'gradients=Microbatches(parts=3)'],
            'data.batch=8 does not divide into the 3 microbatches of gradients=',
        ),
        (['--set', 'mesh.data=16'], 'needs 16 devices, but there are 8'),
        (
            ['--set', 'mesh.tensor=8', '--set', 'model.block.mixer.heads=4'],
            'does not divide over tensor = 8 devices',
        ),
        (['--set', 'optimizer.schedule.warmup_steps=50'], 'more than steps=20'),
        (['--set', 'checkpoints.keep_best=validaton/loss'], "Did you mean 'validation'?"),
        (
            ['--set', 'checkpoints.keep_best=validation/loss'],
            'measured every 10 steps, but checkpoints are saved every 8',
        ),
        (
            ['--set', 'checkpoints.every_steps=10', '--set', 'checkpoints.keep_best=validation/los'],
            "the evaluation 'validation' has no metric 'los'. Did you mean 'loss'?",
        ),
        (
            ['--set', 'watch.early_stopping=EarlyStopping(metric="validation/los")'],
            "watch.early_stopping.metric='validation/los': the evaluation 'validation' has no metric 'los'",
        ),
        (
            ['--set', 'watch.early_stopping=EarlyStopping(metric="test/loss")'],
            "watch.early_stopping.metric='test/loss' is not of the form evaluation/metric",
        ),
    ],
)
def test_wrong_settings(command, tmp_path, arguments, message):
    status, _, err = command('train', FILE, '--workdir', tmp_path / 'run', *arguments)
    assert (status, message in err, 'Traceback' in err) == (2, True, False), err
    assert err.startswith('error: ')
    assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('tests/tny.py', 'There is no experiment file tests/tny.py'),
        (f'{FILE}:experimnt', "has no function 'experimnt'. Did you mean 'experiment'?"),
        (f'{FILE}:arms/seed7', "arms() has no arm 'seed7'"),
        (f'{FILE}:experiment/x', 'returns one experiment, so there is no arm'),
        (f'{FILE}:misspelt', "Experiment has no field 'stepz'. Did you mean 'steps'?"),
        (f'{FILE}:broken', 'ZeroDivisionError: division by zero'),
        (f'{FILE}:with_path', 'with_path() needs --arg path=...'),
        (f'{FILE}:text_data', 'has no function'),
    ],
)
def test_wrong_experiments(command, name, message):
    status, _, err = command('show', name)
    assert (status, message in err, 'Traceback' in err) == (2, True, False), err


def test_an_error_of_the_file_names_its_line(command):
    _, _, err = command('show', f'{FILE}:broken')
    line = 1 + pathlib.Path(FILE).read_text().splitlines().index('    return 1 / 0')
    assert f'tiny.py, line {line}: ZeroDivisionError' in err


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'There is no file'),
        (b'', 'empty'),
        (b'caf\xe9 ' * 100, 'not UTF-8'),
        (b'too short', 'too few for one row'),
    ],
)
def test_wrong_text_files(command, tmp_path, content, message):
    path = tmp_path / 'input.txt'
    if content is not None:
        path.write_bytes(content)
    status, _, err = command('train', FILE, '--workdir', tmp_path / 'run', *text_data(path))
    assert (status, message.lower() in err.lower(), 'Traceback' in err) == (2, True, False), err
    assert not (tmp_path / 'run').exists()


def test_unknown_data_set(command, tmp_path):
    data = 'data=Text(source=Tfds(name="python_dcs", split="train"), tokenizer=Bytes(), batch=8, length=16)'
    status, _, err = command('train', FILE, '--workdir', tmp_path / 'run', '--set', data, '--set', 'model.vocab=320')
    assert (status, 'python_docs' in err, 'Traceback' in err) == (2, True, False), err


def test_a_work_directory_that_is_a_file(command, tmp_path):
    (tmp_path / 'file').write_text('x')
    status, _, err = command('train', FILE, '--workdir', tmp_path / 'file' / 'run')
    assert (status, 'is a file; use a directory' in err) == (2, True), err


def test_verbs_on_one_run(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = pathlib.Path('runs/tiny')  # Relative, as people write it.
    status, out, err = command('train', FILE, '--workdir', run, '--stop-after', '9')
    assert status == 0, err
    assert 'stopped by stop_after at step 9 of 20; the same command without --stop-after resumes it' in out
    status, out, err = command('train', FILE, '--workdir', run)
    assert status == 0, err
    digest = next(line for line in out.splitlines() if line.startswith('digest of the state at step 20: '))
    assert len(digest.split()[-1]) == 64
    assert (run / 'report.html').exists()

    status, out, err = command('evaluate', run, '--experiment', FILE)
    assert status == 0, err
    trained = [line for line in err.splitlines() if 'validation/loss' in line]
    assert not trained
    assert 'validation/loss: ' in out

    status, _, err = command('evaluate', run, '--experiment', FILE, '--step', '3')
    assert (status, 'holds no checkpoint of step 3' in err) == (2, True), err

    status, _, err = command('sample', run, '--experiment', FILE, '--prompt', 'x')
    assert (status, 'without a tokenizer' in err) == (2, True), err

    status, out, err = command('report', run, '--experiment', FILE)
    assert (status, out.strip()) == (0, str(run / 'report.html')), err

    status, _, err = command('train', FILE, '--workdir', run, '--set', 'seed=1')
    assert (status, 'seed: 0 -> 1' in err) == (2, True), err


def test_show_says_where_values_come_from(command):
    status, out, _ = command('show', f'{FILE}:arms/seed1', '--set', 'model.width=32')
    assert status == 0
    lines = {line.split(' = ')[0].strip(): line for line in out.splitlines() if ' = ' in line}
    assert '--set model.width=32' in lines['width']
    assert 'tiny.py:' in lines['seed']
    assert 'parameters' in out


def test_describe_lists_every_array_with_its_place(command):
    status, out, err = command(
        'describe', FILE, '--set', 'mesh.data=1', '--set', 'mesh.fsdp=4', '--set', 'mesh.tensor=2'
    )
    assert status == 0, err
    up = next(line for line in out.splitlines() if line.strip().startswith('blocks.layers.ffn.up '))
    assert all(part in up for part in ('2 x 16 x 64', 'float32', 'layers, embed, hidden', 'fsdp', 'tensor', '1 KiB'))


def test_an_argument_of_the_experiment_function(command):
    status, out, _ = command('show', f'{FILE}:with_path', '--arg', 'path=elsewhere')
    assert (status, "name = 'elsewhere'" in out) == (0, True)
    status, _, err = command('show', f'{FILE}:with_path', '--arg', 'path')
    assert (status, "--arg 'path' is not of the form name=value" in err) == (2, True)


@pytest.mark.parametrize('verb', ['', 'train', 'sample'])
def test_help_of_every_verb(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(argv=[*([verb] if verb else []), '--help'])
    assert stopped.value.code == 0
    assert {'': 'VERB', 'train': '--workdir', 'sample': 'RUN'}[verb] in capsys.readouterr().out


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('plan FILE --topology v5e-4 --batch 32', '--batch: only with --search. To plan another batch, use --set data'),
        (
            'plan FILE --topology v5e-4 --axes data --by-dollars --confirm 1',
            '--axes and --by-dollars and --confirm: only',
        ),
        ('sample RUN --beams 4 --top-p 0.5 --temperature 0', '--temperature and --top-p: not with --beams'),
        ('sample RUN --temperature 0 --top-k 5 --seed 0', '--top-k and --seed: not with --temperature 0'),
        ('sweep FILE --engine slurm --jobs 2', '--jobs: only with --engine local'),
        ('sweep FILE --engine-set partition=main --show', '--engine-set: only with --engine slurm or xpk'),
        ('sweep FILE --show --retry', '--retry: not with --show'),
        ('sweep FILE --topology v5e-4', '--topology: only with --show or --budget'),
        ('launch --workdir DIR --stop --dry-run', '--dry-run: not with --stop'),
        ('launch --workdir DIR --status --hours 3', '--hours: not with --status'),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(command, arguments, message):
    status, _, error = command(*arguments.replace('FILE', FILE).split())
    assert (status, error.count('\n')) == (2, 1)
    assert message in error


@pytest.mark.parametrize(
    'arguments', ['--batch 0', '--batch -4', '--confirm -1', '--confirm 0', '--confirm 99999999999', '--batch 1.5']
)
def test_a_number_out_of_its_range_is_refused_with_the_range(command, capfd, arguments):
    with pytest.raises(SystemExit) as ended:
        command('plan', FILE, '--topology', 'v5e-4', '--search', *arguments.split())
    assert ended.value.code == 2
    assert 'is not a whole number from 1 to 2,147,483,647' in capfd.readouterr().err


@pytest.mark.parametrize(
    'error',
    [
        jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 91.6 GiB.\n  a table'),
        jax.errors.JaxRuntimeError('INTERNAL: Error dispatching computation: Out of memory allocating 4e12 bytes.'),
        MemoryError('Unable to allocate 149 GiB for an array with shape (200000, 100000)'),
    ],
)
def test_too_little_memory_is_one_message_with_what_needs_less(error, capsys):
    def run(options):
        raise error

    verb = Verb('fails', lambda parser: None, run)
    assert process.run(verb, argparse.Namespace(debug=False)) == 1
    printed = capsys.readouterr().err
    assert printed.startswith('error: out of memory: ')
    assert printed.count('\n') == 1
    assert 'A smaller data.batch' in printed


def test_another_failure_keeps_its_traceback(capsys):
    def run(options):
        raise jax.errors.JaxRuntimeError('INTERNAL: a fault')

    with pytest.raises(jax.errors.JaxRuntimeError, match='a fault'):
        process.run(Verb('fails', lambda parser: None, run), argparse.Namespace(debug=False))
