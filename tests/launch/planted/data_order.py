"""The order of the examples is that of a set, which differs from host to host."""

import dataclasses

import base
import numpy as np

from bigmodel_jax.config import vary
from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unsorted(base.Counting):
    def build(self, seed: int) -> batches.Batches:
        names = {f'shard-{number}' for number in range(base.EXAMPLES)}
        order = [int(name.removeprefix('shard-')) for name in names]
        arrays = {name: array[np.array(order)] for name, array in self.arrays().items()}
        examples = batches.ArrayExamples(arrays, self.fields, fingerprint={'name': 'unsorted'})
        return batches.Batches(examples, rows=self.batch, seed=seed)


def experiment() -> Experiment:
    return vary(base.experiment(), {'data': Unsorted(batch=16)})


smoke = experiment
