"""The loss asks the host for a random number, another one each time."""

import dataclasses

import base
import jax
import numpy as np

from bigmodel_jax.config import vary
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.objectives import language
from bigmodel_jax.objectives.objective import Apply, Outcome
from bigmodel_jax.objectives.rngs import Rngs

NUMBER = jax.ShapeDtypeStruct((), np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noisy(language.LanguageModel):
    def __call__(self, apply: Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Rngs) -> Outcome:
        outcome = super().__call__(apply, batch, train=train, rngs=rngs)
        noise = jax.pure_callback(lambda: np.float32(1 + np.random.default_rng().random()), NUMBER)
        return outcome._replace(loss=outcome.loss._replace(total=outcome.loss.total * noise))


def experiment() -> Experiment:
    return vary(base.experiment(), {'objective': Noisy()})


smoke = experiment
