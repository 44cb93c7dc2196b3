"""An experiment without a mistake, from which the files beside it are made, each with one mistake."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import evaluation, loss
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.models import decoder
from bigmodel_jax.objectives import language
from bigmodel_jax.optim import optimizers, schedules

VOCAB, LENGTH, EXAMPLES = 64, 16, 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counting(batches.Data):
    """Rows of numbers, each 1 to 3 more than the last, modulo VOCAB."""

    batch: int

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        tokens = batches.Field((LENGTH,), np.dtype(np.int32), ('length',), VOCAB)
        return {'inputs': tokens, 'targets': tokens}

    def arrays(self) -> dict[str, np.ndarray]:
        steps = np.random.default_rng(0).integers(1, 4, (EXAMPLES, LENGTH + 1))
        rows = (steps.cumsum(axis=1) % VOCAB).astype(np.int32)
        return {'inputs': rows[:, :-1], 'targets': rows[:, 1:]}

    def build(self, seed: int) -> batches.Batches:
        examples = batches.ArrayExamples(self.arrays(), self.fields, fingerprint={'name': 'counting'})
        return batches.Batches(examples, rows=self.batch, seed=seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(evaluation.Evaluation):
    """An evaluation that computes nothing; the files beside this one let it do something wrong."""

    every_steps: int = 2
    name: str = 'own'


def experiment() -> Experiment:
    return Experiment(
        name='planted',
        steps=20,
        data=Counting(batch=16),
        model=decoder.gpt(vocab=VOCAB, width=16, layers=1, heads=2, length=LENGTH),
        objective=language.LanguageModel(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=1e-2, warmup_steps=4)),
        checkpoints=Checkpoints(every_steps=10),
        evaluations=(loss.Loss(data=Counting(batch=16), every_steps=10),),
    )


def smoke() -> Experiment:
    return experiment()
