import hashlib
import os
import pathlib
import subprocess
import sys
import sysconfig

import pytest
import requests
import tensorflow_datasets as tfds

from bigmodel_jax import config
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.builders import python_docs

SPLITS = ('train', 'validation', 'test')


@pytest.fixture(scope='module')
def docs():
    """The documents of each split of python_docs, which is prepared once for all tests of a session."""
    return {split: records.texts(sources.Tfds(name='python_docs', split=split)) for split in SPLITS}


def test_splits_share_no_document_and_no_title(docs):
    titles = {
        split: set(
            records.texts(sources.TextField(source=sources.Tfds(name='python_docs', split=split), field='title'))
        )
        for split in SPLITS
    }
    texts = {split: set(docs[split]) for split in SPLITS}
    for each in (titles, texts):
        assert len(set.union(*each.values())) == sum(map(len, docs.values()))
    assert all(python_docs.split_of(title) == split for split in SPLITS for title in titles[split])


def test_splits_share_hardly_a_paragraph(docs):
    paragraphs = {
        split: {' '.join(p.split()) for text in docs[split] for p in text.split('\n\n') if len(p) >= 100}
        for split in SPLITS
    }
    # What is left are paragraphs of longer docstrings that repeat one another.
    assert len(paragraphs['validation'] & paragraphs['train']) < 0.02 * len(paragraphs['validation'])


def test_sizes_are_about_90_5_5(docs):
    characters = {split: sum(map(len, docs[split])) for split in SPLITS}
    total = sum(characters.values())
    assert total > 1_500_000
    assert 0.85 < characters['train'] / total < 0.94
    assert all(0.03 < characters[split] / total < 0.09 for split in SPLITS[1:])


def test_documents_are_in_the_order_of_the_first_preparation(docs, tmp_path):
    again = records.texts(sources.Tfds(name='python_docs', split='validation', data_dir=str(tmp_path)))
    assert list(again) == list(docs['validation'])
    assert again.fingerprint == docs['validation'].fingerprint


def test_version_names_the_python(docs):
    assert docs['train'].fingerprint['tfds'] == f'python_docs/docs/{python_docs.VERSION}'
    assert sysconfig.get_python_version().replace('.', '') in python_docs.VERSION


def test_sources_are_the_modules_themselves():
    folder = pathlib.Path(sysconfig.get_path('stdlib'))
    modules = dict(python_docs.sources(folder))
    assert modules['json.decoder'] == (folder / 'json' / 'decoder.py').read_text()
    assert not [title for title in modules if title.startswith(('test.', 'idlelib.', 'encodings.cp125', 'pydoc_data.'))]
    hashes = {hashlib.sha256(text.encode()).digest() for text in modules.values()}
    assert len(hashes) == len(modules) > 300


def test_layout(tmp_path):
    (tmp_path / 'module.py').write_text(
        '"""A module."""\n'
        + '# padding\n' * 20
        + 'class Thing(Base):\n    """A thing."""\n    def do(self, *, n: int = 1) -> str:\n        """Does it."""\n'
        'try:\n    async def wait(): "Waits."\nexcept ImportError:\n    pass\ndef silent(): pass\n'
    )
    ((title, text),) = python_docs.docs(tmp_path)
    assert title == 'module module'
    assert text == (
        'module\n======\n\nA module.\n\nclass Thing(Base)\n    A thing.\n\n    def do(self, *, n: int=1) -> str\n'
        '        Does it.\n\nasync def wait()\n    Waits.\n'
    )


def test_a_long_docstring_is_given_once(tmp_path):
    padding, long = '# padding\n' * 20, 'Does what its name says, as many others do. ' * 2
    for name in ('a', 'b'):
        text = f'"""Module {name}."""\n{padding}def same():\n    """{long}"""\ndef short():\n    """Short."""\n'
        (tmp_path / f'{name}.py').write_text(text)
    documents = dict(python_docs.docs(tmp_path))
    assert [long.strip() in text for text in documents.values()] == [True, False]
    assert all('Short.' in text for text in documents.values())


def test_a_topic_within_another_is_left_out(tmp_path):
    sections = ['What an if statement is.', 'What a while statement is.', 'What a for statement is.']
    topics = {'if': sections[0], 'compound': '\n\n'.join(sections), 'power': 'What the power operator is.'}
    (tmp_path / 'topics.py').write_text(f'topics = {topics!r}')
    assert [title for title, _ in python_docs.topics(tmp_path / 'topics.py')] == ['topic compound', 'topic power']


def test_slices_and_sums_of_splits(docs):
    def open_split(split):
        return records.texts(sources.Tfds(name='python_docs', split=split))

    train = docs['train']
    part, both = open_split('train[:10%]'), open_split('validation+test')
    assert list(part) == train.read(0, len(part))
    assert len(part) == pytest.approx(len(train) / 10, abs=1)
    assert len(both) == len(docs['validation']) + len(docs['test'])
    assert train[-1] == train[len(train) - 1]


class TinyTranslations(tfds.core.GeneratorBasedBuilder):
    """Stands for a set of translations that somebody else wrote."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        features = tfds.features.Translation(languages=('de', 'en'))
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {'train': iter([(0, {'de': 'Größe', 'en': 'size'})])}

    def _generate_examples(self):
        raise NotImplementedError


class NeedsTensorflow(TinyTranslations):
    """Stands for a builder that uses a package which is not installed."""

    def _split_generators(self, dl_manager):
        import tensorflow_that_is_not_installed  # noqa: F401


class Unreachable(TinyTranslations):
    """Stands for a builder whose download fails; a real attempt is given up after minutes."""

    def _split_generators(self, dl_manager):
        raise requests.ConnectionError('name resolution failed')


def test_translations():
    for field, text in (('de', 'Größe'), ('en', 'size')):
        source = sources.TextField(source=sources.Tfds(name='tiny_translations', split='train'), field=field)
        assert list(records.texts(source)) == [text]
    with pytest.raises(config.InputError, match=r"Example 0 of tiny_tr.* has no field 'text'.*Known: de, en"):
        list(records.texts(sources.Tfds(name='tiny_translations', split='train')))


def test_real_translations_are_known():
    with pytest.raises(config.InputError, match=r"no configuration 'de-xx'\. Did you mean 'de-en'"):
        records.texts(sources.Tfds(name='wmt14_translate/de-xx', split='train'))


@pytest.mark.parametrize(
    ('name', 'split', 'field', 'message'),
    [
        ('python_dosc', 'train', 'text', "no data set 'python_dosc'. Did you mean 'python_docs'"),
        ('qqqqqqqq', 'train', 'text', "no data set 'qqqqqqqq'. The catalogue"),
        ('python docs', 'train', 'text', 'Write it as name, name/configuration'),
        ('python_docs/dosc', 'train', 'text', "no configuration 'dosc'. Did you mean 'docs'"),
        ('python_docs:9.9.9', 'train', 'text', f'Its version here: {python_docs.VERSION}'),
        ('python_docs', 'trian', 'text', "the split 'trian'.*train, validation, test"),
        ('python_docs', 'train[:0%]', 'text', 'cannot give the split'),
        ('python_docs', 'train', 'txt', "no field 'txt'. Did you mean 'text'"),
        ('unreachable', 'train', 'text', 'could not be downloaded: name resolution failed'),
        ('needs_tensorflow', 'train', 'text', 'pip install tensorflow_that_is_not_installed'),
    ],
)
def test_what_tfds_does_not_have(docs, name, split, field, message):
    with pytest.raises(config.InputError, match=message):
        list(records.texts(sources.TextField(source=sources.Tfds(name=name, split=split), field=field)))


def test_a_data_set_in_a_format_without_random_access(tmp_path):
    source = sources.Tfds(name='tiny_translations', split='train', data_dir=str(tmp_path))
    source.open()
    info = next(tmp_path.rglob('dataset_info.json'))
    info.write_text(info.read_text().replace('array_record', 'tfrecord'))
    with pytest.raises(config.InputError, match=r'cannot be read at random.*--file_format=array_record'):
        source.open()


SLOW = """
import sys, time
import tensorflow_datasets as tfds
from bigmodel_jax.data import records, sources

class Slow(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({'text': tfds.features.Text()}))

    def _split_generators(self, dl_manager):
        time.sleep(2)
        return {'train': iter([(0, {'text': 'hello'})])}

    def _generate_examples(self):
        pass

print(list(records.texts(sources.Tfds(name='slow', split='train', data_dir=sys.argv[1]))))
"""


def test_two_processes_that_prepare_at_once_both_read(tmp_path):
    (tmp_path / 'slow.py').write_text(SLOW)
    environment = os.environ | {'PYTHONPATH': str(pathlib.Path(__file__).parents[2])}
    command = [sys.executable, str(tmp_path / 'slow.py'), str(tmp_path / 'tfds')]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        assert out.splitlines()[-1] == "['hello']"
        assert 'Preparing slow/1.0.0' in err
