"""LSTM language models of the Penn Treebank as published: small, medium and large.

Question: are these the paper's models and recipes, number by number?
Source:   Zaremba et al. (2014), arXiv:1409.2329, section 4.1; the small one is the network without regularisation.
          Its rate of 1 is for a loss that is summed over the tokens of a row and averaged over the rows; here the loss
          is the mean over all tokens, so that the rate is `length` times theirs and the bound of the gradient's norm
          theirs divided by it. Validation and test text are read in rows of 8,000 words, whose state begins at 0.
Target:   test perplexity 114.5 (small), 82.7 (medium), 78.4 (large) per word, table 1.
Data:     the Penn Treebank of Mikolov et al. (2010), which is licensed: ptb.train.txt, ptb.valid.txt and ptb.test.txt
          in the folder `path`, one sentence in a line, 10,000 words with <unk> and the end of a line.
Run:      python -m bigmodel_jax train experiments/zaremba2014.py --arg path=~/ptb --workdir runs/small
          python -m bigmodel_jax sweep experiments/zaremba2014.py --arg path=~/ptb --workdir runs/zaremba
Check:    python -m bigmodel_jax check experiments/zaremba2014.py
          python -m bigmodel_jax train experiments/zaremba2014.py:smoke --workdir /tmp/zaremba_smoke
"""

from typing import NamedTuple

from bigmodel_jax import claims
from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.text import text
from bigmodel_jax.data.text.streams import contiguous, words
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.models import recurrent
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules

ROWS, TOKENS = 20, 929_589  # Of the training text, an end for each line among them.


class Row(NamedTuple):
    """A model of section 4.1."""

    model: recurrent.CarryingDecoder
    parameters: int
    length: int  # Tokens that a gradient passes through.
    limit: float  # Of the initial weights.
    dropout: float
    norm: float  # At which the gradient of the summed loss is clipped.
    constant: int  # Epochs at the first rate;
    divisor: float  # by which it is divided after each further one;
    epochs: int  # of all.
    perplexity: float  # Of the test text, table 1.


TABLE = {
    'small': Row(recurrent.ZAREMBA_SMALL, 4_651_600, 20, 0.1, 0.0, 5.0, 4, 2.0, 13, 114.5),
    'medium': Row(recurrent.ZAREMBA_MEDIUM, 19_775_200, 35, 0.05, 0.5, 5.0, 6, 1.2, 39, 82.7),
    'large': Row(recurrent.ZAREMBA_LARGE, 66_022_000, 35, 0.04, 0.65, 10.0, 14, 1.15, 55, 78.4),
}


def claims_of(row: Row, steps: int, epoch: int) -> tuple[claims.Claim, ...]:
    settings = {
        'model.layers': 2,
        'data.batch': ROWS,
        'data.length': row.length,
        'model.block.dropout': row.dropout,
        'model.embedding.dropout': row.dropout,
        'model.block.init.limit': row.limit,
        'optimizer.clip_norm': row.norm / row.length,
    }
    last = 1.0 / row.divisor ** (row.epochs - row.constant)
    return (
        claims.Parameters(where='4.1', value=row.parameters),
        *(claims.Setting(where='4.1', path=path, value=value) for path, value in settings.items()),
        claims.LearningRate(where=f'4.1, times {row.length}', step=row.constant * epoch, value=row.length),
        claims.LearningRate(where=f'4.1, times {row.length}', step=steps, value=row.length * last),
        claims.Measured(where='table 1', metric='test/perplexity', value=row.perplexity, tolerance=0.05),
    )


def model(name: str, path: str) -> Experiment:
    row = TABLE[name]

    def part(split: str) -> records.Source:
        return sources.Lines(path=f'{path}/ptb.{split}.txt')

    vocabulary = words.Words(trained_on=part('train'))
    epoch = (TOKENS - 1) // ROWS // row.length
    steps = row.epochs * epoch

    def read(split: str) -> text.Text:
        return text.Text(source=part(split), tokenizer=vocabulary, batch=8, length=8_000)

    return Experiment(
        name=name,
        steps=steps,
        data=contiguous.Contiguous(source=part('train'), tokenizer=vocabulary, batch=ROWS, length=row.length),
        model=row.model,
        objective=language.LanguageModel(),
        optimizer=optimizers.Sgd(
            schedule=schedules.Stepwise(
                peak=float(row.length),
                boundaries=tuple(number * epoch for number in range(row.constant, row.epochs)),
                factor=1 / row.divisor,
            ),
            momentum=0.0,
            clip_norm=row.norm / row.length,
        ),
        evaluations=(
            loss.Loss(data=read('valid'), every_steps=epoch),
            loss.Loss(data=read('test'), every_steps=steps, name='test'),
        ),
        checkpoints=Checkpoints(every_steps=epoch),
        claims=claims_of(row, steps, epoch),
    )


def experiment(path: str = 'ptb') -> Experiment:
    return model('small', path)


def sweep(path: str = 'ptb') -> dict[str, Experiment]:
    return {name: model(name, path) for name in TABLE}


def smoke() -> Experiment:
    """Seconds: counting aloud, so that nothing need be downloaded."""
    names = ['zero', 'one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight', 'nine']
    lines = tuple(' '.join(names[(start + i) % 10] for i in range(12)) for start in range(40))
    source = sources.Texts(texts=lines)
    vocabulary = words.Words(trained_on=source)
    rows = text.Text(source=source, tokenizer=vocabulary, batch=8, length=16)
    tiny = {
        'name': 'zaremba_smoke',
        'steps': 20,
        'data': contiguous.Contiguous(source=source, tokenizer=vocabulary, batch=8, length=8),
        'model': recurrent.zaremba(width=16, dropout=0.2, limit=0.1, vocab=11),
        'optimizer.schedule': schedules.Stepwise(peak=8.0, boundaries=(10, 15), factor=0.5),
        'evaluations.0.data': rows,
        'evaluations.0.every_steps': 10,
        'evaluations.1.data': rows,
        'evaluations.1.every_steps': 20,
        'checkpoints.every_steps': 10,
        'watch.log_every': 5,
        'claims': (),
    }
    return vary(model('small', 'ptb'), tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
