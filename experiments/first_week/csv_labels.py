"""Classification of the texts in a CSV file with a header, a fifth of whose rows is held out.

Data:     a column `review` of text, which may be quoted and hold line breaks, and a column `mood`: good or bad.
Run:      python -m bigmodel_jax train experiments/first_week/csv_labels.py --arg path=FILE.csv --workdir runs/csv
"""

import pathlib

from bigmodel_jax.config import vary
from bigmodel_jax.data import sources, splits
from bigmodel_jax.data.text import labelled, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.models import bert
from bigmodel_jax.objectives import classification
from bigmodel_jax.optim import optimizers, schedules


def experiment(path: str = 'data/reviews.csv') -> Experiment:
    train, validation = (sources.Csv(path=path, part=part) for part in splits.both(held_out=0.2))
    words = tokenizers.WordPiece(vocab=2_000, trained_on=sources.TextField(source=train, field='review'))
    data = labelled.Labelled(
        source=train, sentences=('review',), label='mood', labels=('bad', 'good'),
        tokenizer=words, batch=32, length=64)  # fmt: skip
    return Experiment(
        name='csv_labels',
        steps=1_000,
        data=data,
        model=bert.Classifier(encoder=bert.bert(vocab=2_000, width=64, layers=2, heads=2, length=64), classes=2),
        objective=classification.Classification(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupLinear(peak=1e-3, warmup_steps=100)),
        evaluations=(loss.Loss(data=vary(data, {'source': validation}), every_steps=100),),
    )


def smoke() -> Experiment:
    """Seconds, on the file beside this one."""
    encoder = bert.bert(vocab=2_000, width=16, layers=1, heads=1, length=64)
    tiny = {'steps': 4, 'data.batch': 8, 'model.encoder': encoder, 'optimizer.schedule.warmup_steps': 2}
    return vary(experiment(str(pathlib.Path(__file__).parent / 'data' / 'reviews.csv')), tiny)
