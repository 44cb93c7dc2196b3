"""Latent diffusion of clothes: an autoencoder of Fashion-MNIST, and a UNet that is trained on its latents.

Question: how does one train a diffusion model in the latents of an autoencoder of one's own?
Source:   Rombach et al. (2022), arXiv:2112.10752, section 3; Ho et al. (2020), arXiv:2006.11239, for the objective;
          Xiao et al. (2017), arXiv:1708.07747, for the images. The autoencoder has neither attention nor an adversarial
          or perceptual loss.
Data:     TFDS fashion_mnist, or a folder with the four files of the authors, such as that of Debian's package
          dataset-fashion-mnist, /usr/share/datasets/fashion-mnist.
Run:      python -m bigmodel_jax train experiments/latent_fashion.py --workdir runs/autoencoder
          python -m bigmodel_jax train experiments/latent_fashion.py:latent --arg autoencoder=runs/autoencoder \
            --workdir runs/latent_fashion
"""

from bigmodel_jax.config import vary
from bigmodel_jax.data import sources
from bigmodel_jax.data.vision import drawn, idx_files, images, transforms
from bigmodel_jax.evaluate import loss
from bigmodel_jax.evaluate.diffusion import image_samples, samplers
from bigmodel_jax.experiment import Checkpoints, Experiment
from bigmodel_jax.layers import norms
from bigmodel_jax.models.diffusion import autoencoder as autoencoders
from bigmodel_jax.models.diffusion import unet
from bigmodel_jax.objectives.diffusion import autoencoding, diffusion
from bigmodel_jax.optim import ema, optimizers, schedules
from bigmodel_jax.train.weights import latents

BATCH, EPOCH = 128, 60_000 // 128
SCALED = transforms.Normalize(mean=(0.5,), deviation=(0.5,))
NORM = norms.GroupNorm(groups=8, epsilon=1e-6)


def part(path: str, name: str) -> images.Images:
    """The images of 'train' or 'test'."""
    if path:
        file = {'train': 'train', 'test': 't10k'}[name]
        pictures, labels = (f'{path}/{file}-{what}-ubyte.gz' for what in ('images-idx3', 'labels-idx1'))
        source: idx_files.Idx | sources.Tfds = idx_files.Idx(images=pictures, labels=labels)
    else:
        source = sources.Tfds(name='fashion_mnist', split=name)
    return images.Images(source=source, shape=(28, 28, 1), classes=10, batch=BATCH, transforms=(SCALED,))


def experiment(path: str = '') -> Experiment:
    """The autoencoder: 28 x 28 pixels as 7 x 7 latents of 4 channels."""
    return Experiment(
        name='autoencoder',
        steps=2 * EPOCH,
        data=part(path, 'train'),
        model=autoencoders.Autoencoder(channels=(16, 32, 64), norm=NORM, image_channels=1),
        objective=autoencoding.Autoencoding(),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=2e-3, warmup_steps=100), clip_norm=1.0),
        evaluations=(loss.Loss(data=part(path, 'test'), every_steps=EPOCH, name='test'),),
        checkpoints=Checkpoints(every_steps=EPOCH),
    )


def latent(autoencoder: str, path: str = '') -> Experiment:
    """Diffusion in the latents of the run of an autoencoder, by class."""
    train, test = (
        latents.Latents(
            images=part(path, name),
            autoencoder=latents.TrainedAutoencoder(run=autoencoder),
            training=part(path, 'train'),
            shape=(7, 7, 4),
            batch=BATCH,
        )
        for name in ('train', 'test')
    )
    sampler = samplers.Ddim(steps=50, clip=4.0)  # Latents have a deviation of 1, and reach farther than pixels.
    return Experiment(
        name='latent_fashion',
        steps=8 * EPOCH,
        data=train,
        model=unet.UNet(channels=(96,), attending=(0,), norm=NORM, image_channels=4, classes=10),
        objective=diffusion.Diffusion(label_dropout=0.1),
        optimizer=optimizers.AdamW(schedule=schedules.WarmupCosine(peak=1e-3, warmup_steps=200), clip_norm=1.0),
        ema=ema.Ema(decay=0.999),
        evaluations=(
            loss.Loss(data=test, every_steps=EPOCH, name='test'),
            image_samples.ImageSamples(sampler=sampler, every_steps=4 * EPOCH, decoder=latents.LatentDecoder()),
        ),
        checkpoints=Checkpoints(every_steps=EPOCH),
    )


def smoke() -> Experiment:
    """Seconds: the autoencoder of stripes of 8 x 8 pixels."""
    source = drawn.Gratings(count=64, shape=(8, 8, 1), classes=3)
    tiny = {'source': source, 'shape': (8, 8, 1), 'classes': 3, 'batch': 16}
    changes = {
        **{f'data.{name}': value for name, value in tiny.items()},
        **{f'evaluations.0.data.{name}': value for name, value in tiny.items()},
        'model.channels': (8, 8),
        'model.norm.groups': 4,
        'steps': 8,
        'optimizer.schedule.warmup_steps': 2,
        'evaluations.0.every_steps': 8,
        'checkpoints.every_steps': 8,
        'watch.log_every': 2,
    }
    return vary(experiment(), changes)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
