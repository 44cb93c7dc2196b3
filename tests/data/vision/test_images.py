import numpy as np
import pytest

from bigmodel_jax import config
from bigmodel_jax.data import sources, splits
from bigmodel_jax.data.vision import images, transforms

SHAPE = (4, 6, 3)
PARTS = [part(held_out=0.25) for part in (splits.Train, splits.Validation)]


def pixels(count=12, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SHAPE), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Twelve images of the classes 'cat' and 'dog', and their pixels in the order of their names."""
    pillow = pytest.importorskip('PIL.Image')
    root, arrays = tmp_path / 'animals', pixels()
    for i, array in enumerate(arrays):
        path = root / ('cat' if i < 6 else 'dog') / f'{i:02d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        pillow.fromarray(array).save(path)
    (root / 'cat' / 'notes.txt').write_text('No image.')
    return root, arrays


def names(source):
    return {'image': 'images', 'label': 'labels'} if isinstance(source, sources.Npz) else {}


def all_of(source, **fields):
    data = images.Images(source=source, **{'shape': SHAPE, 'classes': 2, 'batch': 12} | names(source) | fields)
    batches = data.build(0)
    assert batches.examples.fields == data.fields
    batch = batches.eval_batch(0)
    return {name: array[batch['example_weights'] > 0] for name, array in batch.items()}


def test_a_folder_is_its_images_and_the_names_of_its_folders(folder):
    root, arrays = folder
    batch = all_of(sources.ImageFolder(path=str(root)))
    np.testing.assert_array_equal(batch['image'], arrays.astype(np.float32) / np.float32(255))
    assert batch['labels'].tolist() == [0] * 6 + [1] * 6


def test_images_are_divided_without_loss(folder, tmp_path):
    root, arrays = folder
    np.savez(tmp_path / 'animals.npz', images=arrays, labels=np.repeat([0, 1], 6))
    for source in (sources.ImageFolder, sources.Npz):
        path = str(root if source is sources.ImageFolder else tmp_path / 'animals.npz')
        parts = [all_of(source(path=path, part=part)) for part in PARTS]
        assert [len(part['labels']) for part in parts] == [9, 3]
        found = np.concatenate([part['image'] for part in parts])
        assert {each.tobytes() for each in found} == {(each / np.float32(255)).tobytes() for each in arrays}
        prints = [source(path=path, part=part).open().fingerprint for part in PARTS]
        assert prints[0] != prints[1]


def test_scaling_is_explicit(folder):
    root, arrays = folder
    scaling = transforms.Normalize(divisor=255.0, mean=(0.5, 0.4, 0.3), deviation=(0.2,))
    batch = all_of(sources.ImageFolder(path=str(root)), transforms=(scaling,))
    expected = (arrays / 255 - [0.5, 0.4, 0.3]) / 0.2
    np.testing.assert_allclose(batch['image'], expected, atol=1e-6)  # Float32.
    for wrong in ({'divisor': 0.0}, {'deviation': (0.0,)}, {'mean': (0.0, 0.0)}):
        with pytest.raises(config.InputError, match='Normalize'):
            all_of(sources.ImageFolder(path=str(root)), transforms=(transforms.Normalize(**wrong),))


def test_an_image_of_another_size_is_refused_or_resized(folder):
    root, _ = folder
    with pytest.raises(config.InputError, match=r'00\.png has 4 x 6 x 3, .* asks for 2 x 3 x 3; .* add Resize'):
        all_of(sources.ImageFolder(path=str(root)), shape=(2, 3, 3))
    resized = (transforms.Resize(size=(2, 3)), transforms.Normalize())
    batch = all_of(sources.ImageFolder(path=str(root), channels=1), shape=(2, 3, 1), transforms=resized)
    assert batch['image'].shape == (12, 2, 3, 1)


def test_a_damaged_image_is_named(folder):
    root, _ = folder
    path = root / 'dog' / '07.png'
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(config.InputError, match=r'07\.png is not a whole PNG or JPEG image'):
        all_of(sources.ImageFolder(path=str(root)))
    path.write_bytes(b'GIF89a')
    with pytest.raises(config.InputError, match=r'07\.png is not a whole PNG or JPEG image'):
        all_of(sources.ImageFolder(path=str(root)))


def test_folders_that_hold_no_classes_are_refused(tmp_path):
    with pytest.raises(config.InputError, match='There is no folder'):
        all_of(sources.ImageFolder(path=str(tmp_path / 'nothing')))
    with pytest.raises(config.InputError, match='should hold a folder of images for each class'):
        all_of(sources.ImageFolder(path=str(tmp_path)))
    (tmp_path / 'cat').mkdir()
    with pytest.raises(config.InputError, match=r'cat holds no image that ends with \.png'):
        all_of(sources.ImageFolder(path=str(tmp_path)))


# ---- arrays -------------------------------------------------------------------------------------------------------


def npz(tmp_path, **arrays):
    np.savez(tmp_path / 'a.npz', **{'images': pixels(), 'labels': np.arange(12) % 2} | arrays)
    return sources.Npz(path=str(tmp_path / 'a.npz'))


def test_arrays_are_images(tmp_path):
    grey = pixels()[..., 0]
    batch = all_of(npz(tmp_path, images=grey), shape=(4, 6, 1))
    np.testing.assert_array_equal(batch['image'][..., 0], grey.astype(np.float32) / np.float32(255))
    floats = grey / 7
    batch = all_of(npz(tmp_path, images=floats), shape=(4, 6, 1), transforms=(transforms.Normalize(divisor=1.0),))
    np.testing.assert_array_equal(batch['image'][..., 0], floats.astype(np.float32))


def test_an_npy_file_is_told_apart_from_an_npz_file(tmp_path):
    np.save(tmp_path / 'a.npy', pixels())
    with pytest.raises(config.InputError, match=r'a\.npy is an \.npy file, which holds one array without a name'):
        sources.Npz(path=str(tmp_path / 'a.npy')).open()


@pytest.mark.parametrize(
    ('arrays', 'message'),
    [
        ({'images': pixels()[:, :2]}, r'a\.npz, example 0 has 2 x 6 x 3, .* asks for 4 x 6 x 3'),
        ({'labels': np.arange(11)}, r"lengths differ: 'images' 12, 'labels' 11"),
        ({'labels': np.arange(12)}, r'data\.classes=2, but the labels of the images are 0 to 11'),
        ({'labels': np.arange(12) % 2 - 1}, 'are -1 to 0'),
        ({'labels': np.arange(12) % 2 / 1}, "'labels' is float64; labels are integers"),
        ({'images': pixels() / 255}, r'float64 numbers from .* divide by 255.*Normalize\(divisor=1\.0\)'),
        ({'images': pixels() * np.nan}, 'holds numbers that are not finite'),
        ({'labels': np.array([{}] * 12)}, 'is not an .npz file of plain arrays'),
    ],
)
def test_arrays_that_are_no_labelled_images_are_refused(tmp_path, arrays, message):
    with pytest.raises(config.InputError, match=message):
        all_of(npz(tmp_path, **arrays))


def test_a_file_without_the_arrays_names_the_nearest(tmp_path):
    npz(tmp_path)
    with pytest.raises(config.InputError, match=r"has no array 'image'\. Did you mean 'images'"):
        all_of(sources.Npz(path=str(tmp_path / 'a.npz'), arrays=('image', 'labels')))
    (tmp_path / 'a.npz').write_bytes(b'PK no')
    with pytest.raises(config.InputError, match=r'a\.npz is not an \.npz file'):
        all_of(sources.Npz(path=str(tmp_path / 'a.npz')))
