"""The coordinate check of muP beside the standard parametrization: widths 64 to 1,024, a few steps, a picture.

Prints the slope of every activation against the width, and fails if muP is not flat or the standard one is.

Run: python scripts/benchmark/mup_coordinates.py --picture coordinates.svg
"""

import argparse
import pathlib

from bigmodel_jax import mup
from bigmodel_jax.data import sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.sweeps import coordinate_check

WIDTHS = (64, 128, 256, 512, 1_024)
OPTIMIZERS = {
    'adamw': optimizers.AdamW(schedule=schedules.Constant(peak=2e-3)),
    'sgd': optimizers.Sgd(schedule=schedules.Constant(peak=0.3)),
    'muon': optimizers.Muon(schedule=schedules.Constant(peak=1e-2)),
}


def experiment(width: int, optimizer: optimizers.Optimizer) -> Experiment:
    """A GPT of two layers on the characters of Python's documentation, with four heads at every width."""
    docs = sources.Tfds(name='python_docs', split='validation')
    data = text.Text(source=docs, tokenizer=tokenizers.Characters(trained_on=docs), batch=8, length=64)
    return Experiment(
        name=f'width_{width}',
        steps=100,
        data=data,
        model=decoder.gpt(vocab=1_024, width=width, layers=2, heads=4, length=64),
        objective=language.LanguageModel(),
        optimizer=optimizer,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--optimizer', choices=list(OPTIMIZERS), default='adamw')
    parser.add_argument('--steps', type=int, default=8)
    parser.add_argument('--widths', type=int, nargs='+', default=WIDTHS)
    parser.add_argument('--picture', type=pathlib.Path, help='an SVG file')
    args = parser.parse_args()
    standard = {width: experiment(width, OPTIMIZERS[args.optimizer]) for width in args.widths}
    base = standard[min(args.widths)]
    scaled = {width: mup.apply(each, base=base) for width, each in standard.items()}
    checks = {}
    for name, experiments in (('muP', scaled), ('standard', standard)):
        checks[name] = coordinate_check.coordinate_check(experiments, steps=args.steps)
        print(f'{name}, {args.optimizer}\n{checks[name].text()}\n')
    if args.picture:
        args.picture.write_text(coordinate_check.picture(checks))
    if checks['muP'].steep() or not checks['standard'].steep():
        raise SystemExit('muP should be flat, and the standard parametrization not')


if __name__ == '__main__':
    main()
