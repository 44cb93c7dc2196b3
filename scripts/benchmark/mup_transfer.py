"""Whether the best learning rate of one width is that of another: muP beside the standard parametrization.

Trains a small Llama on the text of Python's documentation at every width and learning rate of a grid of factors of two,
from one seed, and compares the mean loss of the last fifth of the steps. At the smallest width both parametrizations
are the same, and it is trained once.

Run: python scripts/benchmark/mup_transfer.py --picture transfer.svg
"""

import argparse
import math
import pathlib
import time

import jax
import numpy as np
import optax

from bigmodel_jax import mup
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.sweeps.scaling import panels
from bigmodel_jax.train import preparation, step


def experiment(width: int, steps: int) -> Experiment:
    """A Llama of two layers and four heads on bytes, whose peak learning rate is 1: losses() multiplies the updates."""
    docs = sources.Tfds(name='python_docs', split='train')
    return Experiment(
        name=f'width_{width}',
        steps=steps,
        data=text.Text(source=docs, tokenizer=tokenizers.Bytes(), batch=4, length=32),
        model=decoder.llama(
            vocab=320, width=width, layers=2, heads=4, kv_heads=4, hidden=2 * width, rope_base=10_000.0
        ),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=1.0, warmup_steps=steps // 10), b2=0.99),
        mesh=sharding.MeshShape(data=1),
    )


def losses(asked: Experiment, rates: list[float]) -> list[float]:
    """The mean loss of the last fifth of the steps at each peak learning rate; one compilation serves all of them."""
    built = preparation.build(asked)
    spec = built.spec
    rows = [step.seen(built.data.training(number)) for number in range(asked.steps)]
    batches = {name: np.stack([each[name] for each in rows]) for name in rows[0]}

    @jax.jit
    def train(state, rate):
        def update(state, batch):
            grads, outcome = step.gradient(state, batch, spec=spec, experiment=asked)
            updates, opt_state = spec.optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, jax.tree.map(lambda each: rate * each, updates))
            after = state._replace(step=state.step + 1, params=params, opt_state=opt_state)
            return after, outcome.loss.total / outcome.loss.count

        return jax.lax.scan(update, state, batches)[1]

    with sharding.use(built.place):
        return [float(np.mean(train(spec.init(), rate)[-asked.steps // 5 :])) for rate in rates]


def best(rates: list[float], values: list[float]) -> float:
    """The rate with the least loss; runs that diverged are the worst."""
    return rates[int(np.argmin([value if math.isfinite(value) else math.inf for value in values]))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--widths', type=int, nargs='+', default=[64, 512])
    parser.add_argument('--steps', type=int, default=80)
    parser.add_argument('--rates', type=float, nargs='+', default=[2.0**power for power in range(-11, -4)])
    parser.add_argument('--picture', type=pathlib.Path, help='an SVG file')
    args = parser.parse_args()
    base = experiment(min(args.widths), args.steps)
    table: dict[str, dict[int, list[float]]] = {'standard': {}, 'muP': {}}
    for width in sorted(args.widths):
        asked = experiment(width, args.steps)
        for name, each in (('muP', mup.apply(asked, base=base)), ('standard', asked)):
            began = time.perf_counter()
            same = name == 'standard' and width == min(args.widths)
            values = table['muP'][width] if same else losses(each, args.rates)
            table[name][width] = values
            shown = ' '.join(f'{value:.3f}' for value in values)
            chosen = math.log2(best(args.rates, values))
            print(f'{name:8} {width:5} best 2^{chosen:.0f}: {shown} ({time.perf_counter() - began:.0f} s)', flush=True)
    moves = {
        name: math.log2(best(args.rates, of[max(args.widths)]) / best(args.rates, of[min(args.widths)]))
        for name, of in table.items()
    }
    print(
        'grid steps of 2x from the smallest to the largest width:',
        {name: f'{each:+.0f}' for name, each in moves.items()},
    )
    if args.picture:
        args.picture.write_text(picture(args.rates, table))
    if abs(moves['muP']) > 1 or abs(moves['standard']) <= abs(moves['muP']):
        raise SystemExit('the best learning rate should move by at most one step with muP, and by more without')


def picture(rates: list[float], table: dict[str, dict[int, list[float]]]) -> str:
    """Loss against learning rate, a line for each width and a panel for each parametrization."""
    panel_of = {
        name: [
            panels.LogLine(f'width {width}', np.array(rates), np.array(values), number)
            for number, (width, values) in enumerate(of.items())
        ]
        for name, of in table.items()
    }
    return panels.svg(
        [panels.LogPanel(name, 'learning rate', 'training loss', lines) for name, lines in panel_of.items()]
    )


if __name__ == '__main__':
    main()
