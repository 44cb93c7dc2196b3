"""ViT as published: pretraining at 224 x 224 pixels, and fine-tuning at 384 with interpolated positions.

Question: are these the paper's models and recipes, number by number?
Source:   Dosovitskiy et al. (2020), arXiv:2010.11929. Counts are those with a matrix for 1,000 classes at its end.
Target:   accuracies on ImageNet 85.30 +- 0.02 for L/16 pretrained on ImageNet-21k, 87.76 +- 0.03 and 88.55 +- 0.04 for
          L/16 and H/14 pretrained on JFT-300M, which was never released (table 2).
Data:     TFDS imagenet2012, prepared from the files of image-net.org.
Run:      python -m bigmodel_jax train experiments/vit2020.py --workdir gs://BUCKET/vit
          ... experiments/vit2020.py:finetune --arg pretrained=gs://BUCKET/vit --workdir gs://BUCKET/vit384
          ... experiments/vit2020.py:sweep/H14 ...: a model of another size
Check:    python -m bigmodel_jax check experiments/vit2020.py
          python -m bigmodel_jax train experiments/vit2020.py:smoke --workdir /tmp/vit_smoke
"""

from typing import Any, NamedTuple

from bigmodel_jax import claims
from bigmodel_jax.config import vary
from bigmodel_jax.data import sources
from bigmodel_jax.data.vision import augmentations, drawn, images, transforms
from bigmodel_jax.evaluate import classes, loss
from bigmodel_jax.evaluate.vision import image_gallery
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.models import vit
from bigmodel_jax.objectives import classification
from bigmodel_jax.optim import ema, optimizers, schedules
from bigmodel_jax.train import initial_state

NORMALIZE = transforms.Normalize(mean=(0.5,), deviation=(0.5,))  # Pixels in [-1, 1].
UNRELEASED = 'JFT-300M, on which it was pretrained, was never released'
PRETRAINED = 'it was pretrained on ImageNet-21k'
EPOCH = 1_281_167 // 4_096


class Row(NamedTuple):
    """A size of table 1, with the exact count."""

    model: vit.Vit
    parameters: int
    printed: str  # The number of parameters.
    layers: int
    width: int
    hidden: int
    heads: int
    accuracy: float | None = None  # Table 2, in %.
    missing: str = ''


ROWS = {
    'B16': Row(vit.VIT_B16, 86_567_656, '86M', 12, 768, 3_072, 12),
    'B32': Row(vit.VIT_B32, 88_224_232, '86M', 12, 768, 3_072, 12),
    'L16': Row(vit.VIT_L16, 304_326_632, '307M', 24, 1_024, 4_096, 16, 85.30, PRETRAINED),
    'L32': Row(vit.VIT_L32, 306_535_400, '307M', 24, 1_024, 4_096, 16),
    'H14': Row(vit.VIT_H14, 632_045_800, '632M', 32, 1_280, 5_120, 16, 88.55, UNRELEASED),
}


def imagenet(split: str, *made: Any, side: int, batch: int) -> images.Images:
    source = sources.Tfds(name='imagenet2012', split=split)
    return images.Images(
        source=source, shape=(side, side, 3), classes=1_000, batch=batch, transforms=(*made, NORMALIZE)
    )


def both(*, side: int, batch: int) -> tuple[images.Images, images.Images]:
    """Training and validation data."""
    augment = augmentations.RandomResizedCrop(size=(side, side)), transforms.RandomFlip()
    middle = augmentations.ResizeShorter(side=side * 256 // 224), transforms.CenterCrop(size=(side, side))
    test = imagenet('validation', *middle, side=side, batch=batch)
    return imagenet('train', *augment, side=side, batch=batch), test


def pretrain(name: str) -> Experiment:
    """Section 4.1: Adam with a large weight decay, a batch of 4,096, a linear warm-up and decay."""
    row = ROWS[name]
    train, test = both(side=224, batch=4_096)
    # Of the head of fine-tuning, a single matrix.
    count = claims.Parameters(
        where='table 1', value=row.parameters, printed=row.printed, without=('head', 'head_bias')
    )
    sizes = {'layers': row.layers, 'width': row.width, 'block.ffn.hidden': row.hidden, 'block.mixer.heads': row.heads}
    recipe = {'data.batch': 4_096, 'optimizer.b1': 0.9, 'optimizer.b2': 0.999, 'optimizer.weight_decay': 0.1}
    found: list[claims.Claim] = [count]
    found += [claims.Setting(where='table 1', path=f'model.{path}', value=value) for path, value in sizes.items()]
    found += [claims.Setting(where='4.1', path=path, value=value) for path, value in recipe.items()]
    if row.accuracy is not None:
        wrong = round(100 - row.accuracy, 2)
        found.append(
            claims.Measured(where='table 2', metric='test/error', value=wrong, tolerance=0.04, missing=row.missing)
        )
    return Experiment(
        name=name,
        steps=300 * EPOCH,
        data=train,
        model=vary(row.model, {'head': row.width, 'dropout': 0.1, 'block.residual.dropout': 0.1}),
        objective=classification.Classification(),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupLinear(peak=1e-3, warmup_steps=10_000), weight_decay=0.1, clip_norm=1.0
        ),
        evaluations=(
            loss.Loss(data=test, every_steps=10 * EPOCH),
            classes.Classes(data=test, every_steps=30 * EPOCH, showing=image_gallery.ImageGallery()),
        ),
        checkpoints=Checkpoints(every_steps=5 * EPOCH),
        workers=32,
        claims=tuple(found),
    )


def experiment() -> Experiment:
    return vary(pretrain('B16'), {'name': 'vit2020'})


def sweep() -> dict[str, Experiment]:
    """The sizes of table 1."""
    return {name: pretrain(name) for name in ROWS}


def finetune(pretrained: str = 'runs/vit2020', size: str = 'B16', side: int = 384) -> Experiment:
    """Section 4.1: SGD with momentum, a batch of 512, at a higher resolution, with a new matrix of zeros at the end."""
    row = ROWS[size]
    train, test = both(side=side, batch=512)
    before, after = 224 // row.model.patch, side // row.model.patch
    recipe = {'data.batch': 512, 'optimizer.momentum': 0.9}
    return Experiment(
        name=f'{size}_{side}',
        steps=20_000,
        data=train,
        model=vary(row.model, {'positions.length': after**2 + 1}),
        objective=classification.Classification(),
        optimizer=optimizers.Sgd(
            schedule=schedules.WarmupCosine(peak=0.03, warmup_steps=500), momentum=0.9, clip_norm=1.0
        ),
        initialization=initial_state.FromOtherResolution(
            run=pretrained, without=('classes.*',), before=(before, before), after=(after, after)
        ),
        ema=ema.Ema(decay=0.9999),
        evaluations=(
            loss.Loss(data=test, every_steps=1_000),
            classes.Classes(data=test, every_steps=5_000, showing=image_gallery.ImageGallery()),
        ),
        checkpoints=Checkpoints(every_steps=1_000),
        workers=32,
        claims=tuple(claims.Setting(where='4.1', path=path, value=value) for path, value in recipe.items()),
    )


def smoke() -> Experiment:
    """Seconds: stripes of 16 x 16 pixels, and two layers."""
    source = drawn.Gratings(count=64, shape=(20, 18, 3), classes=6)
    data = {'source': source, 'shape': (16, 16, 3), 'classes': 6, 'batch': 16}
    test = {**data, 'source': vary(source, {'count': 20, 'first': 1_000})}
    crops = {'transforms.0.side': 18, 'transforms.1.size': (16, 16)}
    tiny = {
        'name': 'vit_smoke',
        **{f'data.{path}': value for path, value in data.items()},
        **{f'evaluations.{i}.data.{path}': value for i in (0, 1) for path, value in (test | crops).items()},
        'data.transforms.0.size': (16, 16),
        'model': vit.vit(patch=4, width=16, layers=2, heads=2, image=16, classes=6, head=8),
        'steps': 12,
        'optimizer.schedule.warmup_steps': 4,
        'evaluations.0.every_steps': 6,
        'evaluations.1.every_steps': 12,
        'checkpoints.every_steps': 6,
        'workers': 1,
        'watch.log_every': 2,
        'claims': (),
    }
    return vary(experiment(), tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
