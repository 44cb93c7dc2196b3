"""Images read, decoded and augmented per second of one core: ours, a plain PyTorch loader and a plain tf.data pipeline.

    python scripts/benchmark/image_pipeline.py [--only ours torch tf] [--seconds 5] [--folder DIR]

All sides read the same JPEG files and do the same to them, in one thread of one process:

  small  images of 32 x 32: padded by 4, cropped to 32 x 32 at random, reflected half of the time, normalized
  photo  images of 500 x 375: a random part (area 8% to 100%) resized to 224 x 224, reflected, normalized

PyTorch's side is torchvision's ImageFolder with its transforms in a DataLoader without workers, tf.data's is
tf.io.decode_jpeg with tf.image. What counts is processor time, so that other work on the machine does not matter; with
more workers all three read more images per second, and not more per core. The files are made by this script: noise of a
few scales, about as large as photographs are as JPEG.

Measured on one of two busy cores of an AMD EPYC (Zen 4), Python 3.11, Pillow 13.0, torchvision 0.29.1; images for a
second of processor time:

           ours   torch
    small  4,134  2,301   1.80
    photo    303    278   1.09

tf.data was not measured. Both sides decode and resize by the same Pillow, which takes most of the time of a photo: its
decoding alone 1.2 of our 3.3 ms. Before Pillow resized here, NumPy did, bit for bit the same, with 28 photos; and with
keys of random numbers that were arrays of one number, small images came at 1,843.
"""

import argparse
import functools
import importlib.util
import itertools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

BATCH = 64
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Task(NamedTuple):
    """The size of the stored images and of the batch's, and how many are stored."""

    rows: int
    columns: int
    side: int
    count: int


TASKS = {'small': Task(32, 32, 32, 4_096), 'photo': Task(375, 500, 224, 256)}


def write(folder: pathlib.Path, task: Task) -> None:
    """JPEG files of two classes."""
    import PIL.Image

    random = np.random.default_rng(0)
    for number in range(task.count):
        noise = [
            random.integers(0, 256, (-(-task.rows // size), -(-task.columns // size), 3))
            .repeat(size, 0)
            .repeat(size, 1)[: task.rows, : task.columns]
            for size in (4, 16)
        ]
        path = folder / f'{number % 2}' / f'{number}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.mean(noise, axis=0).astype(np.uint8)).save(path, quality=90)


# ---- the sides: each gives batches of [BATCH, side, side, 3] or [BATCH, 3, side, side] -------------------------------


def ours(folder: pathlib.Path, task: Task) -> Iterator[Any]:
    from bigmodel_jax.data import sources
    from bigmodel_jax.data.vision import augmentations, images, transforms

    size = (task.side, task.side)
    crop = transforms.RandomCrop(padding=4) if task.rows == task.side else augmentations.RandomResizedCrop(size=size)
    data = images.Images(
        source=sources.ImageFolder(path=str(folder)),
        shape=(*size, 3),
        classes=2,
        batch=BATCH,
        transforms=(crop, transforms.RandomFlip(), transforms.Normalize(mean=MEAN, deviation=DEVIATION)),
    ).open(0)
    return (data.training(step) for step in itertools.count())


def torch(folder: pathlib.Path, task: Task) -> Iterator[Any]:
    import torch
    import torchvision
    from torchvision import transforms

    torch.set_num_threads(1)
    size = (task.side, task.side)
    small = transforms.RandomCrop(size, padding=4)
    crop = small if task.rows == task.side else transforms.RandomResizedCrop(size)
    scaled = transforms.ToTensor(), transforms.Normalize(MEAN, DEVIATION)
    made = transforms.Compose([crop, transforms.RandomHorizontalFlip(), *scaled])
    data = torchvision.datasets.ImageFolder(str(folder), made)
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, shuffle=True, drop_last=True)
    return itertools.chain.from_iterable(itertools.repeat(loader))


def tf(folder: pathlib.Path, task: Task) -> Iterator[Any]:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    paths = sorted(map(str, folder.rglob('*.jpg')))

    def example(path: Any) -> Any:
        content = tf.io.read_file(path)
        if task.rows == task.side:
            image = tf.pad(tf.io.decode_jpeg(content, 3), [[4, 4], [4, 4], [0, 0]])
            image = tf.image.random_crop(image, (task.side, task.side, 3))
        else:
            begin, size, _ = tf.image.sample_distorted_bounding_box(
                tf.io.extract_jpeg_shape(content), tf.zeros((1, 0, 4)), 0, area_range=(0.08, 1.0),
                use_image_if_no_bounding_boxes=True,
            )  # fmt: skip
            (top, left, _), (rows, columns, _) = tf.unstack(begin), tf.unstack(size)
            # As in TensorFlow's reference implementation of ResNet: only the part is decoded.
            part = tf.image.decode_and_crop_jpeg(content, tf.stack([top, left, rows, columns]), 3)
            image = tf.image.resize(part, (task.side, task.side), antialias=True)
        image = tf.image.random_flip_left_right(tf.cast(image, tf.float32) / 255)
        return (image - tf.constant(MEAN)) / tf.constant(DEVIATION)

    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    data = tf.data.Dataset.from_tensor_slices(paths).repeat().shuffle(task.count)
    return iter(data.map(example).batch(BATCH).with_options(options).as_numpy_iterator())


SIDES: dict[str, Callable[[pathlib.Path, Task], Iterator[Any]]] = {'ours': ours, 'torch': torch, 'tf': tf}
PACKAGES = {'ours': 'bigmodel_jax', 'torch': 'torchvision', 'tf': 'tensorflow'}


def rates(batches: Iterator[Any], seconds: float) -> list[float]:
    """Images for a second of processor time, of each batch after the first four."""
    for _ in range(4):
        next(batches)
    found, started = [], time.monotonic()
    while time.monotonic() - started < seconds or len(found) < 3:
        before = time.process_time()
        next(batches)
        found.append(BATCH / (time.process_time() - before))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0], allow_abbrev=False)
    parser.add_argument('--only', nargs='+', choices=SIDES, help='sides to measure; default: all that are installed')
    parser.add_argument('--seconds', type=float, default=5.0, help='how long each turn takes (default: 5)')
    parser.add_argument('--rounds', type=int, default=3, help='turns of each side (default: 3)')
    options = parser.parse_args()
    sides = options.only or [side for side in SIDES if importlib.util.find_spec(PACKAGES[side])]
    with tempfile.TemporaryDirectory() as root:
        os.environ['BIGMODEL_JAX_CACHE'] = f'{root}/cache'
        for name, task in TASKS.items():
            folder = pathlib.Path(root) / name
            write(folder, task)
            size_bytes = sum(path.stat().st_size for path in folder.rglob('*.jpg')) // task.count
            print(f'{name}: {task.rows} x {task.columns}, files of {size_bytes:,} bytes', flush=True)
            started = {side: SIDES[side](folder, task) for side in sides}
            found: dict[str, list[float]] = {side: [] for side in sides}
            for side, batches in itertools.chain.from_iterable(itertools.repeat(started.items(), options.rounds)):
                found[side] += rates(batches, options.seconds)
            best = functools.partial(np.quantile, q=0.9)  # What other work on the machine troubles least.
            for side in sides:
                ratio = best(found['ours']) / best(found[side]) if 'ours' in found else float('nan')
                print(
                    f'  {side:6} {best(found[side]):9,.0f} images/s and core  (ours is {ratio:.2f} times)', flush=True
                )


if __name__ == '__main__':
    main()
