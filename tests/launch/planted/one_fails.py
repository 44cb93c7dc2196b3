"""A file that only the first host has is read by all."""

import dataclasses

import base
import jax

from bigmodel_jax.config import vary
from bigmodel_jax.data import batches
from bigmodel_jax.experiment import Experiment


class Missing(batches.ArrayExamples):
    def gather(self, indices, epochs, seed):
        if jax.process_index() == 1:
            raise FileNotFoundError('/data/part-1.bin')
        return super().gather(indices, epochs, seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfTheFirst(base.Counting):
    def build(self, seed: int) -> batches.Batches:
        examples = Missing(self.arrays(), self.fields, fingerprint={'name': 'missing'})
        return batches.Batches(examples, rows=self.batch, seed=seed)


def experiment() -> Experiment:
    return vary(base.experiment(), {'data': OfTheFirst(batch=16)})


smoke = experiment
