import gzip

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import records, sources, splits

ORDERS = [splits.Shuffled(), splits.Shuffled(seed=1), splits.Sequential()]


@pytest.mark.parametrize('names', [range(103), [f'{i}.txt' for i in range(103)]], ids=['numbers', 'names'])
@pytest.mark.parametrize('order', ORDERS, ids=str)
@pytest.mark.parametrize('share', [0.001, 0.1, 0.5, 0.999])
def test_each_member_is_in_one_of_the_parts(names, order, share):
    parts = [part(held_out=share, order=order).select(names, 'x') for part in (splits.Train, splits.Validation)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(103))
    assert len(parts[1]) == min(max(round(103 * share), 1), 102)
    assert all((np.diff(part) > 0).all() for part in parts)


def test_the_split_is_a_function_of_the_names():
    # Written down, so that another version of this package holds out the same.
    names = [f'{i}.txt' for i in range(10)]
    assert splits.Validation(held_out=0.3).select(names, 'x').tolist() == NAMED
    assert splits.Validation(held_out=0.3).select(range(10), 'x').tolist() == NUMBERED
    assert splits.Validation(held_out=0.3, order=splits.Sequential()).select(range(10), 'x').tolist() == [7, 8, 9]


NAMED, NUMBERED = [4, 6, 9], [2, 3, 8]


@pytest.mark.parametrize('held_out', [0.0, 1.0, -0.1])
def test_a_share_is_between_0_and_1(held_out):
    with pytest.raises(config.InputError, match='held_out'):
        config.check(splits.Train(held_out=held_out))


def test_one_document_cannot_be_divided():
    with pytest.raises(config.InputError, match=r'books cannot be divided .* it has 1 member\.'):
        splits.Train(held_out=0.1).select(['a'], 'books')


# ---- folders ------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """Texts in a folder and one below, some compressed, beside what is no text."""
    root = tmp_path / 'books'
    (root / 'old').mkdir(parents=True)
    for i in range(10):
        (root / f'{i}.txt').write_text(f'Book {i}')
        (root / 'old' / f'{i}.md').write_text(f'Old {i}')
        (root / 'old' / f'{i}.txt.gz').write_bytes(gzip.compress(f'Packed {i}'.encode()))
    (root / 'cover.png').write_bytes(b'\x89PNG')
    return root


def texts(folder, **fields):
    return list(records.texts(sources.TextFiles(pattern=str(folder), **fields)))


def test_a_folder_is_its_texts(folder):
    assert sorted(texts(folder)) == sorted(f'{kind} {i}' for kind in ('Book', 'Old', 'Packed') for i in range(10))


@pytest.mark.parametrize('pattern', ['', '/*.txt', '/**/*.md'])
def test_documents_are_divided_wherever_the_folder_is(folder, pattern, tmp_path):
    parts = [part(held_out=0.2) for part in (splits.Train, splits.Validation)]
    before = [texts(f'{folder}{pattern}', part=part) for part in parts]
    moved = folder.rename(tmp_path / 'elsewhere')
    after = [texts(f'{moved}{pattern}', part=part) for part in parts]
    assert before == after
    assert sorted(after[0] + after[1]) == sorted(texts(f'{moved}{pattern}'))
    assert len(after[1]) == len(texts(f'{moved}{pattern}')) // 5


def test_a_folder_without_text_says_how_to_name_others(tmp_path):
    with pytest.raises(config.InputError, match=r'No file in the folder .* ends with \.txt or \.md.*\*\.html'):
        texts(tmp_path)


def test_records_are_divided_without_being_read_twice(stories):
    path, expected = stories
    parts = [
        list(records.texts(sources.JsonLines(pattern=path, part=part(held_out=0.25))))
        for part in (splits.Train, splits.Validation)
    ]
    assert [len(part) for part in parts] == [30, 10]
    assert sorted(parts[0] + parts[1]) == sorted(expected)
    chosen = sources.JsonLines(pattern=path, part=splits.Validation(held_out=0.25)).open()
    assert [expected.index(record['text']) for record in chosen.read(3, 7)] == [
        int(chosen.where(i).rpartition(' ')[2]) - 1 for i in range(3, 7)
    ]
