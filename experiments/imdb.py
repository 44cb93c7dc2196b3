"""Sentiment of film reviews: an LSTM, a convolutional network and a Transformer as arms of one paired sweep.

Question: which of the three reads reviews best when it is trained on them alone, without pretraining?
Source:   the reviews: Maas et al. (2011); the sentences of SST-2: Socher et al. (2013). The LSTM reads from both ends
          (Schuster and Paliwal, 1997); the convolution is that of Kim (2014), arXiv:1408.5882, section 2, with widths
          of 3, 4 and 5 and dropout of one half, but an embedding that is not pretrained (CNN-rand, 82.7% of SST-2's
          sentences in his table 2, trained on its phrases too); the Transformer is an encoder of two blocks.
Target:   above 75% of SST-2's 1,821 test sentences for each arm, trained on its 6,920 whole sentences alone.
Data:     IMDB by TFDS (imdb_reviews), or with path=DATA the files DATA/{train,dev,test}.tsv of SST-2: a sentence and
          its label, 1 if it praises, separated by a tab. The number of steps is fixed beforehand: no checkpoint is
          chosen by its score. IMDB has to be downloaded, and has not been trained on; the three arms on SST-2 have.
Run:      python -m bigmodel_jax sweep experiments/imdb.py --arg path=DATA --workdir runs/sst2
          python -m bigmodel_jax train experiments/imdb.py --workdir runs/imdb
Check:    python -m bigmodel_jax train experiments/imdb.py:smoke --workdir /tmp/imdb_smoke
"""

import pathlib
from typing import Any, NamedTuple

from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources, splits
from bigmodel_jax.data.text import labelled, tokenizers
from bigmodel_jax.evaluate import classes
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.layers import attention, blocks, convolution, embeddings, ffn, positions, recurrent, stacks
from bigmodel_jax.layers.base import weights
from bigmodel_jax.models import recurrent as models
from bigmodel_jax.objectives import classification
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.sweeps import arms
from bigmodel_jax.sweeps.sweep import Sweep

WIDTH, BATCH, EPOCHS = 96, 64, 6
NAMES = ('negative', 'positive')


class Corpus(NamedTuple):
    """Labelled texts in three parts."""

    train: records.Source
    dev: records.Source
    test: records.Source
    sentence: records.Field
    label: records.Field
    rows: int  # Of the training part.
    length: int  # Tokens that are read; the rest of a text is cut off.
    vocabulary: int


def corpus(path: str) -> Corpus:
    if path:
        train, dev, test = (sources.Tsv(path=f'{path}/{split}.tsv') for split in ('train', 'dev', 'test'))
        return Corpus(train, dev, test, sentence=0, label=1, rows=6_920, length=48, vocabulary=4_000)
    first, second, third = (
        sources.Tfds(name='imdb_reviews', split=part) for part in ('train[:90%]', 'train[90%:]', 'test')
    )
    return Corpus(first, second, third, sentence='text', label='label', rows=22_500, length=400, vocabulary=8_000)


def model(of: Corpus) -> models.SequenceClassifier:
    """An LSTM of which each half reads in one direction."""
    return models.SequenceClassifier(
        vocab=of.vocabulary,
        width=WIDTH,
        layers=1,
        block=recurrent.Bidirectional(cell=recurrent.Lstm(bias_init=recurrent.ForgetBias())),
        classes=2,
        positions=None,  # Each arm knows the order by itself, but for the Transformer.
        pooling=models.MaxOfTokens(),
        embedding=embeddings.Embedding(init=weights.Normal(stddev=0.1), dropout=0.2),
        dropout=0.5,
        stack=stacks.Stack(scan=False),
    )


def experiment(path: str = '') -> Experiment:
    """The LSTM."""
    return _experiment(corpus(path))


def _experiment(of: Corpus) -> Experiment:
    words = tokenizers.WordPiece(
        vocab=of.vocabulary, trained_on=sources.TextField(source=of.train, field=of.sentence)
    )
    steps = EPOCHS * of.rows // BATCH

    def rows(source: records.Source) -> labelled.Labelled:
        return labelled.Labelled(
            source=source,
            sentences=(of.sentence,),
            label=of.label,
            tokenizer=words,
            batch=BATCH,
            length=of.length,
        )

    def scored(source: records.Source, name: str, every_steps: int) -> classes.Classes:
        return classes.Classes(data=rows(source), every_steps=every_steps, names=NAMES, name=name)

    return Experiment(
        name='sentiment',
        steps=steps,
        data=rows(of.train),
        model=model(of),
        objective=classification.Classification(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupLinear(peak=3e-3, warmup_steps=steps // 10), weight_decay=0.01, clip_norm=1.0
        ),
        mesh=sharding.MeshShape(data=1),
        evaluations=(scored(of.dev, 'dev', steps // EPOCHS), scored(of.test, 'test', steps)),
        checkpoints=Checkpoints(every_steps=steps, keep_last=1),
        watch=Watch(log_every=20),
    )


def sweep(path: str = '') -> Sweep:
    """The three of equal width, of which the LSTM is the baseline; they share rows, seeds and initial embeddings."""
    block = blocks.Block(
        mixer=attention.Attention(heads=4, causal=False),
        ffn=ffn.Mlp(hidden=4 * WIDTH),
        residual=blocks.PreNorm(dropout=0.1),
    )
    learned = positions.Learned(length=corpus(path).length)
    changes: dict[str, dict[str, Any]] = {
        'lstm': {},
        'cnn': {'model.block': convolution.RowConvolution()},
        'transformer': {'model.block': block, 'model.layers': 2, 'model.positions': learned},
    }
    return Sweep(arms=arms.named(experiment(path), changes), baseline='lstm', metric='test/error', seeds=(0, 1, 2))


def smoke() -> Experiment:
    """Seconds: the convolution on a few invented reviews."""
    file = pathlib.Path(__file__).parent / 'first_week' / 'data' / 'reviews.csv'
    train, held_out = (sources.Csv(path=str(file), part=part) for part in splits.both(held_out=0.2))
    of = Corpus(train, held_out, held_out, 'review', 'mood', rows=64, length=32, vocabulary=400)
    labels = ('bad', 'good')
    tiny = {
        'name': 'sentiment_smoke',
        'steps': 12,
        'data.labels': labels,
        'evaluations.0.data.labels': labels,
        'evaluations.1.data.labels': labels,
        'model.block': convolution.RowConvolution(),
        'model.width': 24,
        'watch.log_every': 5,
    }
    return vary(_experiment(of), tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
