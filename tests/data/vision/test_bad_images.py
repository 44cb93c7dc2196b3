"""What can be wrong with images: each is answered by one message that says which image, what, and what to do."""

import dataclasses

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.vision import augmentations, images, transforms

pillow = pytest.importorskip('PIL.Image')
SHAPE = (4, 6, 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (6, *SHAPE), np.uint8)


def folder(tmp_path):
    """Six images of two classes."""
    root = tmp_path / 'animals'
    for number, array in enumerate(PIXELS):
        path = root / ('cat' if number < 3 else 'dog') / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(array).save(path)
    return root


class Stored(records.Source):
    """Images as TFDS gives them: their shapes and labels are not known before they are read."""

    def __init__(self, images=PIXELS, labels=(0, 1, 0, 1, 0, 1)):
        self.found = [{'image': image, 'label': label} for image, label in zip(images, labels)]

    def open(self):
        return records.RecordList('stored', self.found, {})


def corrupt(tmp_path):
    root = folder(tmp_path)
    path = root / 'dog' / '4.png'
    path.write_bytes(path.read_bytes()[:-40])
    return sources.ImageFolder(path=str(root)), ()


def four_channels(tmp_path):
    return Stored(np.concatenate([PIXELS, PIXELS[..., :1]], axis=-1)), ()


def one_image_with_four_channels(tmp_path):
    return Stored([*PIXELS[:5], np.zeros((4, 6, 4), np.uint8)]), ()


def a_label_beyond_the_classes(tmp_path):
    return Stored(labels=(0, 1, 0, 1, 7, 1)), ()


def labels_of_arrays_beyond_the_classes(tmp_path):
    np.savez(tmp_path / 'a.npz', image=PIXELS, label=np.arange(6))
    return sources.Npz(path=str(tmp_path / 'a.npz')), ()


def a_class_without_images(tmp_path):
    root = folder(tmp_path)
    (root / 'emu').mkdir()
    return sources.ImageFolder(path=str(root)), ()


def smaller_than_the_crop(tmp_path):
    return Stored([*PIXELS[:5], PIXELS[0][:3]]), (transforms.RandomCrop(size=SHAPE[:2]),)


def smaller_than_the_crop_and_resized(tmp_path):
    return Stored([*PIXELS[:5], PIXELS[0][:2]]), (transforms.CenterCrop(size=(3, 3)), transforms.Resize(size=(4, 6)))


def a_side_below_the_crop(tmp_path):
    shorter = augmentations.RandomResizeShorter(sides=(3, 9))
    return Stored(), (shorter, transforms.RandomCrop(size=(4, 6)))


CASES = [
    (corrupt, r'dog/4\.png is not a whole PNG or JPEG image: .*ImageFolder\(skip_damaged=True\)'),
    (four_channels, r'stored, row 1 has 4 x 6 x 4, the last of which are 4 channels, but .* asks for 3'),
    (one_image_with_four_channels, 'stored, row 6 has 4 x 6 x 4, the last of which are 4 channels'),
    (a_label_beyond_the_classes, r"'labels' is 7 in example 4, but must be at least 0 and below 2"),
    (labels_of_arrays_beyond_the_classes, r'data\.classes=2, but the labels of the images are 0 to 5'),
    (a_class_without_images, r'emu holds no image that ends with \.png'),
    (smaller_than_the_crop, r'stored, row 6 has 3 x 6 x 3\. RandomCrop of 4 x 6 .* an image of 3 x 6; use a smaller'),
    (smaller_than_the_crop_and_resized, r'stored, row 6 has 2 x 6 x 3\. CenterCrop of 3 x 3 pixels does not fit'),
    (a_side_below_the_crop, r'stored, row 1 has 4 x 6 x 3\. RandomCrop of 4 x 6 .* an image of 3 x 4'),
]


@pytest.mark.parametrize(('case', 'message'), CASES, ids=[case.__name__ for case, _ in CASES])
def test_bad_input_is_answered_by_one_message(tmp_path, case, message):
    source, made = case(tmp_path)
    of = images.Images(source=source, shape=SHAPE, classes=2, batch=6, transforms=(*made, transforms.Normalize()))
    with pytest.raises(config.InputError, match=message) as error:
        of.open(0).eval_batch(0)
    assert '\n' not in str(error.value)


def test_damaged_images_are_left_out_and_counted_where_the_experiment_says_so(tmp_path, capsys):
    refused, _ = corrupt(tmp_path)
    source = dataclasses.replace(refused, skip_damaged=True)
    data = images.Images(source=source, shape=SHAPE, classes=2, batch=5).open(0)
    batch = data.eval_batch(0)
    np.testing.assert_array_equal(batch['image'], np.delete(PIXELS, 4, axis=0) / np.float32(255))
    assert batch['labels'].tolist() == [0, 0, 0, 1, 1]
    assert data.examples.fingerprint['damaged'] == 1
    said = capsys.readouterr().err
    assert '1 of 6 images are damaged and left out' in said
    assert 'dog/4.png' in said
    for path in tmp_path.rglob('*.png'):
        path.write_bytes(b'no')
    with pytest.raises(config.InputError, match=r'All 6 images in .* are damaged'):
        source.open()


def test_classes_of_arrays_without_an_image_are_named(tmp_path, capsys):
    np.savez(tmp_path / 'a.npz', image=PIXELS, label=np.array([0, 1, 3, 3, 1, 0]))
    data = images.Images(source=sources.Npz(path=str(tmp_path / 'a.npz')), shape=SHAPE, classes=5, batch=6)
    data.open(0)
    assert 'a.npz: 2 of 5 classes have no image: 2, 4' in capsys.readouterr().err
    dataclasses.replace(data, classes=4, source=Stored()).open(0)  # Which are not known before they are read.
    assert 'no image' not in capsys.readouterr().err
