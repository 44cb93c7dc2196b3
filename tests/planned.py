"""A tiny language model to plan with."""

import dataclasses

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rows(batches.Data):
    """Rows of tokens that are never read."""

    batch: config.Positive = 64
    length: config.Positive = 256

    @property
    def fields(self):
        tokens = batches.Field((self.length,), np.dtype(np.int32), ('length',), 1_024)
        return {'inputs': tokens, 'targets': tokens}

    @property
    def units(self):
        return batches.Units('tokens', self.length)


def experiment(**changes):
    """Four layers of 512 channels; `changes` by dotted path, with __ for the dot."""
    model = decoder.llama(
        vocab=1_024, width=512, layers=4, heads=8, kv_heads=8, hidden=1_536, rope_base=1e4, dtype='bfloat16'
    )
    base = Experiment(
        name='tiny',
        steps=1_000,
        data=Rows(),
        model=model,
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=1e-3, warmup_steps=10)),
        mesh=sharding.MeshShape(data=-1),
    )
    return config.vary(base, {path.replace('__', '.'): value for path, value in changes.items()})
