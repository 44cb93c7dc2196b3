"""One training step here and in PyTorch eager, side by side on this machine's CPU: two decoders, in float32.

    python scripts/benchmark/step_time.py [--models char 20m] [--rounds 10] [--only jax] [--cores 1]

Both sides train the same model on the same kind of batch: embedding, learned positions, pre-norm blocks without biases,
exact GELU, tied output, cross-entropy, clipping to norm 1, AdamW. Ours is the framework's own step, as `train` runs it.
Each side is a process of its own, and they take turns, so that what else the machine does troubles both. In brackets:
times the first side. Trust the least time. On a busy machine PyTorch with two threads was seen to take 5 to 70 times
its time alone, ours twice, which flatters us: compare there with --cores 1, and by processor time.

Measured on an AMD EPYC (Zen 4), jax 0.10.2 and torch 2.13; ms, ratio to PyTorch. One core: the least processor time
of a step with --cores 1, beside other work. Two cores: the least time alone on the machine, and not measured again
since the loss and its gradient became one pass:

                             one core              two cores
    char  torch             63.4                  34.3
          jax               61.8  0.98            39.7  1.16
          jax, scanned      76.4  1.21            48.1  1.40
          .., all_dots      68.7  1.08            not measured
    20m   torch             3088                  1874
          jax               3272    1.06            1788    0.95
          jax, scanned      3373    1.09            1908    1.02

What keeps a scanned char above PyTorch, in a trace of the step (shares of the time of all operations): products of
matrices 49% (unrolled: 62%), transposed copies 16%, saving for the backward pass what each turn of the loop keeps 10%,
reading it 2%, the rest elementwise. The unrolled program has no loop, and so saves and reads nothing. With
remat='all_dots' a turn keeps the products alone, in half the memory. The transposed copies are XLA:CPU's: its library
of products (YNNPACK) wants the contracted axis of the left operand last, so that each gradient of a weight begins with
a transposed copy of an activation. To swap the operands behind an optimization barrier (the copy is smaller), and
barriers between the layers, gave nothing beyond the noise of 3%; huge pages for the heap 4% where layers are scanned,
nothing where not. (all_dots was timed in another call than PyTorch, beside 'scanned' at 74.1.)

To the end of the first step of experiments/shakespeare_char.py by `train`, seconds of processor time, in a new cache
and at the next start:

    imports, and loading the experiment                      1.8    2.1
    its shapes checked, its data tokenized, or found         0.4    0.4
    the initial state: one program, most of it compiled      5.1    0.7
    the session, and the fingerprint of the state            1.1    0.5
    the first step: traced, compiled or read                 6.5    1.3
    together                                                14.9    5.0

What was tried on the same machine, in a bare step (GELU by tanh, plain Optax, so close to the table above but not equal
to it): processor time on one core / wall time on two, ms, the least of about 40 steps (20m: 3, processor time only).

    char, as first written, unrolled (another run than the lines below)     85 / 64
      freed memory kept (train/device_memory.py): 12,400 page faults a step gone   67 / 52   kept
      + weight gradients in the weight's own order (weights.einsum)         60 / 40   kept
        the same in the feed-forward layers only                            62
      + hand-written gradients of GELU, LayerNorm, recomputed attention     56 / 37   not kept: much code for 7%
      freed memory kept, and one of: attention recomputed 65, as products [B*H, T, K] 66, LayerNorm 67, GELU 69
    char, scanned: freed memory kept 78 / 76; with the hand-written gradients too 63 / 39
    20m: freed memory kept 3440; + weights.einsum 3185; + hand-written gradients 3036; these scanned 3249
    remat='dots' in the framework's step, unrolled: char 71 / 58 (none: 58 / 39), 20m 3639 (none: 3072)
    jax 0.12.0.1, the framework's step, one core: char 59 unrolled, 71 scanned (0.10.2: 58 and 66)
    no effect on char within the noise, before freed memory was kept: xla_cpu_enable_fast_math, xla_cpu_use_onednn,
      xla_cpu_prefer_vector_width=512, xla_cpu_strict_dot_conv_math=false,
      xla_cpu_enable_concurrency_optimized_scheduler
    not tried: separate weights for each layer, a flattened optimizer, merged query, key and value matrices
"""

import argparse
import dataclasses
import functools
import importlib.util
import multiprocessing
import multiprocessing.connection
import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from bigmodel_jax.config import vary
from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.layers import activations, stacks
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.train import device_memory, state, step

Step = Callable[[], None]


class Times(NamedTuple):
    """Seconds of one step: on the clock, and of all cores together."""

    wall: float
    processor: float


class Size(NamedTuple):
    """A model and its batch; and how many steps a turn takes."""

    vocab: int
    width: int
    layers: int
    heads: int
    length: int
    rows: int
    turn: int


SIZES = {
    'char': Size(vocab=65, width=128, layers=4, heads=4, length=64, rows=12, turn=10),  # nanoGPT's recipe for a CPU.
    '20m': Size(vocab=8_192, width=384, layers=8, heads=6, length=256, rows=8, turn=1),
}
RATE, B2, DECAY, CLIP = 1e-3, 0.99, 0.1, 1.0


def random_tokens(size: Size) -> np.ndarray:
    """[B, T] int64."""
    return np.random.default_rng(0).integers(0, size.vocab, (size.rows, size.length))


# ---- ours -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomTokens(batches.Data):
    """Rows of random tokens, each its own target."""

    batch: int
    length: int
    vocab: int

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        tokens = batches.Field((self.length,), np.dtype(np.int32), ('length',), self.vocab)
        return {'inputs': tokens, 'targets': tokens}


def our_experiment(size: Size, stack: stacks.Stack) -> Experiment:
    model = decoder.gpt(vocab=size.vocab, width=size.width, layers=size.layers, heads=size.heads, length=size.length)
    changes = {
        'block.mixer.bias': False,
        'block.ffn.bias': False,
        'block.ffn.activation': activations.Gelu(approximate=False),
        'block.residual.norm.bias': False,
        'norm.bias': False,
        'stack': stack,
    }
    return Experiment(
        name='step_time',
        steps=1_000,
        data=RandomTokens(batch=size.rows, length=size.length, vocab=size.vocab),
        model=vary(model, changes),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=RATE), b2=B2, weight_decay=DECAY, clip_norm=CLIP),
        mesh=sharding.MeshShape(data=1),
    )


def our_step(size: Size, stack: stacks.Stack) -> Step:
    tokens = random_tokens(size).astype(np.int32)
    return step_of(our_experiment(size, stack), {'inputs': tokens, 'targets': tokens})


def step_of(experiment: Experiment, rows: Mapping[str, np.ndarray]) -> Step:
    """The framework's own step of an experiment, each time on the same rows of a batch."""
    device_memory.keep_freed()
    import jax

    place = experiment.mesh.build()
    with sharding.use(place):
        spec = state.specify(experiment, place)
        current = spec.init()
        count = experiment.data.batch
        batch = place.put_batch({**rows, batches.EXAMPLE_WEIGHTS: np.ones(count, np.float32)}, count)
        update = step.compile_step(experiment, spec, place)

    def run() -> None:
        nonlocal current
        with sharding.use(place):
            current, metrics = update(current, batch)
        jax.block_until_ready((current, metrics))

    return run


# ---- PyTorch's --------------------------------------------------------------------------------------------------


def torch_model(size: Size):
    """The model as a PyTorch module: tokens [B, T] to logits [B, T, V]."""
    import torch
    from torch import nn
    from torch.nn import functional

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            D = size.width
            self.attention_norm, self.ffn_norm = nn.LayerNorm(D, bias=False), nn.LayerNorm(D, bias=False)
            self.qkv, self.out = nn.Linear(D, 3 * D, bias=False), nn.Linear(D, D, bias=False)
            self.up, self.down = nn.Linear(D, 4 * D, bias=False), nn.Linear(4 * D, D, bias=False)

        def forward(self, x_BTD):
            B, T, D = x_BTD.shape
            parts = self.qkv(self.attention_norm(x_BTD)).split(D, 2)
            q_BHTK, k_BHTK, v_BHTK = (part.view(B, T, size.heads, -1).transpose(1, 2) for part in parts)
            y_BHTK = functional.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
            x_BTD = x_BTD + self.out(y_BHTK.transpose(1, 2).reshape(B, T, D))
            return x_BTD + self.down(functional.gelu(self.up(self.ffn_norm(x_BTD))))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.positions = nn.Embedding(size.vocab, size.width), nn.Embedding(size.length, size.width)
            self.blocks = nn.Sequential(*[Block() for _ in range(size.layers)])
            self.norm = nn.LayerNorm(size.width, bias=False)

        def forward(self, tokens_BT):
            x_BTD = self.table(tokens_BT) + self.positions(torch.arange(tokens_BT.shape[1]))
            return self.norm(self.blocks(x_BTD)) @ self.table.weight.T

    return Model()


def torch_step(size: Size) -> Step:
    import torch

    tokens_BT, model = torch.from_numpy(random_tokens(size)), torch_model(size)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, B2), weight_decay=DECAY)

    def run() -> None:
        loss = torch.nn.functional.cross_entropy(model(tokens_BT).flatten(0, 1), tokens_BT.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        loss.item()

    return run


# ---- taking turns -----------------------------------------------------------------------------------------------

SIDES: dict[str, Callable[[Size], Step]] = {
    'torch': torch_step,
    'jax': functools.partial(our_step, stack=stacks.Stack(scan=False)),
    'jax, scanned': functools.partial(our_step, stack=stacks.Stack()),
    'jax, scanned, all_dots': functools.partial(our_step, stack=stacks.Stack(remat='all_dots')),
}


def worker(make: Callable[[], Step], connection: multiprocessing.connection.Connection) -> None:
    """Sends the seconds to the end of the first step; then, for each number received, the seconds of so many steps."""
    began = time.perf_counter()
    run = make()
    run()
    connection.send(time.perf_counter() - began)
    while steps := connection.recv():
        connection.send([timed(run) for _ in range(steps)])


def timed(run: Step) -> Times:
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return Times(time.perf_counter() - wall, time.process_time() - processor)


def compare(name: str, makers: Mapping[str, Callable[[], Step]], *, rounds: int, turn_steps: int) -> None:
    """Prints the times of one model on each side, and their ratios to the first side.

    Args:
      makers: side -> what makes its step, in a process of its own.
      turn_steps: how many steps a turn takes.
    """
    sides, context = list(makers), multiprocessing.get_context('spawn')
    ends: dict[str, multiprocessing.connection.Connection] = {}
    for side in sides:
        ends[side], theirs = context.Pipe()
        context.Process(target=worker, args=(makers[side], theirs), daemon=True).start()
        print(f'{name}: {side}: the first step was done after {ends[side].recv():.1f} s', flush=True)
    times: dict[str, list[Times]] = {side: [] for side in sides}
    for turn in range(rounds + 1):
        for side, end in ends.items():
            end.send(turn_steps)
            times[side] += end.recv() if turn else end.recv()[:0]  # The first turn warms up.
    for end in ends.values():
        end.send(0)
    base = summary(times[sides[0]])
    for side in sides:
        own = summary(times[side])
        columns = [f'{what} {own[what] * 1e3:8.1f} ms ({own[what] / base[what]:.2f})' for what in own]
        print(f'{name}: {side:22s} {"  ".join(columns)}', flush=True)


def summary(times: list[Times]) -> dict[str, float]:
    """Seconds, by what is printed before them."""
    wall = [each.wall for each in times]
    return {'least': min(wall), 'median': statistics.median(wall), 'processor': min(each.processor for each in times)}


def main() -> None:
    options = arguments(__doc__, SIZES, SIDES)
    for name in options.models:
        size = SIZES[name]
        makers = {side: functools.partial(SIDES[side], size) for side in options.sides}
        compare(name, makers, rounds=options.rounds, turn_steps=size.turn)


def arguments(
    doc: str, models: Iterable[str], sides: Iterable[str], *, needs: Iterable[str] = ('torch',)
) -> argparse.Namespace:
    """The options of the command line, with `sides` that are installed; keeps to as many cores as are asked for.

    Args:
      needs: the packages of the side 'torch'.
    """
    parser = argparse.ArgumentParser(description=doc.partition('\n')[0], allow_abbrev=False)
    parser.add_argument('--models', nargs='+', choices=list(models), default=list(models), help='default: all')
    parser.add_argument('--rounds', type=int, default=10, help='turns of each side (default: 10)')
    parser.add_argument('--only', nargs='+', choices=sides, help='sides to measure; default: all that are installed')
    parser.add_argument('--cores', type=int, help='use only so many cores (Linux); 1 is fair on a busy machine')
    options = parser.parse_args()
    if options.cores is not None:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])  # The processes below inherit it.
    missing = [package for package in needs if importlib.util.find_spec(package) is None]
    installed = [side for side in sides if side != 'torch' or not missing]
    if missing:
        print(f'There is nothing to compare with: pip install {" ".join(missing)}')
    options.sides = options.only or installed
    return options


if __name__ == '__main__':
    main()
