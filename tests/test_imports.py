"""Imports point one way, a few libraries stay behind their doors, and nothing heavy is imported before it is needed."""

import ast
import functools
import graphlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest

import style_rules as rules
from bigmodel_jax import cli

PACKAGE = 'bigmodel_jax'
# A file imports only from its own line and the lines above it.
ORDER = (
    ('bounds', 'precision'),
    ('migrations', 'field_types'),
    ('config',),
    ('console', 'differences', 'web_server'),
    ('settings', 'claims', 'requirement', 'initialization'),
    ('tree', 'user_code'),
    ('quantization',),
    ('parallel',),
    ('kernels', 'data'),
    ('layers',),
    ('models', 'adapters'),
    ('objectives', 'optim'),
    ('evaluate',),
    ('experiment',),
    ('compatibility', 'mup'),
    ('experiment_file',),
    ('storage',),
    ('hosts',),
    ('run_directory',),
    ('checkpoints',),
    ('train',),
    ('plan',),
    ('runs',),
    ('catalogue',),
    ('reproduce',),
    ('papers',),
    ('report',),
    ('interop',),
    ('export',),
    ('sweeps',),
    ('compression',),
    ('launch',),
    ('serve',),
    ('verbs',),
    ('cli',),
    ('__main__',),
    ('experiments',),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
# Pairs that the order would allow: a layer is mathematics, whatever data it sees.
APART = {('layers', 'data'), ('kernels', 'data'), ('data', 'kernels')}
FLAX = ('bigmodel_jax/layers/', 'bigmodel_jax/models/', 'bigmodel_jax/train/state.py', 'experiments/')
MESH_NAMES = {'Mesh', 'AbstractMesh', 'PartitionSpec', 'NamedSharding'}
MESH = 'bigmodel_jax/parallel/sharding.py'
HEAVY = {
    'jax',
    'jaxlib',
    'flax',
    'optax',
    'orbax',
    'tensorflow_datasets',
    'grain',
    'matplotlib',
    'tensorboardX',
    'wandb',
}


def imports(source: rules.Source) -> Iterator[tuple[int, str]]:
    """The modules of the repository that a file imports, wherever it does so, with the line."""
    for node in source.find(ast.Import):
        yield from ((node.lineno, alias.name) for alias in node.names)
    for node in source.find(ast.ImportFrom):
        names = [f'{node.module}.{alias.name}' for alias in node.names]
        yield from ((node.lineno, name if name in modules() else node.module) for name in names)


@functools.cache
def modules() -> dict[str, str]:
    """Module -> its file, for the package and the experiments; a folder without __init__.py counts too."""
    found = {}
    for path in rules.python_files(PACKAGE, 'experiments'):
        parts = pathlib.PurePath(path).with_suffix('').parts
        found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
        found.setdefault('.'.join(parts[:-1]), path)
    return found


def room(path_or_module: str) -> str | None:
    """'bigmodel_jax/layers/ffn.py' or 'bigmodel_jax.layers.ffn' -> 'layers'; None for what is not ours."""
    first, *rest = path_or_module.removesuffix('.py').replace('/', '.').split('.')
    if first == 'experiments':
        return first
    return rest[0] if first == PACKAGE and rest else None


def imports_point_one_way(source: rules.Source) -> rules.Problems:
    here = room(source.path)
    if here == '__init__':
        return  # It says nothing but the version; test_importing_the_package_is_cheap keeps it so.
    if here not in RANK:
        yield 1, f'{here!r} has no place in ORDER of tests/test_imports.py'
        return
    for line, module in imports(source):
        there = room(module)
        if there == 'experiments':
            yield line, 'nothing imports an experiment'
        elif there and (RANK.get(there, len(ORDER)) > RANK[here] or (here, there) in APART):
            yield line, f'{here} does not import {there}'


def flax_stays_with_the_layers(source: rules.Source) -> rules.Problems:
    for line, name in rules.imported(source):
        if name == 'flax' and not source.path.startswith(FLAX):
            yield line, f'only {", ".join(FLAX)} import flax'


def the_mesh_has_one_home(source: rules.Source) -> rules.Problems:
    for node in source.find(ast.Name, ast.Attribute, ast.alias):
        name = getattr(node, 'id', None) or getattr(node, 'attr', None) or node.name
        if name.rpartition('.')[2] in MESH_NAMES and source.path != MESH:
            yield node.lineno, f'{name}: only {MESH} knows the mesh'


RULES = (imports_point_one_way, flax_stays_with_the_layers, the_mesh_has_one_home)


@pytest.mark.parametrize('path', rules.python_files(PACKAGE, 'experiments'))
def test_file_imports_what_it_may(path):
    source = rules.read(path)
    problems = sorted(problem for rule in RULES for problem in rule(source))
    assert not problems, '\n' + '\n'.join(f'{path}:{line}: {message}' for line, message in problems)


def test_no_import_goes_in_a_circle():
    graph = {path: {modules().get(name) for _, name in imports(rules.read(path))} for path in modules().values()}
    find_circle({path: needed - {None, path} for path, needed in graph.items()})


def find_circle(graph: dict[str, set[str]]) -> None:
    """Fails with the files of a circle, if there is one."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail('imports go in a circle: ' + ' -> '.join(error.args[1]))


@pytest.mark.parametrize(
    ('rule', 'path', 'text'),
    [
        (imports_point_one_way, 'bigmodel_jax/layers/ffn.py', 'from bigmodel_jax.models import decoder'),
        (imports_point_one_way, 'bigmodel_jax/layers/ffn.py', 'from bigmodel_jax.data import batches'),
        (imports_point_one_way, 'bigmodel_jax/data/text/text.py', 'def f():\n    import bigmodel_jax.layers.ffn'),
        (imports_point_one_way, 'bigmodel_jax/config.py', 'from bigmodel_jax.parallel import sharding'),
        (imports_point_one_way, 'bigmodel_jax/__main__.py', 'from experiments import quickstart'),
        (imports_point_one_way, 'experiments/gpt2.py', 'import experiments.quickstart'),
        (imports_point_one_way, 'bigmodel_jax/extra.py', ''),
        (flax_stays_with_the_layers, 'bigmodel_jax/train/loop.py', 'from flax import linen as nn'),
        (the_mesh_has_one_home, 'bigmodel_jax/layers/ffn.py', 'from jax.sharding import PartitionSpec as P'),
        (the_mesh_has_one_home, 'bigmodel_jax/train/loop.py', 'jax.sharding.NamedSharding(mesh, spec)'),
    ],
)
def test_rule_bites(rule, path, text):
    assert list(rule(rules.Source.of(path, text)))


def test_circle_is_found():
    with pytest.raises(pytest.fail.Exception, match=r'a\.py -> '):
        find_circle({'a.py': {'b.py'}, 'b.py': {'a.py'}})


@pytest.mark.parametrize('path', ['bigmodel_jax/train/loop.py', 'experiments/gpt2.py'])
def test_rules_accept_what_keeps_them(path):
    text = 'import jax\nfrom bigmodel_jax import config, sharding\nfrom bigmodel_jax.data import batches\n'
    assert not [problem for rule in RULES for problem in rule(rules.Source.of(path, text))]


# ---- what is imported when ----------------------------------------------------------------------------------------


def imported_by(*arguments: str) -> set[str]:
    """Top-level packages that a fresh interpreter imports when it runs with these arguments."""
    command = [sys.executable, '-X', 'importtime', *arguments]
    done = subprocess.run(command, cwd=rules.ROOT, capture_output=True, text=True, timeout=60)
    lines = done.stderr.splitlines()
    timings = [line for line in lines if line.startswith('import time:')]
    assert done.returncode == 0, '\n'.join(line for line in lines if line not in timings)
    return {line.rpartition('|')[2].strip().partition('.')[0] for line in timings}


def test_importing_the_package_is_cheap():
    names = imported_by('-c', 'import bigmodel_jax')
    assert PACKAGE in names
    assert not names & (HEAVY | {'numpy', 'pydantic'})


@pytest.mark.parametrize('verb', [[], *([verb] for verb in cli.VERBS)], ids=str)
def test_help_imports_nothing_heavy(verb):
    assert not imported_by('-m', PACKAGE, *verb, '--help') & HEAVY


def test_a_verb_is_found_without_the_files_of_the_others():
    program = """import sys
from bigmodel_jax import __main__
try:
    __main__.main(argv=['diff', '--help'])
except SystemExit:
    print('loaded', *(name.rpartition('.')[2] for name in sys.modules if name.startswith('bigmodel_jax.cli.')))
"""
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()[-1].split()) & set(cli.VERBS) == {'diff'}
