"""A reader that goes away does not end the writer, and nothing is said about it."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from bigmodel_jax.console import output
with output.outlasting():
    for number in range(2_000):
        print(number, flush=number == 0, file=sys.{stream})
    sys.stdout.flush()
    open(sys.argv[1], 'w').write('done')
sys.exit(3)
"""


@pytest.mark.parametrize('stream', ['stdout', 'stderr'])
def test_a_closed_pipe_does_not_end_the_program(tmp_path, stream):
    done = tmp_path / 'done'
    command = [sys.executable, '-c', PROGRAM.format(stream=stream), str(done)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    read, other = (process.stdout, process.stderr) if stream == 'stdout' else (process.stderr, process.stdout)
    assert read.readline() == '0\n'
    read.close()
    assert other.read() == ''
    assert process.wait(60) == 3
    assert done.read_text() == 'done'


def test_a_command_whose_reader_has_ended_prints_no_traceback():
    command = f'{sys.executable} -m bigmodel_jax --help | head -1; echo ${{PIPESTATUS[0]}}'
    said = subprocess.run(['bash', '-c', command], capture_output=True, text=True)
    assert said.stdout.splitlines()[-1] == '0'
    assert said.stderr == ''
