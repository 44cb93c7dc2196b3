import bz2
import gzip
import json
import lzma
import os
import time

import pytest

from bigmodel_jax import config
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.sources import files
from bigmodel_jax.data.text import encoding

MARK = '\ufeff'.encode()
TEXT = 'good film\t1\n'
JSON = json.dumps({'text': 'good film'}) + '\n'
SQUAD = json.dumps({'data': [{'paragraphs': [{'context': 'good film', 'qas': []}]}]})
ENCODINGS = [(name, MARK.decode()) for name in ('utf-16-le', 'utf-16-be', 'utf-32-le', 'utf-32-be')]
ENCODINGS += [('utf-16-le', ''), ('utf-16-be', '')]
PACKERS = {'gzip': gzip.compress, 'bzip2': bz2.compress, 'xz': lzma.compress}


def tsv_rows(path):
    return list(sources.Tsv(path=path).open())


READERS = {
    'TextFile': (TEXT, lambda path: list(records.texts(sources.TextFile(path=path)))),
    'TextFiles': (TEXT, lambda path: list(records.texts(sources.TextFiles(pattern=path)))),
    'Lines': (TEXT, lambda path: list(records.texts(sources.Lines(path=path)))),
    'Tsv': (TEXT, tsv_rows),
    'JsonLines': (JSON, lambda path: list(records.texts(sources.JsonLines(pattern=path)))),
    'SquadFile': (SQUAD, lambda path: list(sources.SquadFile(path=path).open())),
    'JsonRecords': (JSON, lambda path: list(records.texts(sources.JsonLines(pattern=path)))),
}


def put(path, content):
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize('reader', READERS)
def test_a_byte_order_mark_is_no_text(tmp_path, reader):
    text, read = READERS[reader]
    plain = read(put(tmp_path / 'plain', text.encode()))
    assert read(put(tmp_path / 'marked', MARK + text.encode())) == plain


@pytest.mark.parametrize('packer', PACKERS)
@pytest.mark.parametrize('reader', READERS)
def test_compressed_text_is_the_text(tmp_path, reader, packer):
    text, read = READERS[reader]
    plain = read(put(tmp_path / 'plain', text.encode()))
    packed = put(tmp_path / 'packed', PACKERS[packer](MARK + text.encode()))
    assert read(packed) == plain
    with pytest.raises(config.InputError, match='torn is not a whole compressed file'):
        read(put(tmp_path / 'torn', PACKERS[packer](text.encode() * 99)[:-9]))


@pytest.mark.parametrize(('name', 'mark'), ENCODINGS)
@pytest.mark.parametrize('reader', READERS)
def test_another_encoding_is_refused_and_the_advice_converts_it(tmp_path, reader, name, mark):
    text, read = READERS[reader]
    with pytest.raises(config.InputError) as caught:
        read(put(tmp_path / 'odd', (mark + text).encode(name)))
    advised = str(caught.value).partition('iconv -f ')[2].split()[0]
    assert str(caught.value).startswith(str(tmp_path / 'odd'))
    assert (mark + text).encode(name).decode(advised) == text


@pytest.mark.parametrize(
    ('content', 'words', 'others'),
    [
        ('Größe'.encode('latin1'), 'iconv -f ENCODING', 'latin1'),
        ('Größe'.encode()[:3], 'ends within a character', 'iconv'),
        (b'\x00\x01\xff\xfe\x02', 'not text at all', 'iconv'),
        (b'\x28\xb5\x2f\xfd\x04', 'is zstd.*unzstd', 'iconv'),
        (b'PK\x03\x04\xff', 'is a zip archive', 'iconv'),
    ],
)
def test_the_advice_is_only_what_helps(content, words, others):
    with pytest.raises(config.InputError, match=words) as caught:
        encoding.decode(content, 'a file')
    assert others not in str(caught.value)


def test_a_mark_changes_what_a_text_is_known_by(tmp_path):
    """Whoever prepared this file when marks were kept as text has other tokens."""
    marked = put(tmp_path / 'marked', MARK + b'text')
    assert records.texts(sources.TextFile(path=marked)).fingerprint['encoding'] == files.MARKED
    assert records.texts(sources.TextFiles(pattern=marked)).fingerprint['encoding'] == {files.MARKED: [0]}


def kept_times(path, content):
    """Puts another file in the place of `path` as `rsync -t` and `tar` do: with the same times."""
    new = path.with_name('new')
    new.write_bytes(content)
    os.utime(new, (1_577_836_800,) * 2)
    new.rename(path)


@pytest.mark.parametrize('reader', ['TextFiles', 'JsonLines'])
def test_a_file_of_the_same_size_and_time_is_read_as_it_is(tmp_path, monkeypatch, reader):
    monkeypatch.setattr(files, 'SETTLED_S', -60.0)  # As if an hour had passed since.
    (text, read), path = READERS[reader], tmp_path / 'data'
    kept_times(path, text.encode())
    assert 'good' in read(str(path))[0]
    before = files.index(files.path_of(str(path))).sha256
    kept_times(path, text.replace('good', 'poor').encode())
    assert 'poor' in read(str(path))[0]
    assert files.index(files.path_of(str(path))).sha256 != before


@pytest.mark.parametrize('kind', [sources.TextFiles, sources.JsonLines])
def test_a_file_that_changes_while_it_is_used_is_noticed(tmp_path, kind):
    path = tmp_path / 'data'
    path.write_text(JSON)
    opened = kind(pattern=str(path)).open()
    whole = opened[0]
    os.utime(path, (time.time() - 99,) * 2)
    assert opened[0] == whole  # Touched, but the same.
    path.write_text(JSON.replace('good', 'poor'))
    with pytest.raises(config.InputError, match='data has changed since it was opened'):
        opened.read(0, 1)
    path.unlink()
    with pytest.raises(config.InputError, match='There is no file'):
        opened.read(0, 1)
