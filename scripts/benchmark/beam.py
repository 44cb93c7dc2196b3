"""Beam search beside greedy search, both with a cache: what a beam costs when there are several.

The model is an encoder-decoder with random weights that never ends a text, so that every search reads the same number
of tokens. Processor time is of all threads, so it says something on a machine that does other work too.

Example: python scripts/benchmark/beam.py --vocab 6000 --width 256 --layers 3 --rows 16 --tokens 16 64
"""

import argparse
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax.evaluate.text import decoding
from bigmodel_jax.layers import attention, blocks, ffn, norms, positions, stacks
from bigmodel_jax.models import seq2seq

END, SOURCE = 0, 32
LIMIT = 2.0  # Times the greedy time that a beam may take.


class Taken(NamedTuple):
    """Seconds, the least of several rounds each."""

    processor: float
    wall: float


def make(options: argparse.Namespace) -> tuple[seq2seq.Seq2Seq, Any]:
    """A model, and weights under which the end token is the least likely of all."""
    block = blocks.Block(
        mixer=attention.Attention(heads=max(options.width // 64, 1)),
        ffn=ffn.Mlp(hidden=4 * options.width),
        residual=blocks.PreNorm(norm=norms.LayerNorm()),
    )
    model = seq2seq.Seq2Seq(
        vocab=options.vocab,
        width=options.width,
        encoder_layers=1,
        decoder_layers=options.layers,
        block=block,
        positions=positions.Sinusoidal(),
        stack=stacks.Stack(scan=False),
    )
    tokens_BT = jnp.zeros((1, 2), jnp.int32)
    drawn = jax.jit(model.build().init)(jax.random.key(0), {'source': tokens_BT, 'inputs': tokens_BT})
    params = nn.meta.unbox(drawn)['params']
    # Normed features of mean 1 times a row of -1: the logit of the end is -D.
    params['decoder_norm']['bias'] = jnp.ones(options.width)
    params['embedding']['table'] = params['embedding']['table'].at[END].set(-1.0)
    return model, params


def searches(beams: list[int]) -> Iterator[tuple[str, int, decoding.Decoding]]:
    """Name, beams and config of each way."""
    yield 'greedy', 1, decoding.Greedy()
    for count in beams:
        yield f'beam {count}', count, decoding.Beam(beams=count)


def measure(model: seq2seq.Seq2Seq, params: Any, how: decoding.Decoding, *, rows: int, tokens: int) -> Taken:
    """One search of `tokens` tokens for each of `rows` sources; compiles if this is the first."""
    random = np.random.default_rng(0)
    sources = [random.integers(1, model.vocab, SOURCE) for _ in range(rows)]
    prompts = [np.array([END])] * rows
    began = time.process_time(), time.perf_counter()
    found = decoding.decode(model, params, prompts, tokens=tokens, decoding=how, end=END, source=sources)
    taken = Taken(time.process_time() - began[0], time.perf_counter() - began[1])
    assert all(len(text.tokens) == tokens for texts in found for text in texts)
    return taken


def least(several: list[Taken]) -> Taken:
    return Taken(*(min(each) for each in zip(*several)))


def table(model: seq2seq.Seq2Seq, params: Any, options: argparse.Namespace) -> Iterator[str]:
    """The lines of the report. The ways take turns, so that a load that comes and goes meets all alike."""
    yield (
        f'{"tokens":>6s} {"search":>8s} {"processor, s":>13s} {"wall, s":>9s} '
        f'{"a beam, s":>10s} {"times greedy":>13s}  (processor time)'
    )
    ways = list(searches(options.beams))
    for tokens in options.tokens:
        taken: dict[str, list[Taken]] = {name: [] for name, _, _ in ways}
        for _ in range(options.rounds + 1):
            for name, _, how in ways:
                taken[name].append(measure(model, params, how, rows=options.rows, tokens=tokens))
        best = {name: least(each[1:]) for name, each in taken.items()}  # The first round compiled.
        for name, count, _ in ways:
            one = best[name].processor / count
            ratio = one / best['greedy'].processor
            said = '' if ratio <= LIMIT else f'  more than {LIMIT:g}'
            yield (
                f'{tokens:6d} {name:>8s} {best[name].processor:13.3f} {best[name].wall:9.3f} '
                f'{one:10.3f} {ratio:13.2f}{said}'
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0], allow_abbrev=False)
    parser.add_argument('--vocab', type=int, default=6_000, help='default: 6,000')
    parser.add_argument('--width', type=int, default=256, help='default: 256')
    parser.add_argument('--layers', type=int, default=3, help='of the decoder (default: 3)')
    parser.add_argument('--rows', type=int, default=16, help='sentences at a time (default: 16)')
    parser.add_argument('--tokens', type=int, nargs='+', default=[16, 64], help='of each text (default: 16 64)')
    parser.add_argument('--beams', type=int, nargs='+', default=[1, 4, 8], help='default: 1 4 8')
    parser.add_argument('--rounds', type=int, default=3, help='default: 3')
    options = parser.parse_args()
    packages = f'jax {importlib.metadata.version("jax")}'
    print(f'{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, {packages}')
    print(f'{options.rows} rows, V={options.vocab}, D={options.width}, {options.layers} layers; load at the start '
          f'{os.getloadavg()[0]:.1f}')  # fmt: skip
    model, params = make(options)
    for line in table(model, params, options):
        print(line, flush=True)
    print(f'load at the end {os.getloadavg()[0]:.1f}')


if __name__ == '__main__':
    main()
