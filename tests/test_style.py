"""Every file keeps the style; and the rules in style_rules.py find what they are meant to find."""

import functools
import re
import subprocess

import pytest
import reading_path

import style_rules as rules

MACHINE_PATH = re.compile(r'(?<![\w.~/])/(work|root|tmp/w|home/\w+|Users/\w+)/[\w.]')


@pytest.mark.parametrize('path', rules.python_files('bigmodel_jax', 'experiments', 'scripts', 'tests'))
def test_file_keeps_the_style(path):
    source = rules.read(path)
    problems = sorted((line, message) for rule in rules.RULES for line, message in rule(source))
    assert not problems, '\n' + '\n'.join(f'{path}:{line}: {message}' for line, message in problems)


def test_reading_order_fits_an_evening():
    readme = rules.ROOT / 'README.md'
    if not readme.exists():
        pytest.skip('there is no README.md yet')
    places = [readme.read_text().find(f']({path})') for path in reading_path.PATH]
    assert -1 not in places, f'README.md must list {reading_path.PATH}'
    assert places == sorted(places), f'README.md lists them in another order than {reading_path.PATH}'
    assert sum(reading_path.lines().values()) <= reading_path.LINES, reading_path.lines()


def test_no_file_names_a_path_of_one_machine():
    command = ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard']
    listed = subprocess.run(command, cwd=rules.ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip('not a git checkout, so what belongs to the repository is not known')
    problems = []
    for path in filter(None, listed.stdout.split('\0')):
        # What is deleted but still listed has no lines.
        content = (rules.ROOT / path).read_bytes() if (rules.ROOT / path).is_file() else b''
        lines = enumerate(content.decode('utf-8', errors='replace').splitlines(), 1)
        problems += [f'{path}:{number}: {line.strip()}' for number, line in lines if MACHINE_PATH.search(line)]
    assert not problems, '\n' + '\n'.join(problems)


# ---- the rules bite ---------------------------------------------------------------------------------------------

LEVELS = 'def f():\n if a:\n  for x in y:\n   with z:\n    {}\n'
ELSE = 'def f():\n for x in y:\n  if a: pass\n  else:\n   try: pass\n   except E:\n    if b: pass\n'
FIELD = '@dataclasses.dataclass(frozen=True, kw_only=True)\nclass C:\n    """It."""\n    k: ClassVar[int]\n'
BROKEN = [
    (rules.files_fit, 'x = 1\n' * 401),
    (rules.functions_fit, 'def f():\n' + '    x = 1\n' * 50),
    (rules.nesting_is_shallow, LEVELS.format('while w: pass')),
    (rules.nesting_is_shallow, LEVELS.format('try: pass\n    except E: pass')),
    (rules.nesting_is_shallow, ELSE),
    (rules.positional_arguments_are_few, 'def f(self, a, b, /, c, d, e): pass'),
    (rules.configs_are_small, FIELD + ''.join(f'    f{i}: int\n' for i in range(13))),
    (rules.letters_are_in_the_legend, 'def f(x_BTU): pass'),
    (rules.letters_are_in_the_legend, 'self.x_bTu = 1'),
    (rules.einsums_match_their_names, "jnp.einsum('BTD,DF->BTF', x_BTD, w_FD)"),
    (rules.einsums_match_their_names, "y_BFT = jnp.einsum('BTD,DF->BTF', x, w) * 2"),
    (rules.einsums_match_their_names, "y = jnp.einsum('BTD,DF->BTF', x_BDT.astype(dtype), w)"),
    (rules.einsums_match_their_names, 'jnp.einsum(subscripts, x, w)'),
    (rules.signatures_are_annotated, 'def f(a, *, b: int, **c: int) -> int: pass'),
    (rules.signatures_are_annotated, 'class C:\n    def f(self, a: int): pass'),
    (rules.docstrings_are_there, 'x = 1'),
    (rules.docstrings_are_there, '"""It."""\nclass C:\n    def f(self):\n        x = 1\n        return x\n'),
    (rules.failures_are_not_swallowed, 'try: pass\nexcept: pass'),
    (rules.failures_are_not_swallowed, 'try: pass\nexcept (OSError, Exception): raise ValueError'),
    (rules.comments_promise_nothing, 'x = 1  # TODO: more'),
    (rules.nothing_is_mocked, 'from unittest import mock'),
    (rules.nothing_is_mocked, 'def test_it(mocker): pass'),
    (rules.nothing_is_pickled, 'import pickle'),
    (rules.libraries_are_silent, 'print(1)'),
]
KEPT = '''"""It."""
@dataclasses.dataclass(frozen=True, kw_only=True)
class C:
    """It."""
    width: int
    def __init__(self, x):
        self.x_BTD = x
    def build(self) -> nn.Module:
        return Module(self)
class _OpenRows: pass
class Rows(batches.Examples):
    """It."""
    def gather(self, indices: np.ndarray, epochs: np.ndarray, seed: int) -> Batch:
        rows = self.rows[indices]
        return rows
def f(x_BTD: jax.Array, w_DF: jax.Array, *, A_CONSTANT: int = 1) -> jax.Array:
    """It."""
    if a:
        for b in c:
            with d:
                pass
    elif e:
        for b in c:
            while d:
                pass
    def inner(y):
        if a: pass
    try:
        y_BTF = constrain(jnp.einsum('BTD,DF->BTF', x_BTD.astype(w_DF.dtype), w_DF), 'batch') * A_CONSTANT**-0.5
    except BaseException:
        clean_up()
        raise
    return y_BTF  # TODO(#12): more
'''


@pytest.mark.parametrize(('rule', 'text'), BROKEN)
def test_rule_bites(rule, text):
    assert list(rule(rules.Source.of('bigmodel_jax/layers/ffn.py', text)))


def test_file_name_rule_bites():
    assert list(rules.files_are_one_idea(rules.Source.of('bigmodel_jax/data/utils.py', '')))


def test_rules_accept_what_keeps_them():
    source = rules.Source.of('bigmodel_jax/layers/ffn.py', KEPT)
    problems = [(rule.__name__, *problem) for rule in rules.RULES for problem in rule(source)]
    assert problems == [('signatures_are_annotated', 6, '__init__ does not annotate x')]


@pytest.mark.parametrize('folder', ['root', 'work', 'home/me', 'tmp/w'])
def test_machine_path_is_found(folder):
    assert MACHINE_PATH.search(f"open('/{folder}/x')")


def test_legend_is_read():
    assert rules.legend() >= set('BTSDHGKFVECLNPRWM')


# ---- folders ------------------------------------------------------------------------------------------------------

MOST_FILES = 14  # Of one subject; a folder that outgrows it is two subjects.
# Folders whose files are entries of one kind, such as one file for each verb: they grow with what there is.
LISTS = {'cli'}


def test_a_folder_is_one_subject():
    counts: dict[str, int] = {}
    for path in rules.python_files('bigmodel_jax'):
        folder, _, name = path.removeprefix('bigmodel_jax/').rpartition('/')
        counts[folder] = counts.get(folder, 0) + (name != '__init__.py')
    large = {folder: count for folder, count in counts.items() if folder and folder not in LISTS and count > MOST_FILES}
    assert not large, f'a folder has at most {MOST_FILES} files'


# ---- names and words ----------------------------------------------------------------------------------------------

# A config and an artifact are called Text; two configs are called Plain, and --set asks which one is meant.
SHARED_NAMES = {'Text', 'Plain'}
# What a private phrase means in the field's words; see the rule on names.
WORDS = {
    r'\bgoing on from\b': 'resuming from',
    r'\bby chance\b': 'at random, or random initialization',
    r'\bin vain\b': 'without success',
    r'\bheed\b': 'log',
    r'\bnobody has rented\b': 'without access to the slice',
    r'\bnone of our business\b': 'say what is left alone',
    r'\blet the model write\b|\blets it write\b': 'generate text',
    r'\bborn sharded\b': 'initialized sharded',
    r'\blayers (that )?takes? turns\b': 'interleaved',
    r'\bon paper\b': 'as an equation',
    r'\bas remembered\b': 'unverified',
    r'\b(is|are) to be told\b': 'is predicted',
    r'\btoo long for every time\b': 'slow tests',
}


def test_one_class_name_means_one_thing():
    twice = {name: [path for path, _ in found] for name, found in rules.classes().items() if len(found) > 1}
    assert {name: where for name, where in twice.items() if name not in SHARED_NAMES} == {}
    assert set(twice) == SHARED_NAMES


@functools.cache
def prose() -> dict[str, list[str]]:
    """Path -> lines of what a user reads."""
    paths = [rules.ROOT / path for path in rules.python_files('bigmodel_jax', 'experiments', 'scripts')]
    paths += [rules.ROOT / 'README.md', *sorted((rules.ROOT / 'docs' / 'howto').glob('*.md'))]
    return {path.relative_to(rules.ROOT).as_posix(): path.read_text().splitlines() for path in paths}


@pytest.mark.parametrize('words', WORDS)
def test_private_phrases_stay_away(words):
    pattern = re.compile(words, re.IGNORECASE)
    found = [
        f'{path}:{number}: {line.strip()}; instead: {WORDS[words]}'
        for path, lines in prose().items()
        for number, line in enumerate(lines, 1)
        if pattern.search(line)
    ]
    assert not found, '\n'.join(found)
