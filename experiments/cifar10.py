"""AlexNet, ResNet and ViT, small and of equally many parameters, on 5,000 images of CIFAR-10: one paired sweep.

Question: which of three ideas of a decade (convolutions, residual blocks with batch norm, attention over patches)
          learns most from few images, with about equal parameters (149,450, 155,274 and 158,090 of ResNet, AlexNet and
          ViT), and the same batches, steps and optimizer? `--show` says that the ViT computes 1.9 times as much.
Source:   Krizhevsky et al. (2012); He et al. (2015), arXiv:1512.03385; Dosovitskiy et al. (2020), arXiv:2010.11929.
          The networks are theirs in form, but for their widths; AlexNet's kernels are of 3 x 3 for images of 32 x 32.
Target:   none is published at this size. Dosovitskiy et al. find that a ViT needs more images than a ResNet (figure 3).
Data:     TFDS cifar10; or, with --arg path=DIR, a folder with the folders train and test of images, a folder for each
          class. 5,000 training images are for training and 1,000 others for validation.
Reached:  after 5 epochs, of the 10,000 test images wrong, mean and deviation of 3 seeds: ResNet 48.2 +- 0.9%, AlexNet
          55.5 +- 1.1%, ViT 63.8 +- 1.2%; AlexNet is worse than ResNet by 7.3 points (95% from 6.4 to 8.2, p = 0.0015
          after Holm's correction), ViT by 15.6 (11.8 to 19.5, p = 0.0033). The nine trials took 12 minutes of processor
          time of an AMD EPYC (Zen 4), jax 0.10.2.
Compare:  only the arms with one another, and only this early: they share parameters, batches, steps and optimizer, but
          one learning rate for all, which none was tuned for, and the ViT computes more. After 390 steps no arm has
          converged, and published errors (whole data set, hundreds of epochs) are a tenth of these.
Run:      python experiments/cifar10.py sweep --engine local
          python experiments/cifar10.py sweep --engine local --arg path=DIR
"""

from typing import Any

from bigmodel_jax.config import vary
from bigmodel_jax.data import records, sources, splits
from bigmodel_jax.data.vision import drawn, images, transforms
from bigmodel_jax.evaluate import classes, loss
from bigmodel_jax.evaluate.vision import image_gallery
from bigmodel_jax.experiment import Checkpoints, Experiment, Watch
from bigmodel_jax.layers import convolution, stacks
from bigmodel_jax.models import alexnet, resnet, vit
from bigmodel_jax.objectives import classification
from bigmodel_jax.optim import optimizers, schedules
from bigmodel_jax.sweeps import arms
from bigmodel_jax.sweeps.sweep import Sweep

NAMES = ('airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck')
BATCH, EPOCH, EPOCHS = 64, 5_000 // 64, 5
NORMALIZE = transforms.Normalize(mean=(0.4914, 0.4822, 0.4465), deviation=(0.247, 0.2435, 0.2616))


def small_alexnet() -> alexnet.AlexNet:
    """Five convolutions and two wide layers, as in the paper."""
    pool = convolution.MaxPool()

    def stage(channels: int, *after: convolution.ImageLayer) -> alexnet.Stage:
        return alexnet.Stage(filters=convolution.Convolution(channels=channels, bias=True), after=after)

    stages = stage(24, pool), stage(48, pool), stage(64), stage(64), stage(48, pool)
    return alexnet.AlexNet(stages=stages, hidden=(96, 96), classes=10, dropout=0.1)


RESNET = resnet.cifar_resnet(8, channels=(24, 48, 88), **{'block.channels': 24, 'stem.pool': convolution.MaxPool()})
VIT = vit.vit(patch=4, width=64, layers=3, heads=4, image=32, classes=10, stack=stacks.Stack(scan=False))


def parts(path: str) -> tuple[records.Source, records.Source, records.Source]:
    """The images for training, validation and the test."""
    if path:
        chosen = (('train', splits.Train(held_out=0.9)), ('train', splits.Validation(held_out=0.02)), ('test', None))
        folders = [sources.ImageFolder(path=f'{path}/{name}', part=part) for name, part in chosen]
        return folders[0], folders[1], folders[2]
    names = 'train[:5000]', 'train[49000:]', 'test'
    train, validation, test = (sources.Tfds(name='cifar10', split=name) for name in names)
    return train, validation, test


def experiment(path: str = '') -> Experiment:
    """The baseline: a ResNet."""
    train, validation, test = (
        images.Images(source=source, shape=(32, 32, 3), classes=10, batch=BATCH, transforms=(NORMALIZE,))
        for source in parts(path)
    )
    return Experiment(
        name='cifar10',
        steps=EPOCHS * EPOCH,
        data=vary(train, {'transforms': (transforms.RandomCrop(padding=4), transforms.RandomFlip(), NORMALIZE)}),
        model=RESNET,
        objective=classification.Classification(label_smoothing=0.1),
        optimizer=optimizers.AdamW(
            schedule=schedules.WarmupCosine(peak=2e-3, warmup_steps=EPOCH), weight_decay=0.05, clip_norm=1.0
        ),
        evaluations=(
            loss.Loss(data=validation, every_steps=2 * EPOCH),
            classes.Classes(
                data=test, every_steps=EPOCHS * EPOCH, names=NAMES, showing=image_gallery.ImageGallery()
            ),
        ),
        checkpoints=Checkpoints(every_steps=2 * EPOCH),
        watch=Watch(log_every=39),
    )


def sweep(path: str = '') -> Sweep:
    changes: dict[str, dict[str, Any]] = {'resnet': {}, 'alexnet': {'model': small_alexnet()}, 'vit': {'model': VIT}}
    arms_of = arms.named(experiment(path), changes)
    return Sweep(arms=arms_of, baseline='resnet', metric='test/error', seeds=(0, 1, 2))


def smoke() -> Experiment:
    """Seconds: the ViT with one layer, on stripes."""
    source = drawn.Gratings(count=64, shape=(32, 32, 3), classes=10)
    test = vary(source, {'count': 20, 'first': 1_000})
    tiny = {
        'data.source': source,
        'data.batch': 16,
        'evaluations.0.data.source': test,
        'evaluations.1.data.source': test,
        'model.layers': 1,
        'steps': 8,
        'optimizer.schedule.warmup_steps': 2,
        'evaluations.0.every_steps': 4,
        'evaluations.1.every_steps': 8,
        'checkpoints.every_steps': 8,
        'watch.log_every': 2,
    }
    return vary(sweep()['vit'], tiny)


if __name__ == '__main__':
    from bigmodel_jax.__main__ import main

    raise SystemExit(main(__file__))
