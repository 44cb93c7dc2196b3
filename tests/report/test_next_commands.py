"""Every command and every Python call that a report prints is executed here, on a run that a person could have."""

import re
import shlex

import pytest
import quick_text

from bigmodel_jax import __main__ as command_line
from bigmodel_jax import verbs
from bigmodel_jax.report import next_commands
from bigmodel_jax.runs import directory
from bigmodel_jax.train import loop

EVERY = (next_commands.RESUME, next_commands.EVALUATE, next_commands.GENERATE, next_commands.REPORT)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A run on text that was stopped halfway, in a directory whose name needs quotes."""
    folder = tmp_path_factory.mktemp('next')
    experiment = quick_text.generating(quick_text.write(folder))
    loop.train(experiment, folder / "it's a run", stop_after=2)
    return directory.open_run(folder / "it's a run")


@pytest.fixture
def started(run, monkeypatch):
    """Lets the run have been started by a command, or by Python."""

    def by(*command):
        monkeypatch.setitem(run.environment[-1], 'command', list(command))
        return next_commands.next_commands(run)

    return by


@pytest.mark.slow
def test_every_python_call_runs(run, started):
    printed = started('/lib/ipykernel_launcher.py')
    assert tuple(purpose for purpose, _ in printed) == EVERY
    for _, text in printed[1:]:
        exec(text, {})
    exec(printed[0][1], {})  # Last, as it finishes the run.
    finished = directory.open_run(run.path)
    assert finished.finished
    again = [purpose for purpose, _ in next_commands.next_commands(finished)]
    assert next_commands.RESUME not in again
    assert (run.path / 'report.html').exists()


def test_every_command_runs(run, started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ('train', f'{quick_text.__file__}:generating', '--arg', f'corpus={run.path.parent}', '--workdir', 'x')
    printed = started('/lib/bigmodel_jax/__main__.py', *words)
    assert tuple(purpose for purpose, _ in printed) == EVERY
    for _, text in [*printed[1:], printed[0]]:
        words = shlex.split(text)
        assert words[:3] == ['python', '-m', 'bigmodel_jax']
        assert command_line.main(argv=words[3:]) == 0, text


def test_the_report_prints_these_commands_and_no_other_call(run):
    text = verbs.write_report(run.path).read_text()
    calls = set(re.findall(r'verbs\.(\w+)', text))
    assert calls <= set(dir(verbs))
