"""A metric of one's own: how often the next token is among the five that the model finds most likely.

It is measured in training and in evaluation, charted in the report, and says in which direction it is better, so that
checkpoints can be kept by it.

Data:     as in text_folder.py, which lies beside this file.
Run:      python -m bigmodel_jax train experiments/first_week/own_metric.py --arg path=FOLDER --workdir runs/own
"""

import dataclasses

import jax
import jax.numpy as jnp
import text_folder

from bigmodel_jax.config import vary
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.layers import embeddings
from bigmodel_jax.objectives import language, objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class WithTopFive(language.LanguageModel):
    directions = {'top5': 'higher'}  # noqa: RUF012  Not a field of the experiment.

    def piece(self, head, x_BTD, targets_BT, weights_BT):
        loss, metrics = super().piece(head, x_BTD, targets_BT, weights_BT)
        best_BTC = jax.lax.top_k(embeddings.unembed(x_BTD, head), 5)[1]
        hits_BT = jnp.any(best_BTC == targets_BT[..., None], axis=-1)
        return loss, metrics | {'top5': objective.Mean.weighted(hits_BT, weights_BT)}


def experiment(path: str = 'data/books') -> Experiment:
    changes = {'name': 'own_metric', 'objective': WithTopFive(), 'checkpoints.keep_best': 'validation/top5'}
    return vary(text_folder.experiment(path), {**changes, 'checkpoints.every_steps': 200})


def smoke() -> Experiment:
    """Seconds, on the files beside this one."""
    best = {'checkpoints.keep_best': 'validation/top5'}
    return vary(text_folder.smoke(), {'name': 'own_metric', 'objective': WithTopFive(), **best})
