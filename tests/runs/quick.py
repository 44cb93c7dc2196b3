"""An experiment whose step compiles in a second: an embedding, two stacked layers with dropout, cross-entropy."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

import tiny
from bigmodel_jax import config
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.layers.base import dropout, weights
from bigmodel_jax.models import model
from bigmodel_jax.objectives import language, objective
from bigmodel_jax.objectives.objective import Mean
from bigmodel_jax.optim import anomaly_policy, optimizers, schedules
from bigmodel_jax.parallel import sharding

STEPS, LAYERS, WIDTH = 6, 2, 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layered(model.Model):
    """Predicts the next token from the last alone."""

    vocab: config.Positive = tiny.VOCAB
    dtype: Literal['float32', 'bfloat16'] = 'float32'

    def build(self, name: str | None = None) -> nn.Module:
        return LayeredModule(self, name=name)


class LayeredModule(nn.Module):
    config: Layered

    @nn.compact
    def __call__(self, batch):
        dtype, init = jnp.dtype(self.config.dtype), weights.FanIn()
        table = {'vocab': self.config.vocab, 'embed': WIDTH}
        stack = {'layers': LAYERS, 'embed': WIDTH, 'hidden': WIDTH}
        table_VD = weights.weight(self, 'table', table, init=init, inputs=('embed',), dtype=dtype)
        mix_LDF = weights.weight(self, 'mix', stack, init=init, inputs=('embed',), dtype=dtype)
        x_BTD = table_VD[batch['inputs']]
        for layer in range(LAYERS):
            x_BTD = x_BTD + dropout.drop(self, jnp.tanh(x_BTD @ mix_LDF[layer]), 0.1)
        x_BTD = sharding.constrain(x_BTD, 'batch', 'length', 'embed')
        return {'logits': jnp.einsum('BTD,VD->BTV', x_BTD, table_VD)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokens(objective.Objective):
    """Mean cross-entropy over the tokens of weight 1."""

    def __call__(self, apply, batch, *, train, rngs):
        outputs, auxiliary = apply(batch, train=train, rngs=rngs)
        loss_BT, _ = language.cross_entropy(outputs['logits'], batch['targets'])
        weights_BT = objective.position_weights(batch)
        loss = Mean.weighted(loss_BT, weights_BT)
        return objective.Outcome.of(loss, {'tokens': Mean.of(weights_BT.sum())}, auxiliary)

    def per_example(self, apply, batch, *, train, rngs):
        outputs, _ = apply(batch, train=train, rngs=rngs)
        loss_BT, _ = language.cross_entropy(outputs['logits'], batch['targets'])
        return jax.vmap(objective.mean)(loss_BT, objective.position_weights(batch))


def experiment() -> Experiment:
    return Experiment(
        name='quick',
        steps=STEPS,
        data=tiny.Counting(batch=8),
        model=Layered(),
        objective=Tokens(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=1e-2, warmup_steps=2)),
        mesh=sharding.MeshShape(data=1),
        checkpoints=Checkpoints(every_steps=100),
        watch=Watch(log_every=2, fingerprints_every=2),
    )


def rolling_back() -> Experiment:
    """One example is nan, and the run rolls back before it."""
    changes = {'data.nan_example': 3, 'watch.anomalies': anomaly_policy.RollBack(), 'watch.log_every': 1}
    return config.vary(experiment(), {**changes, 'steps': 10, 'checkpoints.every_steps': 4, 'checkpoints.keep_last': 9})
