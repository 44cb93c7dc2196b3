"""An experiment file for tests: a language model of a few thousand weights on counting, which needs no data set."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding

VOCAB, LENGTH, EXAMPLES = 64, 16, 100


class Poisoned(batches.ArrayExamples):
    """Examples of which some are read with weights of nan: as arrays they would be refused."""

    def __init__(self, arrays, fields, *, fingerprint, rows=()):
        super().__init__(arrays, fields, fingerprint=fingerprint)
        self._rows = np.array(list(rows), np.int64)

    def gather(self, indices, epochs, seed):
        batch = super().gather(indices, epochs, seed)
        batch['loss_weights'][np.isin(indices, self._rows)] = np.nan
        return batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting(batches.Data):
    """Rows of numbers, each 1 to 3 more than the last, modulo VOCAB. Rows have different numbers of weights."""

    batch: config.Positive
    rows_seed: config.NonNegative = 0
    poisoned: bool = False  # The weights of every row are nan.
    nan_example: int | None = None  # The weights of this row are nan.
    wild_example: int | None = None  # The targets of this row are noise, and weigh a thousand times as much.

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        tokens = batches.Field((LENGTH,), np.dtype(np.int32), ('length',), VOCAB)
        weights = batches.Field((LENGTH,), np.dtype(np.float32), ('length',))
        return {'inputs': tokens, 'targets': tokens, 'loss_weights': weights}

    @property
    def units(self) -> batches.Units:
        return batches.Units('tokens', LENGTH)

    def build(self, seed: int) -> batches.Batches:
        random = np.random.default_rng(self.rows_seed)
        rows = (random.integers(1, 4, (EXAMPLES, LENGTH + 1)).cumsum(axis=1) % VOCAB).astype(np.int32)
        weights = np.arange(LENGTH) < random.integers(LENGTH // 2, LENGTH + 1, (EXAMPLES, 1))
        weights = weights.astype(np.float32)
        if self.wild_example is not None:
            rows[self.wild_example] = random.integers(0, VOCAB, LENGTH + 1)
            weights[self.wild_example] *= 1_000
        arrays = {'inputs': rows[:, :-1], 'targets': rows[:, 1:], 'loss_weights': weights}
        poisoned = range(EXAMPLES) if self.poisoned else () if self.nan_example is None else (self.nan_example,)
        examples = Poisoned(arrays, self.fields, fingerprint={'name': 'counting'}, rows=poisoned)
        return batches.Batches(examples, rows=self.batch, seed=seed)


def experiment() -> Experiment:
    return Experiment(
        name='tiny',
        steps=20,
        data=Counting(batch=8),
        model=decoder.gpt(vocab=VOCAB, width=16, layers=2, heads=8, length=LENGTH, **{'block.residual.dropout': 0.1}),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupCosine(peak=1e-2, warmup_steps=4), weight_decay=0.1, clip_norm=1.0
        ),
        mesh=sharding.MeshShape(data=1),
        checkpoints=Checkpoints(every_steps=8),
        evaluations=(loss.Loss(data=Counting(batch=8, rows_seed=1), every_steps=10),),
        watch=Watch(log_every=3),
    )


def without_dropout() -> Experiment:
    return config.vary(experiment(), {'model.block.residual.dropout': 0.0})


def arms() -> dict[str, Experiment]:
    return {f'seed{seed}': config.vary(experiment(), {'seed': seed}) for seed in (0, 1)}


def with_path(path: str) -> Experiment:
    return config.vary(experiment(), {'name': path})


def misspelt() -> Experiment:
    return Experiment(name='x', stepz=3)


def broken() -> Experiment:
    return 1 / 0
