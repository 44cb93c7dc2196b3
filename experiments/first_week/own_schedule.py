"""A learning-rate schedule of one's own: cosine with warm restarts.

Source:   Loshchilov and Hutter (2016), SGDR, arXiv:1608.03983, equation 5.
Data:     as in text_folder.py, which lies beside this file.
Run:      python -m bigmodel_jax train experiments/first_week/own_schedule.py --arg path=FOLDER --workdir runs/own
"""

import dataclasses

import jax.numpy as jnp
import text_folder

from bigmodel_jax.config import vary
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.optim import schedules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restarts(schedules.Scheduler):
    peak: float
    period: int  # In updates.

    def build(self, steps: int) -> schedules.Schedule:
        return lambda step: 0.5 * self.peak * (1 + jnp.cos(jnp.pi * (step % self.period) / self.period))


def experiment(path: str = 'data/books') -> Experiment:
    own = Restarts(peak=1e-3, period=500)
    return vary(text_folder.experiment(path), {'name': 'own_schedule', 'optimizer.schedule': own})


def smoke() -> Experiment:
    """Seconds, on the files beside this one."""
    return vary(text_folder.smoke(), {'name': 'own_schedule', 'optimizer.schedule': Restarts(peak=1e-3, period=2)})
