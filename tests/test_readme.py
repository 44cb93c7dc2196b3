"""What README, --help and the docstrings tell people to type does what they say: every snippet runs, every command
parses, every file that is named is there."""

import pathlib
import re
import shlex

import jax
import numpy as np
import pytest

import style_rules
import tiny
from bigmodel_jax import __main__ as command_line
from bigmodel_jax import claims, config, experiment, experiment_file, verbs
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.layers import attention, blocks, ffn, positions
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import ema, gradients, optimizers, parameter_groups, schedules
from bigmodel_jax.parallel import sharding

README = (style_rules.ROOT / 'README.md').read_text()
FENCED = re.findall(r'^```(python)?\n(.*?)^```', README, re.DOTALL | re.MULTILINE)
SNIPPETS = [block for language, block in FENCED if language]
BLOCKS = [block for language, block in FENCED if not language]
COMMANDS = [line for block in BLOCKS for line in block.splitlines() if re.match(r'(python|scripts/)', line)]


def snippet(start: str) -> str:
    (found,) = [each for each in SNIPPETS if each.startswith(start)]
    return found


def test_every_snippet_is_executed_below():
    own = 'from bigmodel_jax'
    starts = (
        'def experiment()',
        'mesh=',
        'claims=(',
        'optimizer=optimizers.AdamW(',
        f'{own}.interop',
        f'{own} import experiment',
        f'{own}.parallel import sh',
        'import numpy',
    )
    assert {snippet(start) for start in starts} == set(SNIPPETS)
    assert len(COMMANDS) > 15


def test_the_experiment_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'input.txt').write_text('To be, or not to be. ' * 200)
    parts = (
        attention,
        blocks,
        ffn,
        language,
        optimizers,
        positions,
        schedules,
        sharding,
        sources,
        text,
        tokenizers,
    )
    names = {module.__name__.rpartition('.')[2]: module for module in parts}
    names |= {'Experiment': experiment.Experiment, 'Decoder': decoder.Decoder}
    exec(snippet('def experiment()'), names)
    built = experiment.check(names['experiment']())
    assert verbs.parameters(built) > 0
    assert built.data.build(0).training(0)['inputs'].shape == (12, 64)


TRAINING = {
    'optimizers': optimizers,
    'schedules': schedules,
    'Group': parameter_groups.Group,
    'Ema': ema.Ema,
    'Microbatches': gradients.Microbatches,
}


@pytest.mark.parametrize(
    ('start', 'names'),
    [('mesh=', {'sharding': sharding}), ('claims=(', {'claims': claims}), ('optimizer=optimizers.AdamW(', TRAINING)],
)
def test_a_field_can_be_written_so(start, names):
    fields = eval(f'dict({snippet(start)})', dict(names))
    changed = config.vary(tiny.experiment(), fields)
    config.check(changed)


def test_a_model_of_hugging_face_can_be_loaded_so():
    folder = pathlib.Path(__file__).parent / 'oracles/gpt2'
    stored = np.load(folder / 'io.npz')
    names = {'HF_DIRECTORY': str(folder), 'ids': stored['in/input_ids'], 'mask': np.ones_like(stored['in/input_ids'])}
    exec(snippet('from bigmodel_jax.interop'), names)
    assert names['logits'].shape[:2] == stored['in/input_ids'].shape


def test_a_run_and_its_parts_can_be_used_from_python(tmp_path, monkeypatch, capsys):
    """With the smoke() of another experiment on text, which is the same code on less."""
    monkeypatch.chdir(style_rules.ROOT)
    names: dict = {}
    code = snippet('from bigmodel_jax import experiment')
    assert 'experiments/quickstart.py' in code
    smaller = 'first_week/text_folder.py:smoke'
    for old, new in (('quickstart.py', smaller), ('runs/quickstart', str(tmp_path / 'run'))):
        code = code.replace(old, new)
    exec(code, names)
    assert capsys.readouterr().out
    assert names['embedding'].ndim == 2
    key = jax.random.key(0)
    arrays = {name: jax.random.normal(key, (2, 8, 4, 16)) for name in ('q_BTHK', 'k_BSGK', 'v_BSGK')}
    names |= arrays
    exec(snippet('from bigmodel_jax.parallel import sharding'), names)
    assert names['y_BTHK'].shape == (2, 8, 4, 16)
    assert int(names['state'].step) == 1


def test_the_first_transformer_predicts(tmp_path, monkeypatch):
    monkeypatch.chdir(style_rules.ROOT)
    file, run = 'experiments/first_transformer.py', str(tmp_path / 'run')
    small = {'model.width': 16, 'steps': 2, 'data.examples': 64, 'evaluations': ()}
    verbs.train(config.vary(experiment_file.load(file), small), run)
    names: dict = {}
    exec(snippet('import numpy').replace('runs/first', run), names)
    ((value,),) = names['tables'][0].rows
    assert np.isfinite(value)


@pytest.mark.parametrize('line', COMMANDS)
def test_a_command_parses(line):
    words = shlex.split(line, comments=True)
    if words[0].startswith('scripts/'):
        assert (style_rules.ROOT / words[0]).is_file()
        words = words[words.index('--') + 1 :] if '--' in words else []
        words = ['-m', 'bigmodel_jax', *words] if words else []
    else:
        words = words[1:]
    if words[:1] == ['-m']:
        command_line.parser().parse_args(words[2:])
    elif words:
        command_line.parser().parse_args(command_line.with_file(words[1:], words[0]))


@pytest.mark.parametrize('path', ['README.md', 'bigmodel_jax/__main__.py', 'bigmodel_jax/verbs.py'])
def test_every_experiment_that_is_named_is_there(path):
    named = set(re.findall(r'experiments/\w+\.py', (style_rules.ROOT / path).read_text()))
    assert named or path.endswith('verbs.py')
    assert not [name for name in named if not (style_rules.ROOT / name).is_file()]


def test_every_experiment_and_every_page_is_named():
    shipped = [*(style_rules.ROOT / 'experiments').glob('*.py'), *(style_rules.ROOT / 'docs' / 'howto').glob('*.md')]
    paths = [path.relative_to(style_rules.ROOT).as_posix() for path in shipped]
    assert not [path for path in paths if f']({path})' not in README]


def test_every_call_that_the_docstring_of_verbs_shows_is_there():
    calls = re.findall(r'^(?:\w+(?:, \w+)* = )?verbs\.(\w+)\(', verbs.__doc__, re.MULTILINE)
    assert len(calls) > 8
    assert not [name for name in calls if not hasattr(verbs, name)]
