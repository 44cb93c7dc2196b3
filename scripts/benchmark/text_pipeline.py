"""Tokens read for a second of processor time: tokenized, packed and put into batches, beside what a small step eats.

    python scripts/benchmark/text_pipeline.py [--pattern '~/books/*.txt'] [--seconds 3]

In one thread on one core (Linux), by processor time, so that other work on the machine matters little. The text is the
source code of Python's standard library, a file as a document, unless told. The step is that of step_time.py's model
'char' (batches of 12 x 64 tokens), the fastest eater among the experiments here: a larger model eats fewer tokens.

  tokenize  reading the files, their tokens, the checksums, all written to the cache; once for each text and tokenizer
  pack      which documents share a row of 1,024 tokens, best fit; once for each text and length
  windows, documents  batches as the training loop reads them, with the hashes of their rows; the least of the turns

Measured on one core of an AMD EPYC (Zen 4) that other programs used too, Python 3.11, jax 0.10.2; tokens for a second
of processor time, and times what the step eats:

    the step of char                11,897
    tokenize, bytes              6,252,115     526
    tokenize, BPE of 8,192         359,034      30
    pack, 168 documents        892,799,401  75,044    (few documents, and long ones)
    windows, 12 x 64             9,622,924     809
    documents, 32 x 1,024       54,694,958   4,597
"""

import argparse
import os
import pathlib
import tempfile
import time
from collections.abc import Callable

import numpy as np
import step_time

from bigmodel_jax.data import batches, sources
from bigmodel_jax.data.text import packing, text, tokenizers, tokens
from bigmodel_jax.layers import stacks
from bigmodel_jax.train import prefetch

DOCUMENTS_LENGTH, DOCUMENTS_BATCH = 1_024, 32
TURN = 50  # Batches.


def seconds(work: Callable[[], object]) -> float:
    """Of processor time."""
    began = time.process_time()
    work()
    return time.process_time() - began


def show(what: str, rate: float, eaten: float) -> None:
    print(f'{what:30s} {rate:13,.0f} tokens/s   {rate / eaten:9,.1f} times what the step eats', flush=True)


def reading_rate(data: batches.Batches, count: int, limit_s: float) -> float:
    """Tokens for a second: the fastest of the turns, after one that warms up."""

    def turn(first: int) -> None:
        for number in range(first, first + TURN):
            prefetch.read(data, number, np.arange(data.rows))

    turn(0)
    best, spent, number = float('inf'), 0.0, TURN
    while spent < limit_s:
        taken = seconds(lambda: turn(number))  # noqa: B023
        best, spent, number = min(best, taken), spent + taken, number + TURN
    return TURN * count / best


def step_rate(size: step_time.Size) -> float:
    """Tokens that a training step eats for a second."""
    run = step_time.our_step(size, stacks.Stack(scan=False))
    run()
    return size.rows * size.length / min(step_time.timed(run).processor for _ in range(30))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0], allow_abbrev=False)
    parser.add_argument('--pattern', default=str(pathlib.Path(os.__file__).parent / '*.py'), help='of the text files')
    parser.add_argument('--seconds', type=float, default=3.0, help='of processor time for each reading (default: 3)')
    options = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    os.environ.update(RAYON_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false')
    size = step_time.SIZES['char']
    eaten = step_rate(size)
    print(f'{"the step of char":30s} {eaten:13,.0f} tokens/s')
    with tempfile.TemporaryDirectory() as cache:
        os.environ['BIGMODEL_JAX_CACHE'] = cache
        source = sources.TextFiles(pattern=options.pattern)
        bpe = tokenizers.Bpe(vocab=8_192, trained_on=source)
        for name, vocabulary in (('bytes', tokenizers.Bytes()), ('BPE of 8,192', bpe)):
            vocabulary.build()  # Trained, and kept, before the clock starts.
            began = time.process_time()
            corpus = tokens.tokenized(source, vocabulary)
            show(f'tokenize, {name}', len(corpus.tokens) / (time.process_time() - began), eaten)
        taken = seconds(lambda: packing.plan(corpus.starts, length=DOCUMENTS_LENGTH))
        show(f'pack, {len(corpus.starts) - 1:,} documents', corpus.pairs / taken, eaten)
        windows = text.Text(source=source, tokenizer=bpe, batch=size.rows, length=size.length)
        documents = text.Text(
            source=source, tokenizer=bpe, batch=DOCUMENTS_BATCH, length=DOCUMENTS_LENGTH, packing=text.Documents()
        )
        for data in (windows, documents):
            rate = reading_rate(data.open(0), data.batch * data.length, options.seconds)
            show(f'{type(data.packing).__name__.lower()}, {data.batch} x {data.length:,}', rate, eaten)


if __name__ == '__main__':
    main()
