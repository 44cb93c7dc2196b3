"""Denoising diffusion models as published: CIFAR-10 of 32 x 32 pixels, CelebA-HQ and LSUN of 256 x 256.

Question: are these the paper's networks and recipes, number by number?
Source:   Ho et al. (2020), arXiv:2006.11239. Sizes and recipe: appendix B; clipping of gradients, warm-up and how
          weights are drawn: the released code.
Target:   CIFAR-10 FID 3.17 and Inception score 9.46 (table 1); FID 7.89, 6.36 and 19.75 of LSUN's churches, bedrooms
          and cats (table 3). These are distances of features of Inception, which is not shipped: `check` shows them as
          such, and a run measures the same distance with features of a classifier of one's own.
Data:     TFDS cifar10; celeb_a_hq/256 and lsun/..., which are prepared by hand.
Run:      python -m bigmodel_jax train experiments/ddpm2020.py --workdir gs://BUCKET/ddpm
          ... experiments/ddpm2020.py --arg extractor=runs/classifier ...: also measures how good the images are
          python -m bigmodel_jax sweep experiments/ddpm2020.py --workdir gs://BUCKET/ddpm
Check:    python -m bigmodel_jax check experiments/ddpm2020.py
          python -m bigmodel_jax train experiments/ddpm2020.py:smoke --workdir /tmp/ddpm_smoke
"""

from typing import NamedTuple

from bigmodel_jax import claims
from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources
from bigmodel_jax.data.transforms import Transform
from bigmodel_jax.data.vision import augmentations, drawn, images, one_class, transforms
from bigmodel_jax.evaluate import evaluation, loss
from bigmodel_jax.evaluate.diffusion import image_samples, samplers
from bigmodel_jax.evaluate.vision.generation import quality
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.models.diffusion import unet
from bigmodel_jax.objectives.diffusion import diffusion
from bigmodel_jax.optim import ema, optimizers, schedules
from bigmodel_jax.train.weights import trained_extractor

# Pixels between -1 and 1.
SCALED = transforms.Normalize(mean=(0.5,), deviation=(0.5,))
INCEPTION = "it is of features of Inception, which is not shipped; 'generation/frechet' is of another extractor"


class Row(NamedTuple):
    """What the paper says of a data set."""

    source: str  # Of TFDS.
    updates: int
    distance: float | None = None  # FID
    flips: bool = True


ROWS = {
    'cifar10': Row('cifar10', 800_000, 3.17),
    'celeba_hq': Row('celeb_a_hq/256', 500_000),
    'church': Row('lsun/church_outdoor', 1_200_000, 7.89),
    'bedroom': Row('lsun/bedroom', 2_400_000, 6.36, flips=False),
    'cat': Row('lsun/cat', 1_800_000, 19.75),
}


def large_images(row: Row, split: str, *changes: Transform) -> images.Images:
    """Images of 256 x 256 pixels."""
    cut = augmentations.ResizeShorter(side=256), transforms.CenterCrop(size=(256, 256))
    return images.Images(
        source=one_class.OneClass(source=sources.Tfds(name=row.source, split=split)),
        shape=(256, 256, 3),
        classes=1,
        batch=64,
        transforms=(*cut, *changes, SCALED),
    )


def small_images(split: str, *changes: Transform) -> images.Images:
    """CIFAR-10."""
    source: records.Source = sources.Tfds(name='cifar10', split=split)
    return images.Images(source=source, shape=(32, 32, 3), classes=10, batch=128, transforms=(*changes, SCALED))


def arm(name: str, extractor: str = '') -> Experiment:
    """The experiment of a data set.

    Args:
      extractor: directory of a run of a classifier of such images, by whose features generated ones are compared with
        the training images; '': they are not.
    """
    row, small = ROWS[name], name == 'cifar10'
    flip = (transforms.RandomFlip(),) if row.flips else ()
    if small:
        train, real, test = small_images('train', *flip), small_images('train'), small_images('test')
    else:
        train, real = large_images(row, 'train', *flip), large_images(row, 'train')
        test = large_images(row, 'train[:1000]' if name == 'cat' else 'validation')  # Of cats there is no other part.
    sampler = samplers.Ddpm(steps=1_000)
    evaluations: tuple[evaluation.Evaluation, ...] = (
        loss.Loss(data=test, every_steps=20_000),
        image_samples.ImageSamples(sampler=sampler, every_steps=100_000),
    )
    if extractor:
        evaluations += (
            quality.GenerationQuality(
                sampler=sampler,
                extractor=trained_extractor.TrainedExtractor(run=extractor),
                real=real,
                every_steps=row.updates,
                count=50_000,
            ),
        )
    rate = 2e-4 if small else 2e-5
    return Experiment(
        name=f'ddpm_{name}',
        steps=row.updates,
        data=train,
        model=unet.UNET_CIFAR10 if small else unet.UNET_256,
        objective=diffusion.Diffusion(),
        optimizer=optimizers.AdamW(schedule=schedules.Constant(peak=rate, warmup_steps=5_000), clip_norm=1.0),
        ema=ema.Ema(decay=0.9999, warmup=False),
        evaluations=evaluations,
        checkpoints=Checkpoints(every_steps=20_000),
        workers=16,
        claims=stated(name, rate),
    )


def stated(name: str, rate: float) -> tuple[claims.Claim, ...]:
    """What the paper says of a data set."""
    row, small = ROWS[name], name == 'cifar10'
    count, printed = (35_746_307, '35.7M') if small else (113_673_219, '114M')
    measured: tuple[tuple[str, float, str], ...] = ()
    measured += (('generation/frechet', row.distance, 'table 1' if small else 'table 3'),) if row.distance else ()
    measured += (('generation/inception_score', 9.46, 'table 1'),) if small else ()
    return (
        claims.Parameters(where='appendix B', value=count, printed=printed),
        claims.Setting(where='section 4', path='objective.schedule.steps', value=1_000),
        claims.Setting(where='section 4', path='objective.schedule.first', value=1e-4),
        claims.Setting(where='section 4', path='objective.schedule.last', value=0.02),
        claims.Setting(where='appendix B', path='data.batch', value=128 if small else 64),
        claims.Setting(where='appendix B', path='model.dropout', value=0.1 if small else 0.0),
        claims.Setting(where='appendix B', path='steps', value=row.updates),
        claims.Setting(where='appendix B', path='ema.decay', value=0.9999),
        claims.LearningRate(where='appendix B', step=row.updates, value=rate),
        *(
            claims.Measured(where=where, metric=metric, value=value, tolerance=0.005, missing=INCEPTION)
            for metric, value, where in measured
        ),
    )


def experiment(extractor: str = '') -> Experiment:
    return arm('cifar10', extractor)


def sweep() -> dict[str, Experiment]:
    """The data sets of tables 1 and 3, and CelebA-HQ."""
    return {name: arm(name) for name in ROWS}


def smoke() -> Experiment:
    """Seconds: stripes of 8 x 8 pixels, a small network, and 10 steps of a sampler."""
    source = drawn.Gratings(count=64, shape=(8, 8, 3), classes=6)
    data = {'source': source, 'shape': (8, 8, 3), 'classes': 6, 'batch': 16}
    test = {**data, 'source': vary(source, {'count': 20, 'first': 1_000})}
    tiny = {
        'name': 'ddpm_smoke',
        **{f'data.{path}': value for path, value in data.items()},
        **{f'evaluations.0.data.{path}': value for path, value in test.items()},
        'model.channels': (8, 8),
        'model.blocks': 1,
        'model.norm.groups': 4,
        'steps': 8,
        'optimizer.schedule.warmup_steps': 2,
        'ema.decay': 0.9,
        'evaluations.0.every_steps': 8,
        'evaluations.1.every_steps': 8,
        'evaluations.1.sampler.steps': 10,
        'evaluations.1.rows': 1,
        'checkpoints.every_steps': 4,
        'workers': 1,
        'watch.log_every': 2,
        'claims': (),
    }
    return vary(experiment(), tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
