"""Whether the best learning rate of one width is that of another: muP beside the standard parametrization.

Trains a small Llama on the bytes of Python's documentation at every width and learning rate of a grid of factors of
two, with several seeds (of the initial values and of the order of the data; the same for all), and compares the mean
loss of the last fifth of the steps. At the smallest width both parametrizations are the same, and it is trained once.

What was decided before the losses were seen: the set-up of experiment(), 200 steps, seeds 0, 1 and 2, and what counts
as transfer. The best rate of a width is that with the least loss, averaged over the seeds; seeds are drawn 2,000 times
with replacement (the same at all widths), and from the smallest to the largest width
  1. the best rate of muP moves by at most one step of the grid, in the mean over the seeds;
  2. that of the standard parametrization moves by more;
  3. the loss of muP at the best rate of the smallest width is not above that of the smallest width by more than the 95%
     interval of their paired difference over the seeds allows: wider is not worse (Yang et al., 2022, section 8).
The script ends with an error where one of these is not so. docs/howto/scale.md lists the set-ups that came before.

Results are appended to a file of JSON lines, and what is there already is not trained again: --seconds ends the script
after that time, and the same command goes on.

Run: python scripts/benchmark/mup_transfer.py --results transfer.jsonl --picture transfer.svg
"""

import argparse
import hashlib
import itertools
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from scipy import stats

from bigmodel_jax import config, mup
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.layers import embeddings
from bigmodel_jax.layers.base import weights
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.sweeps.scaling import panels
from bigmodel_jax.train import preparation, step

RATES = tuple(2.0**power for power in range(-11, -4))
KINDS = ('muP', 'standard')
DRAWS = 2_000  # Of seeds, with replacement.
Table = dict[tuple[str, int], dict[int, list[float]]]  # (parametrization, width) -> seed -> the loss at each rate.


def experiment(width: int, steps: int) -> Experiment:
    """A Llama of two layers and four heads on bytes, whose peak learning rate is 1: losses() multiplies the updates."""
    docs = sources.Tfds(name='python_docs', split='train')
    # Embeddings as large as what a layer adds to them, as in the Transformer of the paper's code. With the 0.02 of GPT
    # the first layer's output hides which token is where, and training stays at the frequencies of the bytes for long.
    embedding = embeddings.Embedding(
        tied=False, init=weights.Normal(stddev=1.0), output_init=weights.Normal(stddev=0.02)
    )
    model = decoder.llama(vocab=320, width=width, layers=2, heads=4, kv_heads=4, hidden=2 * width, rope_base=10_000.0)
    return Experiment(
        name=f'width_{width}',
        steps=steps,
        data=text.Text(source=docs, tokenizer=tokenizers.Bytes(), batch=4, length=32),
        model=config.vary(model, {'embedding': embedding}),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=1.0, warmup_steps=steps // 10), b2=0.99),
        mesh=sharding.MeshShape(data=1),
    )


def trainer(asked: Experiment) -> Callable[[Any, Any, float], jax.Array]:
    """A compiled function of a state, batches and a peak learning rate: the loss of each step."""
    spec = preparation.build(asked).spec

    @jax.jit
    def train(state: Any, batches: Any, rate: float) -> jax.Array:
        def update(state: Any, batch: Any) -> tuple[Any, jax.Array]:
            grads, outcome = step.gradient(state, batch, spec=spec, experiment=asked)
            updates, opt_state = spec.optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, jax.tree.map(lambda each: rate * each, updates))
            after = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
            return after, outcome.loss.total / outcome.loss.count

        return jax.lax.scan(update, state, batches)[1]

    return train


def losses(asked: Experiment, train: Callable[[Any, Any, float], jax.Array], rates: tuple[float, ...]) -> list[float]:
    """The mean loss of the last fifth of the steps at each peak learning rate."""
    built = preparation.build(asked)
    rows = [step.seen(built.data.training(number)) for number in range(asked.steps)]
    batches = {name: np.stack([each[name] for each in rows]) for name in rows[0]}
    with sharding.use(built.place):
        state = built.spec.init()
        return [float(np.mean(train(state, batches, rate)[-asked.steps // 5 :])) for rate in rates]


def experiments(args: argparse.Namespace) -> dict[tuple[str, int], Experiment]:
    """What is trained: (parametrization, width) -> its experiment, of any seed."""
    base = experiment(min(args.widths), args.steps)
    standard = {width: experiment(width, args.steps) for width in args.widths}
    found = {}
    for (width, each), kind in itertools.product(standard.items(), KINDS):
        if kind == 'muP':
            found[kind, width] = mup.apply(each, base=base)
        elif width != min(args.widths):
            found[kind, width] = each
    return found


def mark(asked: Experiment) -> str:
    """Tells one experiment from another."""
    return hashlib.sha256(json.dumps(config.to_json(asked), sort_keys=True).encode()).hexdigest()[:16]


def read(path: pathlib.Path, asked: dict[tuple[str, int], Experiment]) -> Table:
    """What has been trained of these experiments."""
    lines = path.read_text().splitlines() if path.exists() else []
    table: Table = {each: {} for each in asked}
    for row, (key, each) in itertools.product(map(json.loads, lines), asked.items()):
        if row['experiment'] == mark(each):
            table[key][row['seed']] = row['losses']
    return table


def measure(args: argparse.Namespace, wanted: dict[tuple[str, int], Experiment]) -> bool:
    """Trains what is missing, and appends it; False if the time was up before the end."""
    began, done = time.perf_counter(), read(args.results, wanted)
    for (kind, width), asked in wanted.items():
        train = trainer(asked)
        for seed in sorted(set(args.seeds) - set(done[kind, width])):
            if time.perf_counter() - began > args.seconds:
                return False
            started = time.perf_counter()
            values = losses(config.vary(asked, {'seed': seed}), train, RATES)
            row = {'kind': kind, 'width': width, 'seed': seed, 'experiment': mark(asked), 'losses': values}
            with args.results.open('a') as file:
                file.write(json.dumps(row) + '\n')
            shown = ' '.join(f'{value:.3f}' for value in values)
            print(f'{kind:8} {width:5} seed {seed}: {shown} ({time.perf_counter() - started:.0f} s)', flush=True)
    return True


def of_seeds(rows: dict[int, list[float]], seeds: np.ndarray) -> np.ndarray:
    """The mean loss at each rate over `seeds`, [..., s] -> [..., rates]; runs that diverged are the worst."""
    values = np.array([rows[seed] for seed in sorted(rows)])
    return np.where(np.isfinite(values), values, math.inf)[seeds].mean(axis=-2)


def judge(table: Table, widths: list[int], seeds: list[int]) -> list[str]:
    """Prints the best rates and losses; what is not as it should be."""
    every = np.arange(len(seeds))
    drawn = np.random.default_rng(0).integers(0, len(seeds), (DRAWS, len(seeds)))
    narrow, wide, moves = min(widths), max(widths), {}
    base_row = of_seeds(table['muP', narrow], every)
    chosen = int(np.argmin(base_row))
    for kind in KINDS:
        best, draws = {}, {}
        for width in widths:
            rows = table['muP' if width == narrow else kind, width]
            means = of_seeds(rows, every)
            best[width] = int(np.argmin(means))
            draws[width] = np.argmin(of_seeds(rows, drawn), axis=-1)
            low, high = (
                math.log2(RATES[int(each)]) for each in np.percentile(draws[width], [2.5, 97.5], method='nearest')
            )
            shown = ' '.join(f'{value:.3f}' for value in means)
            print(
                f'{kind:8} {width:5}: {shown}; best 2^{math.log2(RATES[best[width]]):.0f} [2^{low:.0f}, 2^{high:.0f}], '
                f'{means[chosen]:.3f} at the best rate of width {narrow}'
            )
        moves[kind] = best[wide] - best[narrow]
        low, high = np.percentile(draws[wide] - draws[narrow], [2.5, 97.5], method='nearest')
        print(f'{kind}: the best rate moves by {moves[kind]:+d} [{low:+d}, {high:+d}] steps of 2x')
    differences = np.array([table['muP', wide][seed][chosen] - table['muP', narrow][seed][chosen] for seed in seeds])
    error = differences.std(ddof=1) / math.sqrt(len(seeds))
    print(f'muP, width {wide} minus {narrow} at that rate: {differences.mean():+.4f}, standard error {error:.4f}')
    problems = [] if abs(moves['muP']) <= 1 else ['the best rate of muP moves by more than a step']
    if abs(moves['standard']) <= abs(moves['muP']):
        problems.append('the best rate of the standard parametrization does not move by more')
    if differences.mean() > stats.t.ppf(0.975, len(seeds) - 1) * error:
        problems.append('the wider model is worse with muP')
    return problems


def picture(table: Table, widths: list[int], seeds: list[int]) -> str:
    """Loss against learning rate, a line for each width and a panel for each parametrization."""
    every, found = np.arange(len(seeds)), []
    for kind in KINDS:
        lines = [
            panels.LogLine(
                f'width {width}',
                np.array(RATES),
                of_seeds(table['muP' if width == min(widths) else kind, width], every),
                number,
            )
            for number, width in enumerate(widths)
        ]
        found.append(panels.LogPanel(kind, 'learning rate', 'training loss', lines))
    return panels.svg(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--widths', type=int, nargs='+', default=[64, 128, 256, 512])
    parser.add_argument('--steps', type=int, default=200)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--results', type=pathlib.Path, required=True, help='a file of JSON lines')
    parser.add_argument('--seconds', type=float, default=math.inf, help='begin nothing after that time')
    parser.add_argument('--picture', type=pathlib.Path, help='an SVG file')
    args = parser.parse_args()
    if len(set(args.seeds)) < 2 or len(set(args.widths)) < 2:
        parser.error('two widths at the least, and two seeds for an interval')
    wanted = experiments(args)
    if not measure(args, wanted):
        sys.exit(f'The time was up; the same command goes on from {args.results}.')
    table = read(args.results, wanted)
    problems = judge(table, sorted(args.widths), sorted(args.seeds))
    if args.picture:
        args.picture.write_text(picture(table, sorted(args.widths), sorted(args.seeds)))
    sys.exit('; '.join(problems) or 0)


if __name__ == '__main__':
    main()
