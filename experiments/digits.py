"""A patch Transformer on the handwritten digits that ship with scikit-learn.

Question: are the contracts wide enough for something that is not text? Model and data stand in this file.
Source:   Dosovitskiy et al. (2020), arXiv:2010.11929, section 3.1, on 8 x 8 images (Alpaydin and Kaynak, 1998).
Target:   none published for this split; 96% of the 360 held-out images is what one sees in a minute on a laptop.
Needs:    pip install scikit-learn
Run:      python -m bigmodel_jax train experiments/digits.py --workdir runs/digits
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bigmodel_jax import config
from bigmodel_jax.config import vary
from bigmodel_jax.data import batches
from bigmodel_jax.evaluate import loss
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.kernels import context
from bigmodel_jax.layers import activations, attention, blocks, ffn, norms, positions, stacks
from bigmodel_jax.layers.base import weights
from bigmodel_jax.models import model
from bigmodel_jax.objectives import classification
from bigmodel_jax.optim import optimizers, schedules

SIDE, CLASSES = 8, 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(batches.Data):
    """1,797 images of 8 x 8 pixels; every fifth is held out.

    Batch: 'image' [B, 8, 8] float32 in [0, 1], 'labels' [B] int32.
    """

    batch: config.Positive
    held_out: bool = False

    @property
    def fields(self) -> Mapping[str, batches.Field]:
        return {
            'image': batches.Field((SIDE, SIDE), np.dtype(np.float32), ('height', 'width')),
            'labels': batches.Field((), np.dtype(np.int32), (), CLASSES),
        }

    @property
    def units(self) -> batches.Units:
        return batches.Units('images', 1)

    def build(self, seed: int) -> batches.Batches:
        try:
            from sklearn import datasets  # An extra.
        except ModuleNotFoundError as error:
            raise config.InputError('The digits come with scikit-learn: pip install scikit-learn.') from error
        images, labels = datasets.load_digits(return_X_y=True)
        mine = (np.arange(len(labels)) % 5 == 0) == self.held_out
        arrays = {
            'image': (images[mine].reshape(-1, SIDE, SIDE) / 16).astype(np.float32),
            'labels': labels[mine].astype(np.int32),
        }
        fingerprint = {'name': 'scikit-learn digits', 'held_out': self.held_out}
        examples = batches.ArrayExamples(arrays, self.fields, fingerprint=fingerprint)
        return batches.Batches(examples, rows=self.batch, seed=seed)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PatchTransformer(model.Model):
    """Patches as tokens, bidirectional blocks, and the mean of the tokens as the image's vector."""

    patch: config.Positive  # Side of a patch, in pixels.
    width: config.Positive
    layers: config.Positive
    block: blocks.Block

    def build(self, name: str | None = None) -> nn.Module:
        return PatchTransformerModule(self, name=name)

    def check(self, fields: Mapping[str, batches.Field]) -> None:
        side = model.need(fields, 'image', 'PatchTransformer').shape[0]
        if side % self.patch:
            raise config.InputError(f'model.patch={self.patch} does not divide the {side} pixels of a side.')
        self.block.check(self.width, (side // self.patch) ** 2)

    def outputs(self, fields: Mapping[str, batches.Field]) -> Mapping[str, model.Output]:
        return {'logits': model.Output((CLASSES,), ('classes',), np.dtype(np.float32))}


class PatchTransformerModule(nn.Module):
    """Owns the projection of patches, the positions, the blocks, a norm and the output matrix."""

    config: PatchTransformer

    @nn.compact
    def __call__(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        """{'logits': [B, classes] float32}."""
        c, images = self.config, batch['image']
        rows, count = images.shape[0], SIDE // c.patch
        patches_BTP = images.reshape(rows, count, c.patch, count, c.patch).swapaxes(2, 3).reshape(rows, count**2, -1)
        axes = {'patch': c.patch**2, 'embed': c.width}
        project_PD = weights.weight(self, 'project', axes, init=weights.FanIn(), inputs=('patch',), dtype=jnp.float32)
        x_BTD = jnp.einsum('BTP,PD->BTD', patches_BTP, project_PD)
        x_BTD = positions.Learned(length=count**2).build('positions').embed(x_BTD, None)
        here = jnp.arange(count**2)[None]
        x_BTD, _ = stacks.Stack().build((c.block,), c.layers, 'blocks')(x_BTD, context.Context(here, here))
        x_BD = norms.LayerNorm().build('norm')(x_BTD).mean(axis=1)
        axes = {'embed': c.width, 'classes': CLASSES}
        output_DV = weights.weight(self, 'output', axes, init=weights.FanIn(), inputs=('embed',), dtype=jnp.float32)
        return {'logits': jnp.einsum('BD,DV->BV', x_BD, output_DV)}


def experiment() -> Experiment:
    return Experiment(
        name='digits',
        steps=600,
        data=Digits(batch=64),
        model=PatchTransformer(
            patch=2,
            width=64,
            layers=3,
            block=blocks.Block(
                mixer=attention.Attention(heads=4, causal=False),
                ffn=ffn.Mlp(hidden=128, activation=activations.Gelu()),
                residual=blocks.PreNorm(norm=norms.LayerNorm(), dropout=0.1),
            ),
        ),
        objective=classification.Classification(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupCosine(peak=2e-3, warmup_steps=50), weight_decay=0.05, clip_norm=1.0
        ),
        evaluations=(loss.Loss(data=Digits(batch=64, held_out=True), every_steps=200),),
        checkpoints=Checkpoints(every_steps=200, keep_best='validation/loss'),
    )


def smoke() -> Experiment:
    """Seconds on a laptop: shows that the pieces fit."""
    tiny = {'steps': 20, 'optimizer.schedule.warmup_steps': 5, 'model.layers': 1, 'watch.log_every': 5}
    return vary(experiment(), tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
