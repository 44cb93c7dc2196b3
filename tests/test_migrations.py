"""Experiments that older versions stored open as what this version has instead."""

import pytest

from bigmodel_jax import config
from bigmodel_jax.data import sources, splits
from bigmodel_jax.data.tabular import tabular
from bigmodel_jax.data.text import labelled, questions, tokenizers
from bigmodel_jax.data.vision import images, transforms

OLD = 'bigmodel_jax.data.'
BYTES = {'class': 'bigmodel_jax.data.tokenizers:Bytes'}
PART = {'class': 'bigmodel_jax.data.splits:Train', 'held_out': 0.1}
TSV = {'class': f'{OLD}sources.tables:Tsv', 'path': 'a.tsv', 'sentences': [3], 'label': 1, 'header': True}
COLUMNS = {
    'class': f'{OLD}tables:Columns', 'sentences': ['a', 'b'], 'label': 'c',
    'records': {'class': f'{OLD}csv_records:Csv', 'path': 'a.csv', 'separator': None, 'part': None},
}  # fmt: skip
SCALING = {'class': f'{OLD}images:Scaling', 'divisor': 1.0, 'mean': [0.5], 'deviation': [2.0]}
NORMALIZE = transforms.Normalize(divisor=1.0, mean=(0.5,), deviation=(2.0,))
LABELLED = {'class': f'{OLD}labelled:Labelled', 'tokenizer': BYTES, 'batch': 2, 'length': 8, 'classes': 2}
ROWS = {'tokenizer': tokenizers.Bytes(), 'batch': 2, 'length': 8}
IMAGES = {'class': f'{OLD}images:Images', 'shape': [4, 6, 3], 'classes': 2, 'batch': 1, 'scaling': SCALING}
PICTURES = {'shape': (4, 6, 3), 'classes': 2, 'batch': 1}
CSV, TFDS = sources.Csv(path='a.csv'), sources.Tfds(name='glue/sst2', split='train')


def text_source(module, kind, /, **fields):
    return {'class': f'{OLD}{module}:{kind}', **fields}


CASES = {
    'file': (text_source('sources', 'TextFile', path='a', start=0.0, stop=0.5), sources.TextFile(path='a', stop=0.5)),
    'tfds': (
        text_source('sources.text_sources', 'Tfds', name='a', split='b', field='text', data_dir=None),
        sources.Tfds(name='a', split='b'),
    ),
    'field of tfds': (
        text_source('sources', 'Tfds', name='a', split='b', field='de', data_dir=None),
        sources.TextField(source=sources.Tfds(name='a', split='b'), field='de'),
    ),
    'field of lines': (
        text_source('sources', 'JsonLines', pattern='*', field='body', part=PART),
        sources.TextField(source=sources.JsonLines(pattern='*', part=splits.Train(held_out=0.1)), field='body'),
    ),
    'joined': (
        text_source('sources', 'Joined', parts=[text_source('sources', 'RecordField', records=COLUMNS['records'])]),
        sources.Joined(parts=(sources.TextField(source=CSV, field='text'),)),
    ),
    'records': (text_source('records', 'JsonLines', pattern='*', part=None), sources.JsonLines(pattern='*')),
    'one column': (
        text_source('tables', 'Sentences', table=TSV),
        sources.TextField(source=sources.Tsv(path='a.tsv', header=True), field=3),
    ),
    'two columns': (
        text_source('tables', 'Sentences', table=COLUMNS),
        sources.Joined(parts=tuple(sources.TextField(source=CSV, field=field) for field in 'ab')),
    ),
    'labelled': (
        LABELLED | {'table': COLUMNS, 'labels': COLUMNS},
        labelled.Labelled(source=CSV, sentences=('a', 'b'), label='c', labels=CSV, **ROWS),
    ),
    'labelled tsv': (
        LABELLED | {'table': TSV, 'labels': []},
        labelled.Labelled(source=sources.Tsv(path='a.tsv', header=True), sentences=(3,), label=1, **ROWS),
    ),
    'labelled tfds': (
        LABELLED | {'table': {'class': f'{OLD}tables:TfdsTable', 'name': 'glue/sst2', 'split': 'train'}, 'labels': []},
        labelled.Labelled(source=TFDS, **ROWS),
    ),
    'questions': (
        text_source('questions', 'TfdsQuestions', name='glue/sst2', split='train', data_dir=None),
        TFDS,
    ),
    'features': (
        {'class': f'{OLD}tabular:Features', 'records': COLUMNS['records'], 'columns': ['a'], 'label': 'c', 'batch': 2},
        tabular.Features(source=CSV, columns=('a',), label='c', batch=2),
    ),
    'npz': (
        IMAGES | {'source': {'class': f'{OLD}images:Npz', 'path': 'a', 'images': 'x', 'labels': 'y', 'part': None}},
        images.Images(source=sources.Npz(path='a'), image='x', label='y', transforms=(NORMALIZE,), **PICTURES),
    ),
    'folder': (
        IMAGES | {'source': {'class': f'{OLD}images:Folder', 'path': 'a', 'resize': True, 'part': PART}},
        images.Images(
            source=sources.ImageFolder(path='a', part=splits.Train(held_out=0.1)),
            transforms=(transforms.Resize(size=(4, 6)), NORMALIZE),
            **PICTURES,
        ),
    ),
    'records of a task': (
        {
            'class': 'bigmodel_jax.evaluate.records:TfdsRecords',
            'source': text_source('sources', 'Tfds', name='glue/sst2', split='train', field='x'),
        },
        TFDS,
    ),
}


@pytest.mark.parametrize('name', CASES)
def test_a_stored_config_opens_as_what_it_is_now(name):
    stored, now = CASES[name]
    assert config.from_json(stored) == now
    assert config.normalized(stored) == config.normalized(config.to_json(now))
    assert config.from_json(config.to_json(now)) == now  # What this version writes is left as it is.


def test_questions_of_a_file():
    stored = text_source('questions', 'Questions', source=text_source('questions', 'SquadFile', path='a'))
    found = config.from_json(stored | {'tokenizer': BYTES, 'batch': 2, 'length': 8})
    assert found == questions.Questions(source=sources.SquadFile(path='a'), **ROWS)
