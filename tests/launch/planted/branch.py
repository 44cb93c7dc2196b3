"""The first host computes something that the others do not: its program has another sum over all hosts."""

import dataclasses

import base
import jax
import jax.numpy as jnp

from bigmodel_jax.config import vary
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.objectives import language
from bigmodel_jax.objectives.objective import Apply, Outcome
from bigmodel_jax.objectives.rngs import Rngs


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logging(language.LanguageModel):
    def __call__(self, apply: Apply, batch: dict[str, jax.Array], *, train: bool, rngs: Rngs) -> Outcome:
        outcome = super().__call__(apply, batch, train=train, rngs=rngs)
        if jax.process_index() == 0:
            share = jnp.mean(batch['targets'].astype(jnp.float32))
            return outcome._replace(loss=outcome.loss._replace(total=outcome.loss.total + 0.0 * share))
        return outcome


def experiment() -> Experiment:
    return vary(base.experiment(), {'objective': Logging()})


smoke = experiment
