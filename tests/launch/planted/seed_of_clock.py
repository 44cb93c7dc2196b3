"""The seed depends on the time."""

import time

import base

from bigmodel_jax.config import vary
from bigmodel_jax.experiment import Experiment


def experiment() -> Experiment:
    return vary(base.experiment(), {'seed': int(time.time())})


def smoke() -> Experiment:
    return base.experiment()
