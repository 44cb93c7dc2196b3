"""A batch that does not divide over the chips of the slice."""

import base

from bigmodel_jax.config import vary
from bigmodel_jax.experiment import Experiment


def experiment() -> Experiment:
    return vary(base.experiment(), {'data.batch': 12})


smoke = base.smoke
