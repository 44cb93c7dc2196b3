"""Which normalisation, and where: an ablation of five arms and five seeds, in a few minutes on two CPU cores.

Question: does the kind of normalisation matter, and its place before or after the residual sum; is it needed at all?
Source:   layer normalisation: Ba et al. (2016), arXiv:1607.06450; RMSNorm, which leaves out the mean: Zhang and
          Sennrich (2019), arXiv:1910.07467; before or after the sum: Xiong et al. (2020), arXiv:2002.04745.
Target:   RMSNorm is as good as layer normalisation (Zhang and Sennrich, section 6). Before the sum is better than after
          it at the same learning rate with little warm-up (Xiong et al., section 4.2). For none they have no number.
Run:      python experiments/ablations/norms.py sweep --engine local
"""

import dataclasses
from typing import Any

import jax
from flax import linen as nn

from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.text import text, tokenizers
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.layers import blocks, norms, stacks
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding
from bigmodel_jax.sweeps import arms
from bigmodel_jax.sweeps.sweep import Sweep

STEPS, LENGTH, VOCABULARY = 250, 64, 512
LAYER_NORM, RMS_NORM = norms.LayerNorm(), norms.RmsNorm()


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoNorm(norms.Norm):
    """Leaves everything as it is."""

    def build(self, name: str | None = None) -> nn.Module:
        return NoNormModule(name=name)


class NoNormModule(nn.Module):
    """Owns nothing."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


def docs(split: str) -> records.Source:
    """The language reference and the docstrings of the standard library; split by document."""
    return sources.Tfds(name='python_docs', split=split)


VOCAB = tokenizers.Bpe(vocab=VOCABULARY, trained_on=docs('train'))


def rows(split: str) -> text.Text:
    return text.Text(source=docs(split), tokenizer=VOCAB, batch=16, length=LENGTH)


def experiment() -> Experiment:
    """The baseline: layer normalisation before each sublayer and at the end."""
    return Experiment(
        name='norms',
        steps=STEPS,
        data=rows('train'),
        model=decoder.gpt(
            vocab=VOCABULARY, width=64, layers=2, heads=4, length=LENGTH, stack=stacks.Stack(scan=False)
        ),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupCosine(peak=3e-3, warmup_steps=20, final=3e-4), weight_decay=0.1, clip_norm=1.0
        ),
        mesh=sharding.MeshShape(data=1),
        checkpoints=Checkpoints(every_steps=STEPS),
        evaluations=(loss.Loss(data=rows('validation'), every_steps=50, max_batches=20),),
        watch=Watch(log_every=10),
    )


def sweep() -> Sweep:
    """Layer normalisation and RMSNorm, before and after the residual sum, and none."""

    def before(norm: norms.Norm) -> dict[str, Any]:
        return {'model.block.residual': blocks.PreNorm(norm=norm), 'model.norm': norm}

    def after(norm: norms.Norm) -> dict[str, Any]:
        return {'model.block.residual': blocks.PostNorm(norm=norm), 'model.norm': None}

    changes = {
        'pre_layer_norm': before(LAYER_NORM),
        'pre_rms_norm': before(RMS_NORM),
        'post_layer_norm': after(LAYER_NORM),
        'post_rms_norm': after(RMS_NORM),
        'no_norm': {'model.block.residual': blocks.PreNorm(norm=NoNorm()), 'model.norm': None},
    }
    return Sweep(arms=arms.named(experiment(), changes), baseline='pre_layer_norm')


def smoke() -> Experiment:
    """Seconds: the arm with a part of its own, to show that the pieces fit."""
    tiny = {
        'name': 'norms_smoke',
        'steps': 20,
        'model.layers': 1,
        'watch.log_every': 5,
        'checkpoints.every_steps': 10,
        'evaluations.0.every_steps': 20,
        'evaluations.0.max_batches': 4,
    }
    return vary(sweep()['no_norm'], tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
