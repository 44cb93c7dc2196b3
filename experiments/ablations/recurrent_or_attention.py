"""An LSTM language model beside a Transformer of as many parameters: two arms, three seeds, minutes on two CPU cores.

Question: at equal parameters and on the same tokens, which of the two models text better so early in training?
Source:   the Transformer is GPT-2's (Radford et al., 2019) at 1/900 of its size; the LSTM that of Zaremba et al.
          (2014), arXiv:1409.2329: two layers without residual connections. Kaplan et al. (2020), arXiv:2001.08361,
          figure 7: at equal parameters LSTMs match Transformers early in a context, and fall behind late in it.
Target:   none is published at this size; both far below the unigram entropy.
Run:      python experiments/ablations/recurrent_or_attention.py sweep --engine local

The width of the LSTM is chosen so that the parameters of the two agree within 1%; then their FLOPs do within 2%. Both
read rows of 64 tokens, neither sees the row before, and both end with a layer norm, which Zaremba's has not. The LSTM
draws its embeddings as theirs does: with the smaller ones of GPT-2 it learns more slowly. Each has the best learning
rate of 3e-3, 5e-3 and 1e-2 by the validation loss of seed 0: 3.73, 4.28 and 4.29 of the Transformer, 4.16, 3.97 and
3.73 of the LSTM. Two sweeps came before: with GPT-2's initial embeddings, no norm and one rate for both the LSTM was
worse (5.02 after 4.22); with its own and the Transformer's old rate it was better (3.70 after 4.22). So the verdict is
that of the set-up, and says nothing of the kinds of model in general.
"""

from typing import Any

from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.evaluate.text import unigram
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.layers import recurrent, stacks
from bigmodel_jax.layers.base import weights
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.sweeps import arms
from bigmodel_jax.sweeps.planning import equal
from bigmodel_jax.sweeps.sweep import Sweep

STEPS, LENGTH, VOCABULARY = 400, 64, 512


def docs(split: str) -> records.Source:
    """The language reference and the docstrings of the standard library; split by document."""
    return sources.Tfds(name='python_docs', split=split)


VOCAB = tokenizers.Bpe(vocab=VOCABULARY, trained_on=docs('train'))


def rows(split: str) -> text.Text:
    return text.Text(source=docs(split), tokenizer=VOCAB, batch=16, length=LENGTH)


def experiment() -> Experiment:
    """The Transformer."""
    return Experiment(
        name='transformer',
        steps=STEPS,
        data=rows('train'),
        model=decoder.gpt(
            vocab=VOCABULARY, width=64, layers=2, heads=4, length=LENGTH, stack=stacks.Stack(scan=False)
        ),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupCosine(peak=3e-3, warmup_steps=40, final=3e-4), weight_decay=0.1, clip_norm=1.0
        ),
        mesh=sharding.MeshShape(data=1),
        checkpoints=Checkpoints(every_steps=STEPS),
        evaluations=(
            loss.Loss(data=rows('validation'), every_steps=100, max_batches=20),
            unigram.Unigram(data=rows('validation'), every_steps=STEPS),
        ),
        watch=Watch(log_every=10),
    )


def sweep() -> Sweep:
    """The Transformer, and an LSTM whose width makes it as large."""
    lstm = recurrent.Lstm(bias_init=recurrent.ForgetBias())
    changes: dict[str, dict[str, Any]] = {
        'transformer': {},
        'lstm': {
            'model.block': lstm,
            'model.positions': None,
            'model.embedding.init': weights.Uniform(limit=0.1),
            'optimizer.schedule.peak': 1e-2,
            'optimizer.schedule.final': 1e-3,
        },
    }
    made = equal.equal_parameters(arms.named(experiment(), changes), 'transformer', by='model.width')
    return Sweep(arms=made.arms, baseline='transformer', metric='validation/loss', seeds=(0, 1, 2))


def smoke() -> Experiment:
    """Seconds: the LSTM, to show that the pieces fit."""
    tiny = {
        'name': 'lstm_smoke',
        'steps': 20,
        'model.width': 32,
        'model.layers': 1,
        'optimizer.schedule.warmup_steps': 5,
        'watch.log_every': 5,
        'checkpoints.every_steps': 10,
        'evaluations.0.every_steps': 20,
        'evaluations.0.max_batches': 4,
        'evaluations.1.every_steps': 20,
    }
    return vary(sweep()['lstm'], tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
