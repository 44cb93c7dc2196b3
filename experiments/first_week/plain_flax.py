"""A model of plain Flax layers, with batch norm and dropout, on images; nothing of it knows of a mesh.

Arrays without logical axes are copied to every device; `describe` says so of each.

Data:     as in image_arrays.py, which lies beside this file.
Run:      python -m bigmodel_jax train experiments/first_week/plain_flax.py --arg path=FILE.npz --workdir runs/flax
"""

import dataclasses

import image_arrays
from flax import linen as nn

from bigmodel_jax.config import vary
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.models import model


@dataclasses.dataclass(frozen=True, kw_only=True)
class Perceptron(model.Model):
    width: int = 64

    def build(self, name: str | None = None) -> nn.Module:
        return PerceptronModule(self.width, name=name)


class PerceptronModule(nn.Module):
    width: int

    @nn.compact
    def __call__(self, batch, train: bool):
        x_BP = batch['image'].reshape(batch['image'].shape[0], -1)
        x_BF = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Dense(self.width)(x_BP)))
        return {'logits': nn.Dense(2)(nn.Dropout(0.1, deterministic=not train)(x_BF))}


def experiment(path: str = 'data/shapes.npz') -> Experiment:
    return vary(image_arrays.experiment(path), {'name': 'plain_flax', 'model': Perceptron()})


def smoke() -> Experiment:
    """Seconds, on the file beside this one."""
    return vary(image_arrays.smoke(), {'name': 'plain_flax', 'model': Perceptron()})
