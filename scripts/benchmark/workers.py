"""Batches read per second by 0, 1, 2 and 4 workers, as threads and as processes.

  JPEG: 64 images of 256 x 256 are decoded, cropped to 224 x 224 at random, flipped and normalized.
  text: 64 documents of about 3,000 characters are tokenized, by our byte-level BPE (whose merges are those of the
        library `tokenizers`) and as bytes (in Python and NumPy).

Training reads with threads (train/prefetch.py). Threads gain what releases Python's lock: Pillow's decoder and the BPE
do, most of NumPy's work on small arrays does not. Processes gain everything, but each takes seconds to start, has its
own copy of the data in memory, its batches are copied to the process that trains, and when that is killed, Python's
resource tracker reports semaphores and shared memory that were left behind.

Figures of one run with --seconds 2, on two cores of an AMD EPYC with a load of 17 from other work, so that no core was
free for a second worker; they say what a batch costs, and not what workers gain, which is to be measured on an idle
machine. JPEG: 0.193 s of processor time for a batch; threads 0.36, 0.40, 0.16 and 0.12 batches per second with 0, 1, 2
and 4 workers; processes 0.39, 0.41 and 0.14 with 1, 2 and 4. BPE: 0.069 s for a batch; threads 1.22, 1.41, 0.91, 1.14.

Run: .venv/bin/python scripts/benchmark/workers.py [--seconds 5]
"""

import argparse
import functools
import os
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator

import grain
import numpy as np
from absl import flags

from bigmodel_jax.data import sources
from bigmodel_jax.data.text import tokenizers
from bigmodel_jax.data.vision import images, transforms
from bigmodel_jax.train import prefetch

BATCH, SIDE, CROP, IMAGES = 64, 256, 224, 256
WORKERS = (0, 1, 2, 4)
WORDS = [
    'the',
    'quick',
    'brown',
    'fox',
    'jumps',
    'over',
    'a',
    'lazy',
    'dog',
    'while',
    'everybody',
    'talks',
    'about',
    'it',
]


def jpegs(folder: pathlib.Path) -> Callable[[int], object]:
    """Reads a batch of images from JPEG files in a folder, which it writes first."""
    import PIL.Image

    random = np.random.default_rng(0)
    for number in range(IMAGES):
        # Noise of a few scales, so that a file is about as large as one of a photograph.
        scales = [
            random.integers(0, 256, (SIDE // size, SIDE // size, 3)).repeat(size, 0).repeat(size, 1) for size in (4, 32)
        ]
        path = folder / f'{number % 2}' / f'{number}.jpg'
        path.parent.mkdir(exist_ok=True)
        PIL.Image.fromarray(np.mean(scales, axis=0).astype(np.uint8)).save(path, quality=90)
    data = images.Images(
        source=sources.ImageFolder(path=str(folder)), shape=(CROP, CROP, 3), classes=2, batch=BATCH,
        transforms=(transforms.RandomCrop(size=(CROP, CROP)), transforms.RandomFlip(), transforms.Normalize()),
    )  # fmt: skip
    return data.open(0).training


def texts(vocabulary: tokenizers.Vocabulary) -> Callable[[int], object]:
    """Tokenizes a batch of documents."""
    return functools.partial(_tokenize, vocabulary.build())


def _tokenize(tokenizer: tokenizers.Tokenizer, number: int) -> object:
    random = np.random.default_rng(number)
    return tokenizer.encode_many([' '.join(random.choice(WORDS, 600)) for _ in range(BATCH)])


def by_threads(read: Callable[[int], object], workers: int) -> grain.DatasetIterator[object]:
    return prefetch.read_ahead(grain.MapDataset.range(10**9).map(read), workers)


def by_processes(read: Callable[[int], object], workers: int) -> grain.DatasetIterator[object]:
    options = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
    return iter(
        grain.MapDataset.range(10**9)
        .map(read)
        .to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2))
        .mp_prefetch(options)
    )


def rate(batches: grain.DatasetIterator[object], seconds: float) -> float:
    """Batches per second, after the first four, which processes take long to start with."""
    for _ in range(4):
        next(batches)
    started, count = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        next(batches)
        count += 1
    return count / (time.monotonic() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--seconds', type=float, default=5.0, help='how long each is measured')
    seconds = parser.parse_args().seconds
    flags.FLAGS.mark_as_parsed()  # Grain's processes want it.
    with tempfile.TemporaryDirectory() as folder:
        os.environ['BIGMODEL_JAX_CACHE'] = f'{folder}/cache'
        words = sources.Texts(texts=tuple(WORDS))
        (pathlib.Path(folder) / 'images').mkdir()
        tasks = {
            'JPEG': jpegs(pathlib.Path(folder) / 'images'),
            'text, BPE': texts(tokenizers.Bpe(vocab=300, trained_on=words)),
            'text, bytes': texts(tokenizers.Bytes()),
        }
        print(f'{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; batches of {BATCH} per second')
        print(f'{"workers":<22}', *(f'{workers:>10}' for workers in WORKERS))
        for name, read in tasks.items():
            before, started = time.process_time(), time.monotonic()
            for number in range(4):
                read(number)
            spent, passed = time.process_time() - before, time.monotonic() - started
            print(f'{name:<12}{spent / 4:.3f} s of processor time for a batch, {passed / 4:.3f} s by the clock')
            print(f'{name:<12}threads   ', *_row(read, by_threads, seconds), flush=True)
            print(f'{name:<12}processes ', *_row(read, by_processes, seconds), flush=True)


def _row(
    read: Callable[[int], object], start: Callable[..., grain.DatasetIterator[object]], seconds: float
) -> Iterator[str]:
    for workers in WORKERS:
        if start is by_processes and not workers:
            yield f'{"":>10}'
            continue
        batches = start(read, workers)
        yield f'{rate(batches, seconds):>10.2f}'
        batches.close()


if __name__ == '__main__':
    main()
