"""The first Transformer that many people build: an embedding, self-attention, a dense layer with ReLU, and no more.

Question: what is the shortest complete experiment, and does this model learn anything?
Source:   the model and the training call of many introductory articles: 10,000 words, width 512, 8 heads, Adam, mean
          squared error, ten epochs, then predictions.
Data:     made up, so that nothing is downloaded: each word has a hidden score, and a sentence's value is the sum of
          the scores of its words, scaled to a variance of 1. Always predicting the mean has a loss of 1.0.
Target:   none published; validation loss 0.235 after ten epochs, that is 76% of the variance of unseen sentences.
Run:      python -m bigmodel_jax train experiments/first_transformer.py --workdir runs/first

What is odd about the model, and left as it is:
  * It has no positions, so it sees a sentence as a set of words. The data asks for no more than that.
  * It has neither residual connections nor norms. One layer trains without them; a stack of ten would not.
  * A Transformer is usually trained to predict words, by cross-entropy. Mean squared error fits here because the target
    is a number.
  * Most of its weights, 5.1 of 6.4 million, are the embedding, and rare words are hardly ever updated: the difference
    between the training loss and the validation loss is theirs.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from flax import linen as nn

from bigmodel_jax.config import vary
from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.models import model
from bigmodel_jax.objectives import regression
from bigmodel_jax.optim import optimizers, schedules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sentences(batches.Data):
    """Sentences of 16 words, whose frequencies follow Zipf's law, and the value of each."""

    batch: int
    examples: int = 4_096
    words: int = 10_000
    split: int = 0  # Another number gives other sentences of the same words.

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        words = batches.Field((16,), np.dtype(np.int32), ('length',), self.words)
        return {'words': words, 'values': batches.Field((), np.dtype(np.float32), ())}

    def build(self, seed: int) -> batches.Batches:
        frequencies = 1 / np.arange(1, self.words + 1)
        scores = np.random.default_rng(0).normal(size=self.words)
        random = np.random.default_rng([1, self.split])
        words = random.choice(self.words, size=(self.examples, 16), p=frequencies / frequencies.sum())
        moments = np.average([scores, scores**2], axis=1, weights=frequencies)
        values = (scores[words].sum(axis=1) - 16 * moments[0]) / np.sqrt(16 * (moments[1] - moments[0] ** 2))
        arrays = {'words': words.astype(np.int32), 'values': values.astype(np.float32)}
        examples = batches.ArrayExamples(arrays, self.fields, fingerprint={'name': 'sentences', 'split': self.split})
        return batches.Batches(examples, rows=self.batch, seed=seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FirstTransformer(model.Model):
    words: int = 10_000
    width: int = 512
    heads: int = 8

    def build(self, name: str | None = None) -> nn.Module:
        return FirstTransformerModule(self, name=name)


class FirstTransformerModule(nn.Module):
    config: FirstTransformer

    @nn.compact
    def __call__(self, batch):
        x_BTD = nn.Embed(self.config.words, self.config.width)(batch['words'])
        x_BTD = nn.MultiHeadDotProductAttention(num_heads=self.config.heads)(x_BTD)
        x_BTD = nn.relu(nn.Dense(self.config.width)(x_BTD))
        return {'values': nn.Dense(1)(x_BTD.mean(axis=1))[:, 0]}


def experiment() -> Experiment:
    batch, epochs = 64, 10
    data = Sentences(batch=batch)
    return Experiment(
        name='first_transformer',
        steps=epochs * data.examples // batch,
        data=data,
        model=FirstTransformer(),
        objective=regression.Regression(),
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=1e-3)),
        evaluations=(loss.Loss(data=Sentences(batch=batch, examples=1_024, split=1), every_steps=64),),
    )


def smoke() -> Experiment:
    """An eighth of the width and 20 steps: seconds."""
    return vary(experiment(), {'model.width': 64, 'steps': 20})
