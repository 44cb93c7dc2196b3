"""The benchmark of a GPU, as far as a CPU goes: what a part finds is kept, whatever becomes of the others."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / 'scripts' / 'benchmark' / 'gpu'


def run(out, *arguments, **environment):
    """The process, and results.json."""
    command = [sys.executable, str(SCRIPT), '--out', str(out), '--dry', *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    return done, json.loads((out / 'results.json').read_text())


@pytest.mark.slow
def test_every_part_runs_on_a_cpu_in_toy_sizes(tmp_path):
    done, results = run(tmp_path, '--minutes', '30')
    assert done.returncode == 0, (tmp_path / 'table.txt').read_text()
    assert results['repeat']['equal']
    assert results['gpt2_124m ours']['tokens_per_s'] > 0
    assert '__cudnn$fmhaSoftmaxBackward' in results['lowering']['llama_1b']


def test_a_part_that_fails_is_told_with_its_last_lines_and_the_next_one_runs(tmp_path):
    """In an environment whose JAX and PyTorch cannot be imported, and are there all the same."""
    for package in ('jax', 'torch'):
        (tmp_path / f'{package}.py').write_text(f"raise RuntimeError('{package} is broken')\n")
    done, results = run(tmp_path, '--parts', 'machine', 'char torch', PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert 'Failed: machine, char torch.' in done.stderr
    assert [each['last lines'][-1] for each in results.values()] == [
        'RuntimeError: jax is broken',
        'RuntimeError: torch is broken',
    ]
