"""Artifacts: JSON and files give them back as they were, and no name in a record leaves the folder."""

import errno
import hashlib
import io
import json
import math
import wave

import numpy as np
import pytest
from etils import epath

from bigmodel_jax.evaluate import artifacts, encodings, evaluation, metric
from bigmodel_jax.run_directory import artifact_files, event_log
from bigmodel_jax.storage import durable_files, sums
from bigmodel_jax.train import metrics

RANDOM = np.random.default_rng(0)
LINE = artifacts.Line(name='l', x=(0.0, 1.0), y=(1.0, 2.0))
EVERY = (
    artifacts.Text(prompt='a\u2028', text='b 世界', reference='c'),
    artifacts.Text(text=''),
    artifacts.Table(title='t', columns=('x', 'y'), rows=(('a', 1), ('b', 0.5))),
    artifacts.Image.of(RANDOM.random((3, 5))),
    artifacts.Image.of(RANDOM.integers(0, 256, (4, 2, 4)).astype(np.uint8), title='../../x'),
    artifacts.Audio.of(np.sin(np.arange(100.0)), 8_000, title='tone'),
    artifacts.attention(RANDOM.dirichlet(np.ones(3), (2, 2, 4)), ['a', 'b', 'c'], ['d', 'e', 'f', 'g']),
    artifacts.Figure(panels=(artifacts.Chart(title='c', lines=(LINE,)),)),
)  # fmt: skip


@pytest.mark.parametrize('artifact', EVERY, ids=lambda each: each.kind)
def test_json_and_file_give_it_back(artifact):
    stored = json.loads(json.dumps(artifact.to_json(), allow_nan=False))
    assert artifacts.from_json(stored, getattr(artifact, 'content', b'')) == artifact


def test_a_number_that_is_not_finite_survives():
    figure = artifacts.Figure(
        panels=(artifacts.Heatmap(values=((math.nan, math.inf),), rows=('r',), columns=('a', 'b')),)
    )
    (panel,) = artifacts.from_json(json.loads(json.dumps(figure.to_json(), allow_nan=False))).panels
    assert math.isnan(panel.values[0][0])
    assert panel.values[0][1] == math.inf


def test_a_cell_that_is_neither_text_nor_number_is_recorded_as_text(tmp_path):
    row = (True, np.bool_(False), None)
    table = artifacts.Table(columns=('a', 'b', 'c'), rows=(row,))
    assert artifacts.from_json(json.loads(json.dumps(table.to_json()))).rows == (('True', 'False', 'None'),)


def test_arrays_are_recorded_as_lists():
    chart = artifacts.Chart(lines=(artifacts.Line(name='a', x=np.arange(2), y=np.arange(2.0)),))
    again = artifacts.from_json(json.loads(json.dumps(artifacts.Figure(panels=(chart,)).to_json())))
    assert again.panels[0].lines[0].x == (0, 1)


def test_half_a_surrogate_pair_is_recorded_as_a_question_mark(tmp_path):
    record(tmp_path, found=[artifacts.Text(text='a\ud800')])
    assert read(tmp_path)[0].entries == [{'type': 'text', 'text': 'a?'}]


@pytest.mark.parametrize('shape', [(3, 5), (3, 5, 1), (3, 5, 3), (3, 5, 4)])
def test_a_png_file_has_the_pixels(shape):
    image_module = pytest.importorskip('PIL.Image')
    pixels = RANDOM.integers(0, 256, shape).astype(np.uint8)
    content = encodings.png(encodings.pixels_of(pixels))
    np.testing.assert_array_equal(np.asarray(image_module.open(io.BytesIO(content))).squeeze(), pixels.squeeze())
    np.testing.assert_array_equal(encodings.pixels_in(content), encodings.pixels_of(pixels))


@pytest.mark.parametrize('shape', [(3,), (3, 5, 2), (0, 5), (1, 2, 3, 4)])
def test_what_is_no_image_is_refused(shape):
    with pytest.raises(ValueError, match=r'is not \[Y, X\]'):
        artifacts.Image.of(np.zeros(shape))


def test_a_wav_file_has_the_samples():
    samples = RANDOM.integers(-(2**15), 2**15, (50, 2)).astype(np.int16)
    with wave.open(io.BytesIO(artifacts.Audio.of(samples, 16_000).content)) as file:
        assert (file.getnchannels(), file.getframerate()) == (2, 16_000)
        np.testing.assert_array_equal(np.frombuffer(file.readframes(50), '<i2').reshape(50, 2), samples)


# ---- in a run's directory -----------------------------------------------------------------------------------------


def record(workdir, name='x', found=EVERY, step=7):
    with metrics.MetricsWriter(epath.Path(workdir), start=None, wandb=None, details={}) as writer:
        writer.evaluation(step, name, evaluation.EvaluationResult({'m': metric.Metric(1.0, 'higher', '%')}, found))
    return writer


def read(workdir):
    return artifact_files.groups(event_log.read(workdir / event_log.FILE))


@pytest.mark.parametrize('name', ['x', '..', '.hidden', 'a b\\c', '翻' * 90])
def test_a_run_keeps_them_under_names_of_its_own(tmp_path, name):
    record(tmp_path, name)
    ((step, of, entries),) = read(tmp_path)
    assert (step, of) == (7, name)
    assert [artifact_files.load(epath.Path(tmp_path), entry) for entry in entries] == list(EVERY)
    files = sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / 'artifacts').iterdir())
    assert files == sorted(entry['file'] for entry in entries if 'file' in entry)
    listed = durable_files.known_sums(epath.Path(tmp_path))
    assert listed == {file: {hashlib.sha256((tmp_path / file).read_bytes()).hexdigest()} for file in files}
    sums.check(epath.Path(tmp_path), artifact_files.FOLDER)


@pytest.mark.parametrize(
    'file', ['../secret.png', '/etc/hosts', 'artifacts/../../secret.png', 'artifacts/7_x_0_0123456789ab.png\n', '']
)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, file):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'secret.png').write_bytes(b'secret')
    entry = {'type': 'image', 'height': 1, 'width': 1, 'file': file, 'sha256': hashlib.sha256(b'secret').hexdigest()}
    with pytest.raises(durable_files.DamagedFile, match='is not the name of an artifact'):
        artifact_files.load(epath.Path(tmp_path / 'run'), entry)


def test_a_file_that_is_damaged_missing_or_a_link_is_said(tmp_path):
    record(tmp_path, found=EVERY[3:4])
    ((_, _, (entry,)),) = read(tmp_path)
    path, workdir = tmp_path / entry['file'], epath.Path(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(durable_files.DamagedFile, match='its checksum is not the recorded one'):
        artifact_files.load(workdir, entry)
    path.rename(tmp_path / 'elsewhere')
    with pytest.raises(durable_files.DamagedFile, match='is missing'):
        artifact_files.load(workdir, entry)
    path.symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(ValueError, match='symbolic link'):
        artifact_files.load(workdir, entry)


def test_a_full_disk_does_not_end_the_run_and_the_files_come_later(tmp_path, monkeypatch):
    with monkeypatch.context() as full:
        full.setattr(durable_files, 'write', _no_room)
        with metrics.MetricsWriter(epath.Path(tmp_path), start=None, wandb=None, details={}) as writer:
            writer.evaluation(7, 'x', evaluation.EvaluationResult(artifacts=EVERY))
            full.undo()
            writer.sync()
    assert not writer.lost
    ((_, _, entries),) = read(tmp_path)
    assert [artifact_files.load(epath.Path(tmp_path), entry) for entry in entries] == list(EVERY)


def _no_room(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')


@pytest.mark.parametrize('entry', [{'type': 'text'}, {'type': 'image', 'file': 1}, {'no': 'type'}, {'type': ['text']}])
def test_a_damaged_record_is_left_out_and_said(tmp_path, entry):
    event_log.append(tmp_path / 'm.jsonl', {'kind': 'artifacts', 'name': 'x', 'step': 1, 'artifacts': [entry]})
    log = event_log.scan(tmp_path / 'm.jsonl')
    assert not log.records
    assert len(log.damage) == 1


def test_a_kind_that_only_a_newer_version_knows_is_kept(tmp_path):
    newer = {'kind': 'artifacts', 'name': 'x', 'step': 1, 'artifacts': [{'type': 'hologram', 'depth': 3}]}
    event_log.append(tmp_path / 'm.jsonl', newer)
    assert artifact_files.groups(event_log.read(tmp_path / 'm.jsonl'))[0].entries == newer['artifacts']


def test_texts_and_maps_of_an_older_version_are_artifacts():
    piece = [{'id': 3, 'piece': 'a'}, {'id': 0, 'piece': ''}]
    older = [
        {'kind': 'samples', 'name': 's', 'step': 5, 'samples': [{'prompt': 'p', 'text': 't', 'reference': 'r'}]},
        {
            'kind': 'maps', 'name': 'm', 'step': 6,
            'maps': [{'prompt': 'p', 'text': 't', 'source': piece, 'target': piece, 'weights': [[[[1, 0], [0, 1]]]]}],
        },
    ]  # fmt: skip
    samples, maps = artifact_files.groups(older)
    assert artifacts.from_json(samples.entries[0]) == artifacts.Text(prompt='p', text='t', reference='r')
    assert artifacts.from_json(maps.entries[1]).panels[0].columns == ('a 3', '(end) 0')
