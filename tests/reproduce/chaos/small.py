"""An experiment for the sweep of faults: one table of weights, four steps, and as few files as a run can have."""

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.layers.base import weights
from bigmodel_jax.models import model
from bigmodel_jax.objectives import language, objective
from bigmodel_jax.objectives.objective import Mean
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.parallel import sharding

VOCAB, LENGTH, EXAMPLES, WIDTH = 16, 4, 64, 4


class Poisoned(batches.ArrayExamples):
    """Examples of which some are read with weights of nan: as arrays they would be refused."""

    def __init__(self, arrays, fields, *, fingerprint, rows):
        super().__init__(arrays, fields, fingerprint=fingerprint)
        self._rows = np.array(list(rows), np.int64)

    def gather(self, indices, epochs, seed):
        batch = super().gather(indices, epochs, seed)
        batch['loss_weights'][np.isin(indices, self._rows)] = np.nan
        return batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs(batches.Data):
    """Rows of random tokens."""

    batch: config.Positive
    nan_examples: tuple[int, ...] = ()  # The weights of these rows are nan.

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        tokens = batches.Field((LENGTH,), np.dtype(np.int32), ('length',), VOCAB)
        weights = batches.Field((LENGTH,), np.dtype(np.float32), ('length',))
        return {'inputs': tokens, 'targets': tokens, 'loss_weights': weights}

    @property
    def units(self) -> batches.Units:
        return batches.Units('tokens', LENGTH)

    def build(self, seed: int) -> batches.Batches:
        rows = np.random.default_rng(0).integers(0, VOCAB, (EXAMPLES, LENGTH + 1)).astype(np.int32)
        weights = np.ones((EXAMPLES, LENGTH), np.float32)
        arrays = {'inputs': rows[:, :-1], 'targets': rows[:, 1:], 'loss_weights': weights}
        examples = Poisoned(arrays, self.fields, fingerprint={'name': 'pairs'}, rows=self.nan_examples)
        return batches.Batches(examples, rows=self.batch, seed=seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(model.Model):
    """Predicts the next token from the last alone."""

    vocab: config.Positive = VOCAB

    def build(self, name: str | None = None) -> nn.Module:
        return TableModule(self, name=name)


class TableModule(nn.Module):
    config: Table

    @nn.compact
    def __call__(self, batch):
        table = {'vocab': self.config.vocab, 'embed': WIDTH}
        table_VD = weights.weight(self, 'table', table, init=weights.FanIn(), inputs=('embed',), dtype=jnp.float32)
        x_BTD = sharding.constrain(table_VD[batch['inputs']], 'batch', 'length', 'embed')
        return {'logits': jnp.einsum('BTD,VD->BTV', x_BTD, table_VD)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens(objective.Objective):
    """Mean cross-entropy over the tokens."""

    def __call__(self, apply, batch, *, train, rngs):
        outputs, auxiliary = apply(batch, train=train, rngs=rngs)
        loss_BT, _ = language.cross_entropy(outputs['logits'], batch['targets'])
        return objective.Outcome.of(Mean.weighted(loss_BT, objective.position_weights(batch)), {}, auxiliary)


def experiment() -> Experiment:
    return Experiment(
        name='small',
        steps=4,
        data=Pairs(batch=2),
        model=Table(),
        objective=Tokens(),
        optimizer=optimizers.Sgd(schedule=schedules.WarmupCosine(peak=1e-2, warmup_steps=2), momentum=0.0),
        mesh=sharding.MeshShape(data=-1),
        checkpoints=Checkpoints(every_steps=2, keep_last=1),
        watch=Watch(log_every=2, fingerprints_every=4),
    )


def evaluated(every_steps: int) -> Experiment:
    """With an evaluation, of which the best checkpoint can be kept."""
    held_out = loss.Loss(data=Pairs(batch=2), every_steps=every_steps, max_batches=2)
    return config.vary(experiment(), {'evaluations': (held_out,)})
