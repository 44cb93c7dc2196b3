"""A random number is taken while the step is traced, and is a constant of another program on each host."""

import dataclasses

import base
import jax
import numpy as np

from bigmodel_jax.config import vary
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.objectives import language
from bigmodel_jax.objectives.objective import Apply, Outcome
from bigmodel_jax.objectives.rngs import Rngs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Jittered(language.LanguageModel):
    def __call__(self, apply: Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Rngs) -> Outcome:
        outcome = super().__call__(apply, batch, train=train, rngs=rngs)
        factor = 1 + 0.01 * float(np.random.default_rng().random())
        return outcome._replace(loss=outcome.loss._replace(total=outcome.loss.total * factor))


def experiment() -> Experiment:
    return vary(base.experiment(), {'objective': Jittered()})


smoke = experiment
