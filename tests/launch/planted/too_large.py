"""A model of 15 billion weights that every chip holds whole."""

import base

from bigmodel_jax.config import vary
from bigmodel_jax.experiment import Experiment


def experiment() -> Experiment:
    return vary(base.experiment(), {'model.width': 16_384, 'model.block.ffn.hidden': 65_536})


smoke = base.smoke
