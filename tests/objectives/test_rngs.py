"""Training mode is an argument, and random streams have names: each key follows from (seed, step) and the name."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.objectives import classification, objective, rngs
from bigmodel_jax.objectives.objective import Mean
from bigmodel_jax.train import step

BATCH = {
    'image': np.arange(24, dtype=np.float32).reshape(4, 6),
    'labels': np.array([0, 1, 1, 0]),
    'example_weights': np.ones(4, np.float32),
}


@pytest.fixture
def key():
    return step.key(3, 7)


class WithArgument(nn.Module):
    @nn.compact
    def __call__(self, batch, train: bool):
        x = nn.BatchNorm(use_running_average=not train)(batch['image'])
        return {'logits': nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))}


class ByStream(nn.Module):
    @nn.compact
    def __call__(self, batch):
        train = self.has_rng('dropout')
        x = nn.BatchNorm(use_running_average=not train)(batch['image'])
        return {'logits': nn.Dense(2)(nn.Dropout(0.5, deterministic=not train)(x))}


def outcome(module, train):
    variables = WithArgument().init(jax.random.key(0), BATCH, train=False)
    apply = objective.Apply(module, variables['params'], {'batch_stats': variables['batch_stats']})
    return classification.Classification()(apply, BATCH, train=train, rngs=rngs.Rngs(step.key(3, 7)))


def test_modules_with_the_argument_and_modules_that_look_for_the_stream_do_the_same():
    for train in (True, False):
        jax.tree.map(np.testing.assert_array_equal, outcome(WithArgument(), train), outcome(ByStream(), train))
    assert outcome(ByStream(), True).loss.total != outcome(ByStream(), False).loss.total


def test_dropout_has_the_key_of_the_step_and_every_other_stream_one_of_its_own(key):
    every = rngs.Rngs(key, tuple(rngs.FOLDED_WITH))
    assert (every['dropout'] == key).all()
    for part in range(4):  # As step.gradient() numbers the microbatches.
        assert (every.fold_in(part)['dropout'] == jax.random.fold_in(key, part)).all()
    keys = [each[name] for each in (every, *map(every.fold_in, range(4))) for name in every]
    assert len({jax.random.key_data(key).tobytes() for key in keys}) == 5 * len(rngs.FOLDED_WITH)


def test_a_stream_that_is_unknown_or_not_declared_is_refused(key):
    with pytest.raises(config.InputError, match="no random stream 'nosie'; the streams are dropout, mask, noise, time"):
        rngs.Rngs(key)['nosie']
    with pytest.raises(config.InputError, match=r"'noise' is not declared.*`streams = \('dropout', 'noise'\)`"):
        rngs.Rngs(key)['noise']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoising(objective.Objective):
    """Draws noise itself, and gives it to a module that draws some too."""

    streams = ('dropout', 'noise')

    def __call__(self, apply, batch, *, train, rngs):
        noise = jax.random.normal(rngs['noise'], batch['image'].shape)
        outputs, auxiliary = apply(noise, train=train, rngs=rngs)
        return objective.Outcome.of(Mean.of(outputs.sum()), {}, auxiliary)


class Noisy(nn.Module):
    def __call__(self, x):
        assert self.has_rng('noise')
        return x + jax.random.normal(self.make_rng('noise'), x.shape) + self.has_rng('dropout')


def test_noise_is_drawn_in_evaluation_too_but_dropout_is_not():
    def loss(number, train):
        apply = objective.Apply(Noisy(), {}, {})
        found = Denoising()(apply, BATCH, train=train, rngs=rngs.Rngs(number, Denoising.streams))
        return float(found.loss.total)

    first, again, second = (loss(rngs.evaluation_key(3, number), False) for number in (0, 0, 1))
    assert first == again != second
    assert loss(rngs.evaluation_key(3, 0), True) == pytest.approx(first + BATCH['image'].size)
