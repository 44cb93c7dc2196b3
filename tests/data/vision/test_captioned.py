"""Images with captions: what a batch holds, and what is answered where a list or a caption is not as it should be."""

import json

import numpy as np
import pytest
from data import pretrained

from bigmodel_jax import config
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.text.pretrained import pretrained_tokenizer
from bigmodel_jax.data.vision import captioned, drawn, image_files, transforms

pillow = pytest.importorskip('PIL.Image')
SIDE, END = 4, tokenizers.ByteTokenizer.end
CAPTIONS = {'0.png': 'a cat', '1.png': ['a dog', 'ein Hund'], 'far/2.png': 'a bird on a tree'}


def listed(folder, captions=None, names=tuple(CAPTIONS)):
    """A list of image files, of which `names` are there."""
    captions = CAPTIONS if captions is None else captions
    (folder / 'far').mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pillow.fromarray(np.full((SIDE, SIDE, 3), 40 * number, np.uint8)).save(folder / name)
    lines = [json.dumps({'path': name, 'caption': caption}) for name, caption in captions.items()]
    (folder / 'pairs.jsonl').write_text('\n'.join(lines))
    return image_files.ImageFiles(listed=sources.JsonLines(pattern=str(folder / 'pairs.jsonl')), folder=str(folder))


def data(source, **changes):
    made = captioned.Captioned(source=source, shape=(SIDE, SIDE, 3), tokenizer=tokenizers.Bytes(), length=20, batch=3)
    return config.vary(made, changes)


def test_a_batch_holds_each_image_with_its_own_caption(tmp_path):
    batch = data(listed(tmp_path)).open(0).eval_batch(0)
    np.testing.assert_allclose(batch['image'][:, 0, 0, 0], [0, 40 / 255, 80 / 255], rtol=1e-6)
    texts = [bytes(row[:end].tolist()).decode() for row, end in zip(batch['caption'], batch['caption_end'])]
    assert texts[0] == 'a cat'
    assert texts[1] in CAPTIONS['1.png']
    assert texts[2] == 'a bird on a tree'
    for row, end in zip(batch['caption'], batch['caption_end']):
        assert (row[end:] == END).all()


def test_captions_are_drawn_anew_in_each_epoch_and_each_is_an_example_of_an_evaluation(tmp_path):
    examples = data(listed(tmp_path)).open(0).examples
    epochs = np.arange(12)
    drawn_ones = {examples.text(row) for row in examples.gather(np.ones(12, int), epochs, 5)['caption']}
    assert drawn_ones == set(CAPTIONS['1.png'])
    again = examples.gather(np.ones(12, int), epochs, 5)
    np.testing.assert_array_equal(again['caption'], examples.gather(np.ones(12, int), epochs, 5)['caption'])
    each = data(listed(tmp_path), each_caption=True).open(0).examples
    batch = each.gather(np.arange(4), np.zeros(4, int), 0)
    assert [each.text(row) for row in batch['caption']] == ['a cat', 'a dog', 'ein Hund', 'a bird on a tree']
    assert batch['image_number'].tolist() == [0, 1, 1, 2]


def test_a_tokenizer_with_a_begin_of_its_own_has_it_before_the_caption(tmp_path):
    known = pretrained_tokenizer.Pretrained(path=pretrained.chat(tmp_path / 'tokenizer')).build()
    rows = captioned.rows_of(known.encode_many(['Hello there', 'Hello ' * 50]), known, length=8)
    assert rows['caption'][:, 0].tolist() == [known.begin] * 2
    assert rows['caption_end'][1] == 7
    for row, end in zip(rows['caption'], rows['caption_end']):
        assert (row[end:] == known.end).all()
        assert known.end not in row[:end]


def test_captions_that_are_too_long_are_counted_and_refused_or_cut(tmp_path, capsys):
    with pytest.raises(config.InputError, match=r'1 of 4 captions have more than the 11 tokens .* longest has 16'):
        data(listed(tmp_path), length=12).open(0)
    batch = data(listed(tmp_path), length=12, too_long='cut').open(0).eval_batch(0)
    assert '1 of 4 captions have more than the 11 tokens' in capsys.readouterr().err
    assert batch['caption'][2, -1] == END
    assert batch['caption_end'][2] == 11


@pytest.mark.parametrize(
    ('captions', 'said'),
    [
        ({'0.png': 'a cat', '1.png': '  '}, r'pairs.jsonl, line 2: the caption in .caption. is empty'),
        ({'0.png': []}, 'is an empty list'),
        ({'0.png': 5}, 'is a int, not text'),
        ({'0.png': 'a cat', 'none.png': 'a dog', 'no.png': 'x'}, r'2 of the 3 images .* none.png \(.*line 2\), no.png'),
        ({'../0.png': 'a cat'}, 'should be the path of a file relative to'),
        ({'/etc/passwd': 'a cat'}, 'should be the path of a file relative to'),
    ],
)
def test_what_is_wrong_with_a_list_is_said(tmp_path, captions, said):
    with pytest.raises(config.InputError, match=said):
        data(listed(tmp_path, captions)).open(0)


def test_a_damaged_image_is_left_out_with_its_caption(tmp_path):
    source = listed(tmp_path)
    (tmp_path / '0.png').write_bytes(b'not a picture')
    with pytest.raises(config.InputError, match='not a whole PNG'):
        data(source).open(0)
    examples = data(config.vary(source, {'skip_damaged': True})).open(0).examples
    batch = examples.gather(np.arange(2), np.zeros(2, int), 0)
    np.testing.assert_allclose(batch['image'][:, 0, 0, 0], [40 / 255, 80 / 255], rtol=1e-6)
    assert examples.text(batch['caption'][1]) == 'a bird on a tree'


def test_texts_are_read_without_decoding_an_image(tmp_path):
    source = listed(tmp_path, {'0.png': 'a cat', '1.png': 'a dog'})
    found = source.open()
    (tmp_path / '0.png').unlink()  # What is read from it afterwards would fail.
    assert [record['caption'] for record in found.without_images] == ['a cat', 'a dog']


def test_a_background_stands_where_alpha_is_nothing():
    image = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], np.uint8)
    found = transforms.OnBackground()(image, np.uint64(0))
    np.testing.assert_array_equal(found[0], [[10, 20, 30], [255, 255, 255], [204, 204, 204]])


def test_drawn_shapes_are_named():
    records = drawn.CaptionedShapes(count=40).open()
    assert records[0]['caption'] == records[32]['caption'] == 'a red disc above'
    assert not np.array_equal(records[0]['image'], records[32]['image'])
