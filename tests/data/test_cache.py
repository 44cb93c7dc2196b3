import json
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import cache, sources
from bigmodel_jax.data.text import tokenizers, tokens

KEY = {'what': 'a test'}


def write(text):
    def make(directory, parts):
        (directory / 'a.txt').write_text(text)
        (directory / 'deep').mkdir()
        (directory / 'deep' / 'b.bin').write_bytes(bytes(1_000))

    return make


def test_made_once_and_under_the_key(cache_root):
    first = cache.prepared('kind', KEY, write('one'))
    second = cache.prepared('kind', dict(reversed(KEY.items())), write('two'))
    other = cache.prepared('kind', {'what': 'another'}, write('three'))
    assert first == second != other
    assert (second / 'a.txt').read_text() == 'one'
    assert {path.name for path in (cache_root / 'kind').iterdir()} == {first.name, other.name}


@pytest.mark.parametrize(
    ('spoil', 'message'),
    [
        (lambda entry: (entry / 'deep' / 'b.bin').write_bytes(bytes(400)), 'deep/b.bin has 400 bytes instead of 1000'),
        (lambda entry: (entry / 'deep' / 'b.bin').write_bytes(bytes(999) + b'x'), 'deep/b.bin has changed'),
        (lambda entry: (entry / 'a.txt').unlink(), 'a.txt is missing'),
        (lambda entry: (entry / 'contents.json').write_text('{"ke'), 'contents.json is unreadable'),
        (lambda entry: (entry / 'contents.json').unlink(), 'contents.json is missing'),
    ],
)
def test_damage_is_told_and_mended(spoil, message, capsys):
    spoil(cache.prepared('kind', KEY, write('one')))
    again = cache.prepared('kind', KEY, write('mended'))
    assert (again / 'a.txt').read_text() == 'mended'
    assert cache.damage(again) is None
    told = capsys.readouterr().err
    assert message in told
    assert 'preparing it again' in told


def test_a_failure_leaves_the_parts_and_no_entry(cache_root):
    def fail(directory, parts):
        (parts / 'kept').write_text('done')
        raise config.InputError('bad input')

    def finish(directory, parts):
        (directory / 'a.txt').write_text((parts / 'kept').read_text())

    with pytest.raises(config.InputError, match='bad input'):
        cache.prepared('kind', KEY, fail)
    entry = cache.prepared('kind', KEY, finish)
    assert (entry / 'a.txt').read_text() == 'done'
    assert [path.name for path in (cache_root / 'kind').iterdir()] == [entry.name]


def test_whoever_comes_second_uses_the_first_result(cache_root):
    def overtaken(directory, parts):
        cache.prepared('kind', KEY, write('first'))
        (directory / 'a.txt').write_text('second')  # Its directory is gone by now.

    entry = cache.prepared('kind', KEY, overtaken)
    assert (entry / 'a.txt').read_text() == 'first'
    assert [path.name for path in (cache_root / 'kind').iterdir()] == [entry.name]


def test_a_place_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('BIGMODEL_JAX_CACHE', str(tmp_path / 'file' / 'cache'))
    with pytest.raises(config.InputError, match=r'file/cache cannot be used: Not a directory.*BIGMODEL_JAX_CACHE'):
        cache.prepared('kind', KEY, write('one'))


def test_a_full_disk(monkeypatch):
    def full(directory, parts):
        raise OSError(28, 'No space left on device')

    with pytest.raises(config.InputError, match='No space left on device'):
        cache.prepared('kind', KEY, full)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv('BIGMODEL_JAX_CACHE', '')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    assert cache.root() == tmp_path / 'xdg' / 'bigmodel_jax'
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert cache.root() == tmp_path / '.cache' / 'bigmodel_jax'


# ---- preparing tokens in other processes --------------------------------------------------------------------------

PREPARE = """
import json, sys, time
from bigmodel_jax.data import records
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text import tokens

class Slow(records.Records):
    text_only = True
    name, fingerprint = 'slow', {'texts': 2_000}

    def __len__(self):
        return 2_000

    def read(self, start, stop):
        time.sleep(float(sys.argv[2]))
        with open(sys.argv[1], 'a') as log:
            log.write(f'{start}\\n')
        return [{'text': f'text {i}'} for i in range(start, stop)]

class Source(records.Source):
    def open(self):
        return Slow()

corpus = tokens.tokenized(Source(), tokenizers.Bytes())
print(json.dumps(corpus.fingerprint), tokenizers.Bytes().build().decode(corpus.tokens[-10:]))
"""
SHARDS = 8  # 2,000 documents in shards of 256.


def start(tmp_path, log, delay_s):
    script = tmp_path / 'prepare.py'
    script.write_text(PREPARE)
    command = [sys.executable, str(script), str(log), str(delay_s)]
    environment = os.environ | {'PYTHONPATH': str(pathlib.Path(__file__).parents[2])}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process):
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def reads(log):
    return log.read_text().split() if log.exists() else []


def test_two_processes_at_once_get_one_result(tmp_path, cache_root):
    logs = [tmp_path / 'log0', tmp_path / 'log1']
    results = {finish(process) for process in [start(tmp_path, log, 0.1) for log in logs]}
    assert len(results) == 1
    assert 'text 1999' in results.pop()
    assert len(list((cache_root / 'tokens').iterdir())) == 1
    assert set(reads(logs[0]) + reads(logs[1])) == {str(i * 256) for i in range(SHARDS)}


def test_a_killed_preparation_goes_on(tmp_path, cache_root):
    log = tmp_path / 'log'
    process = start(tmp_path, log, 0.3)
    deadline = time.monotonic() + 60
    while len(reads(log)) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)
    done = len(list(cache_root.glob('tokens/*.partial/parts/*.npy')))
    assert done >= 2
    assert not [entry for entry in (cache_root / 'tokens').iterdir() if entry.suffix != '.partial']
    log.unlink()
    result = finish(start(tmp_path, log, 0))
    assert len(reads(log)) == SHARDS - done
    (cache_root / 'tokens').rename(tmp_path / 'aside')
    assert finish(start(tmp_path, log, 0)) == result


def test_a_truncated_token_file_is_made_again(stories, capsys):
    source = sources.JsonLines(pattern=stories[0])
    before = tokens.tokenized(source, tokenizers.Bytes())
    expected = np.array(before.tokens)
    path = pathlib.Path(before.tokens.filename)
    path.write_bytes(path.read_bytes()[:-100])
    after = tokens.tokenized(source, tokenizers.Bytes())
    np.testing.assert_array_equal(after.tokens, expected)
    assert 'tokens.bin has' in capsys.readouterr().err


def test_the_stream_is_the_documents_with_an_end_around_each(stories):
    path, texts = stories
    corpus = tokens.tokenized(sources.JsonLines(pattern=path), tokenizers.Bytes())
    end = corpus.tokenizer.end
    assert corpus.tokens[0] == corpus.tokens[-1] == end
    spans = [corpus.tokens[a + 1 : b] for a, b in zip(corpus.starts, corpus.starts[1:])]
    assert [corpus.tokenizer.decode(span) for span in spans] == texts
    assert (corpus.tokens[corpus.starts] == end).all()
    assert json.loads(json.dumps(corpus.fingerprint)) == corpus.fingerprint
