import csv
import gzip
import io
import json

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from bigmodel_jax import config
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.tabular import tabular
from bigmodel_jax.data.text import labelled, tokenizers

Csv = sources.Csv
CELLS = st.text(st.sampled_from('ab ,;\t"\n\r\'é世🙂'), max_size=5)


def written(tmp_path, content, name='table.csv'):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content.encode()) if name.endswith('.gz') else content.encode())
    return str(path)


@hypothesis.given(rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), first=st.integers(0, 8))
@hypothesis.settings(
    deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], max_examples=30
)
@pytest.mark.parametrize('name', ['table.csv', 'table.tsv', 'table.csv.gz'])
def test_any_table_comes_back(tmp_path, name, rows, first):
    content = io.StringIO()
    writer = csv.writer(content, delimiter='\t' if '.tsv' in name else ',')
    writer.writerows([('one', 'two'), *rows])
    found = Csv(path=written(tmp_path, content.getvalue(), name)).open()
    expected = [{'one': one, 'two': two} for one, two in rows]
    assert found.read(0, len(found)) == expected
    assert found.read(first, len(found)) == expected[first:]


def test_a_row_is_named_by_its_line(tmp_path):
    content = '\ufefftext,label\r\n"a\r\nb",1\r\n\r\n"say ""hi""",2\r\n'
    found = Csv(path=written(tmp_path, content)).open()
    assert found.read(0, 2) == [{'text': 'a\r\nb', 'label': '1'}, {'text': 'say "hi"', 'label': '2'}]
    assert [found.where(i).rpartition('/')[2] for i in range(2)] == ['table.csv, line 2', 'table.csv, line 5']


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('', r'table\.csv holds no text'),
        ('text,label\n', 'holds a header but no row'),
        ('text,label\na\n', r'line 2 has 1 cells, but the header has 2 columns\.'),
        ('text;label\na,b;c\n', r"columns are separated by ';', say so: Csv\(separator=';'\)"),
        ('text,label\n"a,1\nb,2\n', 'row that begins on line 2 has a quoted cell that never ends'),
        ('text,label\n"a"b,1\n', r'line 2: .* must be quoted'),
        ('text,text\na,b\n', "line 1: the column 'text' occurs twice"),
    ],
)
def test_a_broken_table_is_refused(tmp_path, content, message):
    with pytest.raises(config.InputError, match=message):
        Csv(path=written(tmp_path, content)).open()


def test_a_table_in_another_encoding_names_the_line(tmp_path):
    (tmp_path / 'table.csv').write_bytes(b'text,label\na,1\n\xff,2\n')
    with pytest.raises(config.InputError, match=r'table\.csv, line 3 is not UTF-8'):
        Csv(path=str(tmp_path / 'table.csv')).open()


def test_a_missing_column_names_the_nearest(tmp_path):
    source = sources.TextField(source=Csv(path=written(tmp_path, 'text,label\na,1\n')), field='txt')
    with pytest.raises(config.InputError, match=r"table\.csv, line 2 has no field 'txt'\. Did you mean 'text'"):
        source.open().read(0, 1)


# ---- JSON and Parquet ---------------------------------------------------------------------------------------------

NESTED = [{'data': {'text': f'Text {i}', 'n': i}} for i in range(5)]


@pytest.mark.parametrize('name', ['lines.jsonl', 'lines.jsonl.gz'])
def test_nested_fields_of_json_lines(tmp_path, name):
    path = written(tmp_path, ''.join(json.dumps(record) + '\n' for record in NESTED), name)
    assert list(records.texts(sources.TextField(source=sources.JsonLines(pattern=path), field='data.text'))) == [
        f'Text {i}' for i in range(5)
    ]
    for field, message in [
        ('data.txt', r"line 1 has no field 'txt' in 'data'\. Did you mean 'text'"),
        ('data.text.more', r"line 1 has no field 'more' in 'data\.text', which is a str"),
        ('data.n', r"'data\.n' is a int, not text"),
    ]:
        with pytest.raises(config.InputError, match=message) as raised:
            list(records.texts(sources.TextField(source=sources.JsonLines(pattern=path), field=field)))
        assert str(raised.value).startswith(path)


def test_a_record_without_a_label_is_named(tmp_path):
    path = written(tmp_path, '{"text": "a", "mood": "sad"}\n{"text": "b", "mood": null}\n', 'lines.jsonl')
    found = sources.JsonLines(pattern=path).open()
    with pytest.raises(config.InputError, match=r"line 2: 'mood' is None, which is not a label"):
        records.columns(found, ('text',), 'mood')


def test_a_table_that_changes_while_it_is_read_is_refused(tmp_path):
    found = Csv(path=written(tmp_path, 'text,label\na,1\nb,2\n')).open()
    written(tmp_path, 'text,label\nc,1\nd,2\n')
    with pytest.raises(config.InputError, match=r'table\.csv has changed since it was opened'):
        found.read(0, 2)


def test_a_torn_file_of_lines_is_refused(tmp_path):
    path = tmp_path / 'lines.jsonl.gz'
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 1_000)[:-10])
    with pytest.raises(config.InputError, match='is not a whole compressed file'):
        records.texts(sources.JsonLines(pattern=str(path)))


def test_parquet_is_read_in_groups(tmp_path):
    arrow = pytest.importorskip('pyarrow')
    parquet = pytest.importorskip('pyarrow.parquet')
    for part in range(2):
        table = arrow.table({'text': [f'{part} {i}' for i in range(7)], 'n': list(range(7))})
        parquet.write_table(table, tmp_path / f'{part}.parquet', row_group_size=3)
    source = sources.Parquet(pattern=f'{tmp_path}/*.parquet')
    found, expected = source.open(), [{'text': f'{part} {i}', 'n': i} for part in range(2) for i in range(7)]
    for start, stop in [(0, 14), (2, 9), (13, 14), (5, 5)]:
        assert found.read(start, stop) == expected[start:stop]
    assert found.where(9).endswith('1.parquet, row 3')
    with pytest.raises(config.InputError, match=r"no column 'txt'\. Did you mean 'text'"):
        sources.Parquet(pattern=f'{tmp_path}/*.parquet', columns=('txt',)).open()
    (tmp_path / '1.parquet').write_bytes(b'PAR1 no')
    with pytest.raises(config.InputError, match=r'1\.parquet is not a Parquet file'):
        source.open()


# ---- labels and numbers -------------------------------------------------------------------------------------------

REVIEWS = 'text,stars,mood\n"good, really",5,happy\nbad,1,sad\nso so,3,calm\n'


def table(path):
    return Csv(path=path)


def reviews(source, **fields):
    words = sources.Texts(texts=('good, really bad, so so',))
    vocabulary = tokenizers.WordPiece(vocab=260, trained_on=words)
    columns = {'source': source, 'sentences': ('text',), 'label': 'mood'}
    data = labelled.Labelled(**columns, tokenizer=vocabulary, batch=3, length=8, classes=3, **fields)
    return data.build(0).eval_batch(0)


def test_labels_that_are_text_are_numbered(tmp_path):
    source = table(written(tmp_path, REVIEWS))
    assert reviews(source, labels=('sad', 'calm', 'happy'))['labels'].tolist() == [2, 0, 1]
    assert reviews(source, labels=source)['labels'].tolist() == [1, 2, 0]  # In alphabetical order.


def test_a_label_of_which_training_knows_nothing_is_refused(tmp_path):
    train, dev = (
        table(written(tmp_path, REVIEWS)),
        table(written(tmp_path, REVIEWS.replace('calm', 'cool'), 'dev.csv')),
    )
    with pytest.raises(config.InputError, match=r"dev\.csv, line 4: the label 'cool' is not one of 'calm', 'happy'"):
        reviews(dev, labels=train)
    with pytest.raises(config.InputError, match=r"name them: classes=3, labels=\('calm', 'happy', 'sad'\)"):
        reviews(train)
    with pytest.raises(config.InputError, match=r"classes=3, but there are 2 labels: 'sad', 'happy'"):
        reviews(train, labels=('sad', 'happy'))


NUMBERS = 'size,age,price,kind\n1,10,1.5,a\n2,30,2.5,b\n3,50,3.5,a\n'


def features(path, **fields):
    return tabular.Features(source=Csv(path=path), columns=('size', 'age'), batch=3, **fields)


def test_columns_of_numbers_are_standardized_by_the_training_data(tmp_path):
    path = written(tmp_path, NUMBERS)
    raw = features(path, label='price', classes=1).build(0).eval_batch(0)
    np.testing.assert_array_equal(raw['features'], [[1, 10], [2, 30], [3, 50]])
    np.testing.assert_array_equal(raw['values'], np.float32([1.5, 2.5, 3.5]))
    dev = written(tmp_path, 'size,age,price,kind\n2,30,0,b\n', 'dev.csv')
    data = features(dev, label='kind', labels=('a', 'b'), fitted_on=Csv(path=path)).build(0)
    np.testing.assert_array_equal(data.eval_batch(0)['features'][0], [0, 0])
    assert data.eval_batch(0)['labels'][0] == 1
    own = features(path, label='kind', labels=('a', 'b'), fitted_on=Csv(path=path)).build(0).eval_batch(0)
    np.testing.assert_allclose(own['features'].std(axis=0), 1, rtol=1e-6)  # Float32.
    assert data.examples.fields == features(dev, label='kind').fields


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ('2,30', '2,', r"table\.csv, line 3: 'age' is '', which is not a finite number"),
        ('2,30', '2,nan', r"line 3: 'age' is 'nan'"),
        ('size,age', 'size,years', r"line 2 has no field 'age'"),
        ('3.5', 'inf', r'line 4: the label is inf'),
        ('3.5', 'dear', r"line 4: the label 'dear' is not a number"),
    ],
)
def test_a_cell_that_is_no_number_is_named(tmp_path, old, new, message):
    with pytest.raises(config.InputError, match=message):
        features(written(tmp_path, NUMBERS.replace(old, new)), label='price', classes=1).build(0)


def test_a_constant_column_is_refused(tmp_path):
    path = written(tmp_path, NUMBERS.replace('30', '10').replace('50', '10'))
    with pytest.raises(config.InputError, match="'age' has one value in all training rows"):
        features(path, label='price', classes=1, fitted_on=Csv(path=path)).build(0)


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    one, two = (Csv(path=written(tmp_path, REVIEWS, name)).open().fingerprint for name in ('a.csv', 'b.csv'))
    assert one == two
    assert Csv(path=written(tmp_path, REVIEWS + 'x,1,sad\n', 'a.csv')).open().fingerprint != one
