"""The doctor runs an experiment file as several hosts; each file of planted/ holds one mistake that it must find."""

import ast
import json
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from bigmodel_jax.launch.doctor import results
from bigmodel_jax.launch.doctor.rehearsal import instruments, judging, programs, records, rehearsal, suspects

PLANTED = pathlib.Path(__file__).with_name('planted')
# File -> the check that finds it, and words of the finding, of which one is the line of the file.
FOUND = {
    'branch': ('programs', ('branch.py, line 21', 'different programs')),
    'traced_chance': ('programs', ('traced_chance.py, line 21', 'each time')),
    'barrier': ('rehearsal', ('barrier.py, line 24', 'host 0', 'wait for each other for ever')),
    'one_fails': ('rehearsal', ('one_fails.py, line 16', 'host 1', '/data/part-1.bin')),
    'writes': ('writes', ('writes.py, line 24', 'Hosts 0, 1 all write')),
    'seed_of_host': ('configuration', ('seed_of_host.py, line 13', 'seed: ')),
    'seed_of_clock': ('configuration', ('seed_of_clock.py, line 12', 'seed: ')),
    'data_order': ('batches', ('data_order.py, line 16', 'other values in inputs')),
    'chance': ('determinism', ('chance.py, line 22', 'another state')),
    'starts': ('processes', ('starts.py, line 8', 'starts the processes itself')),
}


def rehearsed(name: str, folder: pathlib.Path) -> list[results.CheckResult]:
    file = str(PLANTED / f'{name}.py')
    order = records.RehearsalOrder(asked=file, smoke=f'{file}:smoke', hosts=2)
    return list(judging.results_of(rehearsal.rehearse(order, folder), 2))


@pytest.mark.slow
def test_nothing_is_found_where_nothing_is_wrong(tmp_path):
    found = rehearsed('base', tmp_path)
    assert [each.level for each in found] == [results.Level.OK] * 7


@pytest.mark.slow
@pytest.mark.parametrize('name', FOUND)
def test_a_planted_mistake_is_found_with_its_line(name, tmp_path):
    check, words = FOUND[name]
    (fault,) = (each for each in rehearsed(name, tmp_path) if each.level is results.Level.FAULT)
    assert fault.check == check
    assert fault.advice
    assert [word for word in words if word not in f'{fault.message} {fault.advice}'] == []


# ---- parts --------------------------------------------------------------------------------------------------------


def lowered(second: float, first: float = 2.0) -> str:
    """A program, with the locations of its lines in this file."""

    def compute(x_N: jax.Array) -> jax.Array:
        x_N = jnp.sin(x_N) + first
        x_N = x_N * second if second else x_N
        return jnp.cos(x_N)

    return jax.jit(compute).lower(jnp.ones(3)).as_text(debug_info=True)


def test_the_line_where_two_programs_part_is_named():
    one, other = programs.first_difference(lowered(3.0), lowered(0.0))
    assert one.text == 'x_N = x_N * second if second else x_N'
    assert other is None or other.line >= one.line
    assert programs.first_difference(lowered(3.0), lowered(3.0)) == (None, None)


def test_a_constant_is_found_by_the_line_that_uses_it():
    one, other = programs.first_difference(lowered(3.0, first=2.0), lowered(3.0, first=2.5))
    assert one.text == other.text == 'x_N = jnp.sin(x_N) + first'


def test_only_own_writes_are_noted(tmp_path):
    own = tmp_path / 'own.py'
    own.write_text(f'open({str(tmp_path / "out.txt")!r}, "w").close()\nopen({str(own)!r}).close()\n')
    script = (
        'import pathlib, runpy, sys\n'
        'from bigmodel_jax.launch.doctor.rehearsal import instruments, records\n'
        'folder = pathlib.Path(sys.argv[1])\n'
        'instruments.note_writes(records.Recorder(folder, 0))\n'
        'runpy.run_path(str(folder / "own.py"))\n'
    )
    subprocess.run([sys.executable, '-c', script, str(tmp_path)], check=True, timeout=60)
    (write,) = records.HostRecords(tmp_path, 0).all(records.WRITE)
    assert write['path'] == str(tmp_path / 'out.txt')
    assert write['place']['line'] == 1


@pytest.mark.parametrize(
    ('line', 'is_suspect'),
    [
        ('time.time()', True),
        ('os.environ["X"]', True),
        ('socket.gethostname()', True),
        ('np.random.default_rng()', True),
        ('np.random.default_rng(seed)', False),
        ('jax.random.uniform(key)', False),
        ('random.random()', True),
        ('list(set(names))', True),
        ('names.sort()', False),
    ],
)
def test_lines_that_may_differ_are_known(tmp_path, line, is_suspect):
    file = tmp_path / 'x.py'
    file.write_text(f'def make():\n    return {line}\n')
    ast.parse(file.read_text())
    assert bool(list(suspects._in(file, suspects.ALL))) is is_suspect


def outcome(folder: pathlib.Path, *hosts: list[dict], stuck: bool = False) -> rehearsal.RehearsalOutcome:
    """Of hosts with these records."""
    for number, lines in enumerate(hosts):
        records.path(folder, number).write_text(''.join(json.dumps({'at': 0.0, **line}) + '\n' for line in lines))
        records.printed(folder, number).write_text('Killed\n')
    order = records.RehearsalOrder(asked='x.py', smoke='x.py:smoke', hosts=len(hosts))
    return rehearsal.RehearsalOutcome(order, folder, (None,) * len(hosts), stuck, 1.0)


def test_a_host_that_would_train_alone_is_found(tmp_path):
    alone = [[{'kind': 'processes', 'count': count, 'devices': count}] for count in (2, 1)]
    (fault,) = (each for each in judging.results_of(outcome(tmp_path, *alone), 2) if each.level.value == 'fault')
    assert fault.check == 'processes'
    assert 'Host 1 counts 1 processes' in fault.message


def test_what_was_not_reached_is_not_called_right(tmp_path):
    found = list(judging.results_of(outcome(tmp_path, [], []), 8))
    assert {each.level.value for each in found} == {'not checked'}
    assert 'as 2 of the 8 hosts' in found[0].message


def test_a_host_has_a_name_and_number_of_its_own():
    one, other = instruments.environment(0), instruments.environment(1)
    assert {name for name in one if one[name] == other[name]} == {'PYTHONDONTWRITEBYTECODE'}
