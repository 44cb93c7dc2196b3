"""The JSON of a run is checked when it is read: what is wrong is one message, and stops nothing needlessly."""

import copy
import json
import shutil

import pytest

from bigmodel_jax import __main__, config
from bigmodel_jax.report import facts, key_numbers, next_commands
from bigmodel_jax.reproduce import diff
from bigmodel_jax.run_directory import event_log
from bigmodel_jax.runs import directory
from bigmodel_jax.train import loop
from runs import quick, run_maker

WRONG = (None, 'x', -1, 1.5, [], {}, [[]], {'class': 7}, 10**400, '\ud800', True)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return run_maker.finished(tmp_path_factory.mktemp('damaged') / 'run', steps=200)


def paths(node, path=()):
    """Every place in JSON data."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield (*path, name)
        yield from paths(value, (*path, name))


def without(node, path):
    changed = copy.deepcopy(node)
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return changed


def replaced(node, path, value):
    changed = copy.deepcopy(node)
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return changed


def read(folder):
    """All that looks at the JSON of a run without its classes."""
    opened = directory.open_run(folder)
    found = diff.compare(opened, opened)
    json.dumps(found.to_json(), ensure_ascii=False).encode()
    diff.about(opened)
    opened.summary()
    repr((facts.facts(opened), facts.fingerprint(opened), key_numbers.baselines(opened)))
    repr((opened.time_spent, opened.time_shares, opened.state))
    next_commands.next_commands(opened)


@pytest.mark.parametrize('name', ['environment.json', 'experiment.json'])
def test_a_key_that_is_lost_or_of_another_type_is_one_message(run, tmp_path, name):
    folder = tmp_path / 'run'
    shutil.copytree(run, folder)
    whole = json.loads((run / name).read_text())
    places = list(paths(whole))
    lost = [without(whole, path) for path in places[:40]]
    others = [replaced(whole, path, WRONG[i % len(WRONG)]) for i, path in enumerate(places * 3) if len(path) < 4]
    told = []
    for changed in [*lost, *others, None, 7, 'x', [[]]]:
        (folder / name).write_text(json.dumps(changed))
        try:
            read(folder)
        except config.InputError as error:
            told.append(str(error))
    assert all(str(folder / name) in message for message in told)
    assert told or directory.open_run(folder).damage


@pytest.mark.parametrize(
    'text', ['[' * 100_000, '{"a":' * 5_000 + '1' + '}' * 5_000, '\x00', '{"steps": ' + '9' * 5_000 + '}']
)
def test_what_cannot_be_parsed_is_one_message(run, tmp_path, text):
    shutil.copytree(run, tmp_path / 'run')
    (tmp_path / 'run' / 'experiment.json').write_text(text)
    with pytest.raises(config.InputError, match=r'experiment\.json is damaged'):
        directory.open_run(tmp_path / 'run')


def test_a_damaged_environment_stops_no_report_and_is_told(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / 'run')
    entries = json.loads((run / 'environment.json').read_text())
    del entries[0]['started']
    (tmp_path / 'run' / 'environment.json').write_text(json.dumps(entries))
    assert __main__.main(argv=['report', str(tmp_path / 'run')]) == 0
    assert 'environment.json is damaged: 0.started: Field required.' in capsys.readouterr().err
    assert '0.started' in (tmp_path / 'run' / 'report.html').read_text()


@pytest.mark.slow
def test_a_run_goes_on_and_ends_with_a_damaged_environment(tmp_path):
    loop.train(quick.experiment(), tmp_path, stop_after=2)
    entries = json.loads((tmp_path / 'environment.json').read_text())
    del entries[0]['mesh']
    (tmp_path / 'SHA256SUMS').unlink()
    (tmp_path / 'environment.json').write_text(json.dumps(entries))
    assert loop.train(quick.experiment(), tmp_path).step == quick.STEPS
    assert (tmp_path / 'environment.json.damaged').exists()
    assert len(directory.open_run(tmp_path).environment) == 1


# ---- without the classes of the experiment ----------------------------------------------------------------------


def test_a_report_needs_no_class_of_the_experiment_and_runs_no_code_of_the_run(run, tmp_path, capsys):
    folder = tmp_path / 'run'
    shutil.copytree(run, folder)
    stored = json.loads((folder / 'experiment.json').read_text())
    stored['data']['class'] = 'experiments.mine:Own'
    (folder / 'experiment.json').write_text(json.dumps(stored))
    (tmp_path / 'mine.py').write_text(f'open({str(tmp_path / "ran")!r}, "w")')
    entries = json.loads((folder / 'environment.json').read_text())
    entries[-1]['code'] = {
        'package': {'version': '0', 'sha256': '0' * 64}, 'files': {'mine.py': '1' * 64}, 'experiment_file': 'mine.py',
        'path': str(tmp_path / 'mine.py'), 'unknown': [],
    }  # fmt: skip
    (folder / 'environment.json').write_text(json.dumps(entries))
    assert __main__.main(argv=['report', str(folder)]) == 0
    err = capsys.readouterr().err
    assert f'Its experiment file was {tmp_path / "mine.py"}, which has changed since.' in err
    page = (folder / 'report.html').read_text()
    assert 'Own' in page
    assert 'width = ' in page
    assert not (tmp_path / 'ran').exists()


# ---- many sessions ----------------------------------------------------------------------------------------------


class Counted(dict):
    """A record that counts how often its step is looked at."""

    looks = 0

    def __getitem__(self, name):
        Counted.looks += name == 'step'
        return super().__getitem__(name)


def test_the_work_of_reading_grows_as_the_number_of_sessions(run):
    def looks(sessions):
        Counted.looks = 0
        history = [Counted(kind=kind, step=i, time=1.0) for i in range(sessions) for kind in ('resume', 'skipped')]
        assert len(event_log.current(history)) == 2 * sessions
        return Counted.looks

    assert looks(2_000) <= 2.5 * looks(1_000)
