import json
import os
import time

import pytest

from bigmodel_jax import config
from bigmodel_jax.data import records, sources


def old(path):
    """Makes a file look untouched for an hour, so that its index is kept."""
    os.utime(path, (time.time() - 3600,) * 2)


def test_text_file_is_one_document_cut_by_characters(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_bytes('Größe\r\n世界'.encode())
    whole = records.texts(sources.TextFile(path=str(path)))
    assert list(whole) == ['Größe\r\n世界']
    left, right = (
        records.texts(sources.TextFile(path=str(path), start=a, stop=b)) for a, b in ((0.0, 0.4), (0.4, 1.0))
    )
    assert left[0] + right[0] == whole[0]
    assert len({json.dumps(each.fingerprint) for each in (whole, left, right)}) == 3


def test_fingerprint_follows_the_content_not_the_place(tmp_path):
    for name, text in (('a.txt', 'one'), ('b.txt', 'one'), ('c.txt', 'two')):
        (tmp_path / name).write_text(text)
    a, b, c = (
        records.texts(sources.TextFile(path=str(tmp_path / name))).fingerprint for name in ('a.txt', 'b.txt', 'c.txt')
    )
    assert a == b != c


def test_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'a.txt').write_text('at home')
    assert records.texts(sources.TextFile(path='~/a.txt'))[0] == 'at home'
    assert list(records.texts(sources.TextFiles(pattern='~/*.txt'))) == ['at home']


def test_text_files_in_the_order_of_their_paths(tmp_path):
    (tmp_path / 'deep').mkdir()
    for name in ('b.txt', 'a.txt', 'deep/c.txt', 'd.md'):
        (tmp_path / name).write_text(name)
    opened = records.texts(sources.TextFiles(pattern=str(tmp_path / '**' / '*.txt')))
    assert list(opened) == ['a.txt', 'b.txt', 'deep/c.txt']
    assert opened[-1] == 'deep/c.txt'
    with pytest.raises(IndexError):
        opened[3]


@pytest.mark.parametrize('make', [lambda path: None, old], ids=['fresh', 'kept'])
def test_json_lines_at_random(stories, make):
    path, texts = stories
    make(path)
    for _ in range(2):
        opened = records.texts(sources.JsonLines(pattern=path))
        assert [opened[i] for i in (39, 0, 17)] == [texts[i] for i in (39, 0, 17)]
        assert opened.read(3, 9) == texts[3:9]
        assert list(opened.chunks(7)) == [texts[i : i + 7] for i in range(0, 40, 7)]


def test_json_lines_over_files_with_blank_lines_and_no_last_newline(tmp_path):
    (tmp_path / 'a.jsonl').write_text('{"t": "one"}\n\n  \n{"t": "two"}\r\n')
    (tmp_path / 'b.jsonl').write_text('')
    (tmp_path / 'c.jsonl').write_text('\n{"t": "three\\n"}')
    opened = records.texts(sources.TextField(source=sources.JsonLines(pattern=str(tmp_path / '*.jsonl')), field='t'))
    assert list(opened) == ['one', 'two', 'three\n']
    assert opened.read(1, 3) == ['two', 'three\n']


def test_a_changed_file_is_read_anew(tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text('{"text": "old"}\n')
    old(path)
    before = records.texts(sources.JsonLines(pattern=str(path)))
    assert list(before) == ['old']
    path.write_text('{"text": "new"}\n')  # As long as before.
    os.utime(path, (time.time() - 60,) * 2)
    after = records.texts(sources.JsonLines(pattern=str(path)))
    assert list(after) == ['new']
    assert after.fingerprint != before.fingerprint


def bad(tmp_path, content):
    path = tmp_path / 'bad'
    path.write_bytes(content)
    return str(path)


@pytest.mark.parametrize(
    ('content', 'source', 'message'),
    [
        (b'ok \xff\xfe', lambda path: sources.TextFile(path=path), 'bad is not UTF-8: byte 0xff at position 3'),
        (b'', lambda path: sources.TextFile(path=path), 'bad holds no text'),
        (b' \n\n', lambda path: sources.TextFile(path=path), 'bad holds no text'),
        (
            b'abc',
            lambda path: sources.TextFile(path=path, start=0.5, stop=0.5),
            'no text between 0.5 and 0.5 of its 3',
        ),
        (b'', lambda path: sources.TextFiles(pattern=path), 'bad is empty'),
        (b'a\xffb', lambda path: sources.TextFiles(pattern=path), 'bad is not UTF-8: byte 0xff at position 1'),
        (b'\n \n', lambda path: sources.JsonLines(pattern=path), 'has a line that is not blank'),
        (b'{"text": "a"}\n\n{text}\n', lambda path: sources.JsonLines(pattern=path), 'bad, line 3 is not JSON'),
        (b'{"text": "\xff"}\n', lambda path: sources.JsonLines(pattern=path), 'bad, line 1 is not JSON.*0xff'),
        (b'["text"]\n', lambda path: sources.JsonLines(pattern=path), 'bad, line 1 is a JSON list, not an object'),
        (b'{"text": 7}\n', lambda path: sources.JsonLines(pattern=path), "line 1: 'text' is a int, not text"),
        (b'{"text": "\\ud800"}', lambda path: sources.JsonLines(pattern=path), 'surrogate pair at character 0'),
        (
            b'{"texts": "a"}\n',
            lambda path: sources.JsonLines(pattern=path),
            "line 1 has no field 'text'. Did you mean 'texts'",
        ),
    ],
)
def test_bad_content(tmp_path, content, source, message):
    with pytest.raises(config.InputError, match=message):
        list(records.texts(source(bad(tmp_path, content))))


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        (sources.TextFile(path='nowhere/input.txt'), r'There is no file /.*nowhere/input\.txt'),
        (sources.TextFiles(pattern='nowhere/*.txt'), r"No file matches 'nowhere/\*\.txt'"),
        (sources.JsonLines(pattern='nowhere/*.jsonl'), r"No file matches 'nowhere/\*\.jsonl'"),
    ],
)
def test_missing_files(tmp_path, monkeypatch, source, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(config.InputError, match=message):
        source.open()


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / 'input.txt').write_text('text')
    with pytest.raises(config.InputError, match=r"Did you mean 'input\.txt'"):
        records.texts(sources.TextFile(path=str(tmp_path / 'inptu.txt')))


def test_a_directory_is_no_file(tmp_path):
    with pytest.raises(config.InputError, match='is a directory'):
        records.texts(sources.TextFile(path=str(tmp_path)))


@pytest.mark.parametrize(
    'source',
    [
        sources.TextFile(path='a', stop=0.9),
        sources.TextFiles(pattern='*'),
        sources.TextField(source=sources.JsonLines(pattern='*'), field='body'),
        sources.TextField(source=sources.Tfds(name='wmt14_translate/de-en', split='train'), field='de'),
    ],
)
def test_configs_are_valid_and_survive_json(source):
    assert config.from_json(config.to_json(config.check(source))) == source
