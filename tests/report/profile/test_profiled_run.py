"""Steps of a run are traced again, and their time is told apart; what a person gets wrong is answered before that."""

import io
import json

import numpy as np
import pytest
from etils import epath

import tiny
from bigmodel_jax import __main__, config, verbs
from bigmodel_jax.console import terminal
from bigmodel_jax.plan import roofline
from bigmodel_jax.report.profile import breakdown, prediction, profile_view, profiled_run, stored, trace_file
from bigmodel_jax.run_directory import workdir
from bigmodel_jax.runs import directory
from bigmodel_jax.train import loop

CELL_NS = 50


def painted(trace, device):
    """The shares of the causes by cells of 50 ns: an operation fills its cells, the loops around it are left out."""
    (window,) = trace.window
    cells = {name: np.zeros((window[1] - window[0]) // CELL_NS, bool) for name in ('compute', 'collective', 'copy')}
    cells['input'] = np.zeros_like(cells['compute'])
    spans = [(op.kind, op.start, op.end) for op in trace.ops if op.device == device and op.kind != 'control']
    spans += [('input', each.start, each.end) for each in trace.phases if each.name == breakdown.INPUT]
    for name, start, end in spans:
        first, last = (max(round((at - window[0]) / CELL_NS), 0) for at in (start, end))
        cells[name][first:last] = True
    free, shares = np.ones_like(cells['compute']), []
    for name in ('compute', 'collective', 'copy', 'input'):
        shares.append((cells[name] & free).mean())
        free &= ~cells[name]
    return [*shares, free.mean()]


@pytest.mark.slow
@pytest.mark.parametrize('devices', [1, 4])
def test_the_time_of_real_steps_is_told_apart(devices, tmp_path):
    mesh = {'mesh.fsdp': 2, 'mesh.tensor': 2} if devices == 4 else {}
    loop.train(config.vary(tiny.experiment(), mesh), tmp_path)
    before = {path.name for path in tmp_path.iterdir()}
    found = verbs.profile(tmp_path, (18, 20))
    assert {path.name for path in tmp_path.iterdir()} == before | {'profile'}
    times = found.breakdown
    assert [each.device for each in times.devices] == [f'cpu:{number}' for number in range(devices)]
    assert (times.steps, times.count) == ((18, 20), 3)
    trace = trace_file.read(found.folder, found.program)
    for each in times.devices:
        assert sum(each.parts.values()) == times.window_ns
        shares = [ns / times.window_ns for ns in each.parts.values()]
        np.testing.assert_allclose(shares, painted(trace, each.device), atol=0.01)  # Operations shorter than a cell.
        assert (each.collectives > 0) == (devices > 1)
        assert each.compute > 0
    collectives = {op.name for op in times.ops if op.kind == 'collective' and '/' not in op.name}
    # As in the program, also those whose names do not tell.
    assert {name.rstrip('0123456789.') for name in collectives} >= ({'psum', 'all-gather'} if devices > 1 else set())
    origins = [found.origin(op) for op in times.ops]
    assert any('bigmodel_jax/layers/attention.py:' in origin for origin in origins)
    written = json.loads((found.folder / stored.BREAKDOWN).read_text())
    assert sum(written['seconds'][cause] for cause in breakdown.CAUSES) == pytest.approx(written['step_s'])
    assert 'plan predicts nothing' in written['prediction']  # Of a CPU.
    ((table,),) = [each.views for each in stored.shown(epath.Path(tmp_path))[stored.NAME]]
    assert table.artifact.rows[-1][0] == 'step'
    again = verbs.profile(tmp_path)  # Explains the trace that is there.
    assert again.to_json() == found.to_json()
    screen = io.StringIO()
    terminal.Console(file=screen, width=100).print(profile_view.profiled(found))
    assert f'steps 18 to 20 of {tmp_path}' in screen.getvalue()
    assert 'xprof' in screen.getvalue()


@pytest.fixture(scope='module')
def begun(tmp_path_factory):
    """A run of a thousand steps that has no checkpoint yet."""
    path = tmp_path_factory.mktemp('begun')
    workdir.create(directory.durable_files.directory(path), config.vary(tiny.experiment(), {'steps': 1_000}))
    return path


@pytest.mark.parametrize(
    ('steps', 'message'),
    [
        ((13, 10), 'give the first and the last step'),
        ((999, 1_001), 'has steps 1 to 1000'),
        ((1, 3), 'use steps from 2 on'),
        ((500, 503), 'has no checkpoint before step 499.*use steps up to 200'),
        (None, 'holds no trace'),
    ],
)
def test_steps_that_cannot_be_traced_are_refused(begun, steps, message):
    with pytest.raises(config.InputError, match=message):
        verbs.profile(begun, steps)
    assert not (begun / 'profile').exists()


def test_a_directory_that_cannot_be_written_is_refused_before_anything_starts(begun, tmp_path):
    workdir.create(directory.durable_files.directory(tmp_path), tiny.experiment())
    (tmp_path / 'profile').write_text('a file')
    with pytest.raises(config.InputError, match=r'cannot be made.*copy the run'):
        verbs.profile(tmp_path, (10, 13))
    (tmp_path / 'profile').unlink()
    (tmp_path / 'profile').symlink_to(begun)
    with pytest.raises(config.InputError, match='symbolic link'):
        verbs.profile(tmp_path, (10, 13))


def test_no_such_run(tmp_path, capsys):
    assert __main__.main(argv=['profile', str(tmp_path / 'none'), '--steps', '10:13']) == 2
    assert 'there is no such directory' in capsys.readouterr().err


def test_a_step_stands_beside_what_plan_predicts_cause_by_cause(begun):
    time = roofline.StepTime(
        compute_s=5e-3, memory_s=6e-3, hidden_s=7e-3, exposed_s=1e-3, slowdown=1.1, seconds=8.8e-3, low_s=8e-3,
        high_s=11e-3, bound='links', mfu=0.4,
    )  # fmt: skip
    predicted = prediction.Prediction('v5e:2x2', time)
    assert sum(predicted.parts.values()) == time.seconds
    assert predicted.parts['compute'] == time.memory_s  # The longer one.
    parts = {'compute': 19_200_000, 'collectives': 6_000_000, 'copies': 1_800_000, 'input': 0, 'idle': 9_000_000}
    device = breakdown.DeviceTime(device='tpu:0', **parts, hidden=12_000_000, idle_phases=(('train', 9_000_000),))
    times = breakdown.Breakdown(steps=(10, 12), count=3, window_ns=36_000_000, devices=(device,), ops=())
    folder, run = epath.Path('runs/a'), directory.open_run(begun)
    found = profiled_run.RunProfile(run, folder, times, None, hardware=(), prediction=predicted)
    screen = io.StringIO()
    terminal.Console(file=screen, width=200).print(profile_view.profiled(found))
    lines = [' '.join(line.split()) for line in screen.getvalue().splitlines()]
    assert 'Of a step, a device spent 53% computing, 25% idle, 17% in collectives' in screen.getvalue()
    assert 'The step is outside its range of 8 ms to 11 ms.' in screen.getvalue()
    assert 'What differs most is idle: 3 ms more than predicted.' in lines
    for line in (
        'compute 6.4 ms 53.3% 6 ms +400 us',
        'collectives, exposed 2 ms 16.7% 2.8 ms -800 us',
        'memory copies 600 us 5.0% 0 +600 us',
        'idle 3 ms 25.0% 0 +3 ms',
        'step 12 ms 100.0% 8.8 ms +3.2 ms',
    ):
        assert line in lines


@pytest.mark.parametrize(
    ('kind', 'count', 'name'),
    [
        ('TPU v5 lite', 4, 'v5e:2x2'),
        ('TPU v4', 8, 'v4:2x2x2'),
        ('NVIDIA H100 80GB HBM3', 16, '2*h100:8'),
        ('cpu', 4, 'None'),
        ('TPU v5 lite', 3, 'None'),
    ],
)
def test_devices_are_a_slice(kind, count, name):
    assert str(prediction.slice_of(kind, count)) == name


@pytest.mark.slow
def test_plan_predicts_the_step_of_a_run_of_tpus():
    found = prediction.of(tiny.experiment(), [{'kind': 'TPU v5 lite', 'count': 1}])
    assert found.slice == 'v5e:1x1'
    assert sum(found.parts.values()) == pytest.approx(found.time.seconds)
    assert 'plan predicts nothing for 4 x cpu' in prediction.of(tiny.experiment(), [{'kind': 'cpu', 'count': 4}])


def test_the_report_shows_the_newest_profile_and_nothing_that_lies_elsewhere(tmp_path):
    assert stored.shown(epath.Path(tmp_path)) == {}
    folder = tmp_path / 'profile' / 'plugins' / 'profile' / 'now'
    folder.mkdir(parents=True)
    (folder / stored.BREAKDOWN).write_text(
        json.dumps({'steps': [10, 13], 'step_s': 0.5, 'seconds': {'compute': 0.4, 'idle': 0.1, 'hidden': 0.2}})
    )
    ((table,),) = [each.views for each in stored.shown(epath.Path(tmp_path))[stored.NAME]]
    assert table.artifact.rows == (('compute', '0.4', '80.0%'), ('idle', '0.1', '20.0%'), ('step', '0.5', '100.0%'))
    (folder / stored.BREAKDOWN).write_text('{"steps": 3}')
    ((table,),) = [each.views for each in stored.shown(epath.Path(tmp_path))[stored.NAME]]
    assert 'is damaged' in table.problem
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'profile').symlink_to(tmp_path / 'profile')
    assert stored.shown(epath.Path(tmp_path / 'other')) == {}
