"""Classification of images by a small network of plain Flax, with a fifth of the images held out.

Data:     an .npz file with `images` [n, 8, 8] of bytes and `labels` [n]. For a folder with a folder of PNG or JPEG
          files for each class, write sources.ImageFolder(path=path, part=part) in place of sources.Npz.
Run:      python -m bigmodel_jax train experiments/first_week/image_arrays.py --arg path=FILE.npz --workdir runs/images
"""

import dataclasses
import pathlib

from flax import linen as nn

from bigmodel_jax.config import vary
from bigmodel_jax.data import sources, splits
from bigmodel_jax.data.vision import images
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Experiment
from bigmodel_jax.models import model
from bigmodel_jax.objectives import classification
from bigmodel_jax.optim import optimizers, schedules


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvNet(model.Model):
    def build(self, name: str | None = None) -> nn.Module:
        return ConvNetModule(name=name)


class ConvNetModule(nn.Module):
    @nn.compact
    def __call__(self, batch):
        return {'logits': nn.Dense(2)(nn.relu(nn.Conv(16, (3, 3))(batch['image'])).mean(axis=(1, 2)))}


def experiment(path: str = 'data/shapes.npz') -> Experiment:
    train, validation = (sources.Npz(path=path, part=part) for part in splits.both(held_out=0.2))
    data = images.Images(source=train, image='images', label='labels', shape=(8, 8, 1), classes=2, batch=16)
    return Experiment(
        name='image_arrays', steps=500, data=data, model=ConvNet(), objective=classification.Classification(),
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=1e-2)),
        evaluations=(loss.Loss(data=vary(data, {'source': validation}), every_steps=100),))  # fmt: skip


def smoke() -> Experiment:
    """Seconds, on the file beside this one."""
    return vary(experiment(str(pathlib.Path(__file__).parent / 'data' / 'shapes.npz')), {'steps': 4})
