"""Images and labels in MNIST's format."""

import gzip
import struct

import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import splits
from bigmodel_jax.data.vision import idx_files

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 3, 4), np.uint8)
LABELS = np.arange(7, dtype=np.uint8) % 3


def stored(array):
    return struct.pack(f'>HBB{array.ndim}I', 0, 8, array.ndim, *array.shape) + array.tobytes()


WHOLE = {'images': stored(IMAGES), 'labels': stored(LABELS)}


def written(tmp_path, content=WHOLE, **fields):
    paths = {name: tmp_path / name for name in WHOLE}
    for name, path in paths.items():
        path.write_bytes((WHOLE | content)[name])
    return idx_files.Idx(**{name: str(path) for name, path in paths.items()}, **fields)


@pytest.mark.parametrize('pack', [bytes, gzip.compress])
def test_records_are_the_images_and_their_labels(tmp_path, pack):
    found = written(tmp_path, {name: pack(content) for name, content in WHOLE.items()}).open()
    assert len(found) == 7
    for record, image, label in zip(found, IMAGES, LABELS, strict=True):
        np.testing.assert_array_equal(record['image'], image)
        assert record['label'] == label


def test_parts_are_disjoint_and_have_fingerprints_of_their_own(tmp_path):
    train, validation = (written(tmp_path, part=part).open() for part in splits.both(held_out=0.3))
    assert len(train) + len(validation) == 7
    assert train.fingerprint != validation.fingerprint


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'images': stored(IMAGES)[:-1]}, r'images says that it holds 7 x 3 x 4 bytes, but has 83'),
        ({'images': stored(LABELS)}, r'with 3 dimensions: .* begins with 00 00 08 03, but this one with 00 00 08 01'),
        ({'images': b''}, 'but this one with nothing'),
        ({'images': gzip.compress(stored(IMAGES))[:-9]}, 'images is not a whole gzip file'),
        ({'labels': stored(LABELS[:5])}, 'has 7 images and .* 5 labels'),
    ],
)
def test_files_that_are_no_labelled_images_are_refused(tmp_path, content, message):
    with pytest.raises(config.InputError, match=message):
        written(tmp_path, content).open()
